"""Config files: where they are, which ship with the package, and what is in them."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Collection, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from nuggets_trainer.commands import HELP_OPTIONS
from nuggets_trainer.commands.parser import nearest_option
from nuggets_trainer.config.removed import refuse_removed
from nuggets_trainer.launch.processes import LAUNCH_OPTIONS

CONFIGS = Path(str(files("nuggets_trainer"))) / "configs"
ENVIRONMENT = "env"  # the key, as in TRL, whose mapping becomes environment variables
# Beginnings of variables that libraries read once, when they are imported.
READ_ON_IMPORT = ("HF_", "HUGGINGFACE_", "HUGGING_FACE_", "TRANSFORMERS_", "OMP_", "MKL_")

logger = logging.getLogger(__name__)


def split_config(argv: Sequence[str]) -> tuple[str | None, list[str]]:
    """Take `--config FILE` out of a command line.

    Example:
        >>> split_config(["--top_k", "5", "--config", "my.yaml"])
        ('my.yaml', ['--top_k', '5'])
    """
    finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    finder.add_argument("--config")
    found, rest = finder.parse_known_args(list(argv))
    return found.config, rest


def set_environment(argv: Sequence[str]) -> None:
    """Set the environment variables of the config file on a command line.

    It must come before huggingface_hub, transformers and torch are imported, because they read some variables only
    then. What is wrong with the file is left to the parser.
    """
    name, _ = split_config(argv)
    variables = texts_on(argv).get(ENVIRONMENT)
    if not isinstance(variables, dict):
        return
    late = []
    for variable, text in variables.items():
        value = with_home(str(text))
        if os.environ.get(variable) != value and variable.startswith(READ_ON_IMPORT):
            late.append(variable)
        os.environ[variable] = value
    if late and "huggingface_hub" in sys.modules:
        logger.warning(
            "%s: `%s` sets %s, but the libraries that read this are imported already. Set it before Python starts, "
            "such as `%s=... python ...`.",
            name,
            ENVIRONMENT,
            ", ".join(late),
            late[0],
        )


def texts_on(argv: Sequence[str]) -> dict[str, Any]:
    """Read the config file that a command line names, values as texts; return {} without one, or if it is broken."""
    import yaml

    name, _ = split_config(argv)
    if name is None:
        return {}
    try:
        texts = read_texts(config_path(name))
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return texts if isinstance(texts, dict) else {}


def read_texts(path: Path) -> Any:
    """Read a config file with every value as the text that stands there: `no` is no boolean, 2e-4 no number."""
    import yaml

    return yaml.load(path.read_text(encoding="utf-8"), Loader=yaml.BaseLoader)


def with_home(value: Any) -> Any:
    """Replace a leading `~` by the home directory, in a text or in the texts of a list or mapping."""
    if isinstance(value, str):
        return os.path.expanduser(value)  # noqa: PTH111 - a `Path` would spoil URLs
    if isinstance(value, list):
        return [with_home(part) for part in value]
    if isinstance(value, dict):
        return {key: with_home(part) for key, part in value.items()}
    return value


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
        known: keys that it may have, besides `env` and the options of the launcher.

    Raises:
        ValueError: if the file is not a mapping, or has a key that was removed or is unknown. The error says what
            to do or names the nearest key.
    """
    import yaml

    config = yaml.safe_load(path.read_text(encoding="utf-8"))
    if not isinstance(config, dict):
        raise ValueError(f"Config file {path} must hold a YAML mapping of argument names to values.")
    try:
        refuse_removed(str(key) for key in config)
    except ValueError as error:
        raise ValueError(f"Config file {path}: {error}") from error
    for key in config:
        if key not in known and key != ENVIRONMENT and key not in LAUNCH_OPTIONS:
            near = nearest_option(str(key), known)
            hint = "See `--help` for the names." if near is None else f"Did you mean `{near}`?"
            raise ValueError(f"Config file {path} has the key `{key}`, which no argument has. {hint}")
    return config


def given_options(argv: Sequence[str]) -> set[str]:
    """Collect the names of the options on a command line, in either spelling.

    Example:
        >>> sorted(given_options(["--top-k", "5", "--score_dir=scores"]))
        ['score_dir', 'top_k']
    """
    return {word[2:].split("=")[0].replace("-", "_") for word in argv if word.startswith("--")}


def or_demo(argv: Sequence[str], demo_config: Path) -> list[str]:
    """Return a command line with the demo's config file, for `--demo` and where no config, model or rows are given.

    Raises:
        ValueError: if `--demo` stands beside one of them.
    """
    words = list(argv)
    named = given_options(words) & {"config", "model_name_or_path", "dataset_name"}
    if "--demo" in words:
        if named:
            given = ", ".join(f"--{name}" for name in sorted(named))
            raise ValueError(f"--demo brings its own model, rows and config. Drop it, or drop {given}.")
        words.remove("--demo")
    if not named and HELP_OPTIONS.isdisjoint(words):
        words = ["--config", str(demo_config), *words]
    return words
