"""Config files: where they are, which ship with the package, and what is in them."""

from __future__ import annotations

import difflib
from collections.abc import Collection
from importlib.resources import files
from pathlib import Path
from typing import Any

from nuggets_trainer.config.removed import refuse_removed

CONFIGS = Path(str(files("nuggets_trainer"))) / "configs"
ENVIRONMENT = "env"  # the key, as in TRL, whose mapping becomes environment variables


def config_path(name: str) -> Path:
    """Find a config file: the file itself, or the one of this name that ships with the package.

    Raises:
        FileNotFoundError: if there is neither.

    Example:
        >>> config_path("demo").name, config_path("configs/demo.yaml").name
        ('demo.yaml', 'demo.yaml')
    """
    path = Path(name)
    if path.is_file():
        return path
    shipped = CONFIGS / name.removeprefix("configs/")
    for candidate in (shipped, shipped.with_name(f"{shipped.name}.yaml")):
        if candidate.is_file():
            return candidate
    raise FileNotFoundError(
        f"There is no config file {name!r}, neither as a path nor among those that ship with the package. `nuggets "
        "configs` lists the latter."
    )


def read_config_file(path: Path, known: Collection[str]) -> dict[str, Any]:
    """Read a config file.

    Args:
        path: path of the file.
        known: keys that it may have, besides `env`.

    Raises:
        ValueError: if the file is no mapping, or has a key that was removed or is not known. The error says what to do
            or names the nearest key.
    """
    import yaml

    config = yaml.safe_load(path.read_text())
    if not isinstance(config, dict):
        raise ValueError(f"Config file {path} must hold a YAML mapping of argument names to values.")
    try:
        refuse_removed(str(key) for key in config)
    except ValueError as error:
        raise ValueError(f"Config file {path}: {error}") from error
    for key in config:
        if key not in known and key != ENVIRONMENT:
            near = difflib.get_close_matches(str(key), known, n=1)
            hint = f"Did you mean `{near[0]}`?" if near else "See `--help` for the names."
            raise ValueError(f"Config file {path} has the key `{key}`, which no argument has. {hint}")
    return config
