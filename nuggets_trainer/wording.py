"""How numbers, times, counts and unsafe characters are written for people."""

from __future__ import annotations

import re
from collections.abc import Mapping

# Characters that act on their surroundings: controls except tab and newline, marks that change the direction of the
# text after them, separators that end a line in scripts, and lone surrogates.
ACTING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")


def duration(seconds: float) -> str:
    """Write a time in seconds, minutes, hours or days.

    Example:
        >>> duration(42), duration(190), duration(1200), duration(9000), duration(400_000)
        ('42 s', '3.2 min', '20 min', '2.5 h', '4.6 days')
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 600:
        return f"{seconds / 60:.1f} min"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    if seconds < 48 * 3600:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 86400:.1f} days"


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """Write a count with its noun, singular or plural.

    Args:
        number: the count.
        noun: the noun in the singular.
        plural: the noun in the plural; None adds an "s".

    Example:
        >>> counted(1, "candidate"), counted(2500, "candidate"), counted(0, "entry", "entries")
        ('1 candidate', '2,500 candidates', '0 entries')
    """
    if number != 1:
        noun = plural or f"{noun}s"
    return f"{number:,} {noun}"


def tally(counts: Mapping[str, int]) -> str:
    """Write counts with their names, the largest count first.

    Example:
        >>> tally({"empty": 8, "too_long": 1200})
        'too_long 1,200, empty 8'
    """
    largest_first = sorted(counts.items(), key=lambda item: -item[1])
    return ", ".join(f"{name} {count:,}" for name, count in largest_first)


def rounded(number: float) -> str:
    """Write a large number with three digits and k, M, B or T.

    Example:
        >>> rounded(950), rounded(1_234_000), rounded(7e9)
        ('950', '1.23M', '7B')
    """
    for unit, size in (("T", 1e12), ("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= size:
            return f"{number / size:.3g}{unit}"
    return f"{number:.0f}"


def byte_size(number: float) -> str:
    """Write a number of bytes in bytes, kB, MB or GB.

    Example:
        >>> byte_size(40), byte_size(7200), byte_size(2.5e6), byte_size(3.2e9)
        ('40 bytes', '7.2 kB', '2.5 MB', '3.2 GB')
    """
    for unit, size, smallest in (("GB", 1e9, 1e8), ("MB", 1e6, 1e5), ("kB", 1e3, 1e3)):
        if number >= smallest:
            return f"{number / size:.1f} {unit}"
    return f"{number:.0f} bytes"


def decimal(value: float | None, digits: int = 2, sign: bool = False) -> str:
    """Write a number with a fixed number of digits; a dash for None.

    Example:
        >>> decimal(0.816), decimal(None), decimal(0.5, 3, sign=True), decimal(1234, 0)
        ('0.82', '\u2013', '+0.500', '1,234')
    """
    if value is None:
        return "\u2013"
    text = f"{value:+,.{digits}f}" if sign else f"{value:,.{digits}f}"
    return text.replace("-", "\u2212")


def visible(text: str) -> str:
    r"""Replace characters that act on their surroundings by a visible name.

    Example:
        >>> visible("a\x00b\u202ec")
        'a␀b[U+202E]c'
    """
    return ACTING.sub(_name_of, text)


def _name_of(match: re.Match[str]) -> str:
    code = ord(match.group())
    return chr(0x2400 + code) if code < 0x20 else f"[U+{code:04X}]"


def first_cause(error: BaseException) -> str:
    """Return what an error of a library says, or what its cause says if it only says that something failed; one line.

    Example:
        >>> first_cause(ValueError("Line 3 is wrong.   Example of usage: ..."))
        'Line 3 is wrong'
    """
    current: BaseException | None = error
    while current is not None:
        said = str(current).partition("Example of usage")[0]
        if said.strip() and not said.startswith("An error occurred while generating"):
            return " ".join(said.split()).rstrip(".! ").removeprefix("Error tokenizing data. C error: ")
        current = current.__cause__ or current.__context__
    return type(error).__name__
