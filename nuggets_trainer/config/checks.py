"""Checks of option values; the errors name the option."""

from __future__ import annotations

from typing import Any


def check_choice(name: str, value: Any, choices: tuple[str, ...]) -> None:
    """Raise `ValueError` unless the value is one of the choices."""
    if value not in choices:
        raise ValueError(f"`{name}` must be one of {', '.join(choices)}, got {value!r}.")


def check_bool(name: str, value: Any, optional: bool) -> None:
    """Raise `TypeError` unless the value is a truth value (or None, where that is optional)."""
    if value is None and optional:
        return
    if not isinstance(value, bool):
        allowed = "true, false or unset" if optional else "true or false"
        raise TypeError(f"`{name}` must be {allowed}, got {value!r}.")


def check_int(name: str, value: Any, minimum: int) -> None:
    """Raise `TypeError` or `ValueError` unless the value is a whole number of at least the minimum."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"`{name}` must be a whole number, got {value!r} ({type(value).__name__}).")
    if value < minimum:
        raise ValueError(f"`{name}` must be at least {minimum}, got {value}.")


def check_number(name: str, value: Any) -> None:
    """Raise `TypeError` unless the value is a number."""
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise TypeError(f"`{name}` must be a number, got {value!r} ({type(value).__name__}).")


def check_string(name: str, value: Any) -> None:
    """Raise `TypeError` unless the value is a non-empty string or None."""
    if value is not None and (not isinstance(value, str) or not value):
        raise TypeError(f"`{name}` must be a non-empty string or unset, got {value!r}.")
