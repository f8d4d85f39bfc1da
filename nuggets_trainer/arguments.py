"""Command-line and YAML arguments of the recipes and of `nuggets`. Knows names and defaults, no scoring."""

from __future__ import annotations

import argparse
import difflib
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trl import ModelConfig, ScriptArguments, SFTConfig, TrlParser

from nuggets_trainer.config import NuggetsConfig


@dataclass
class RecipeArguments(ScriptArguments):  # type: ignore[misc]  # trl has no types
    """TRL's script arguments, and where evaluation rows come from."""

    eval_dataset_name: str | None = field(
        default=None,
        metadata={
            "help": "Evaluation rows: a hub dataset, a local directory, or a .json, .jsonl, .csv or .parquet file. "
            "Default: `dataset_test_split` of `dataset_name` when `eval_strategy` asks for evaluation."
        },
    )


@dataclass
class ScorerArguments:
    """The model that `nuggets score` scores with; names and defaults are those of TRL's `ModelConfig`."""

    model_name_or_path: str | None = field(
        default=None, metadata={"help": "Scorer model: hub name, local directory, or `nuggets-demo/model`."}
    )
    model_revision: str = field(default="main", metadata={"help": "Branch, tag or commit of the model."})
    dtype: str = field(
        default="float32",
        metadata={
            "help": "Dtype to load the weights in, and to score in.",
            "choices": ["auto", "bfloat16", "float16", "float32"],
        },
    )
    attn_implementation: str | None = field(default=None, metadata={"help": "Attention implementation, e.g. sdpa."})
    trust_remote_code: bool = field(default=False, metadata={"help": "Run code that comes with the model."})
    shard: str | None = field(
        default=None,
        metadata={
            "help": "`i/n`: score the i-th of n parts of the pool (i from 0) into the store, write no results. Such "
            "jobs know nothing of each other (a Slurm array, spot machines); the same command without `shard` then "
            "scores what is missing and writes the results. A shard is scored exactly: what a row must reach is known "
            "once all are scored."
        },
    )


# Of these, one may be given: an option of the command line takes the place of its partners in the config file.
EXCLUSIVE = ({"top_fraction", "top_k", "threshold"}, {"anchors", "num_anchors"})


def recipe_parser() -> TrlParser:
    """Parser of recipes/train.py: the four groups of arguments, as TRL's own scripts have it."""
    return TrlParser((RecipeArguments, SFTConfig, ModelConfig, NuggetsConfig))


def parse_arguments(parser: TrlParser, argv: Sequence[str], ignored: frozenset[str] = frozenset()) -> tuple[Any, ...]:
    """Parse command line and `--config` file; an option of the command line wins over the file.

    Args:
        parser: of the program.
        argv: the command line, without the program's name.
        ignored: keys that the file may have though the program has no such option.

    Raises:
        FileNotFoundError: if the config file is not there.
        ValueError: if the file has a key that no argument has; the error names the nearest one.
    """
    finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    finder.add_argument("--config")
    found, rest = finder.parse_known_args(list(argv))
    if found.config is not None:
        options = {action.dest for action in parser._actions}
        config = _read_config(Path(found.config), options | ignored)
        config = {key: value for key, value in config.items() if key in options or key == "env"}
        os.environ.update({name: str(value) for name, value in config.pop("env", {}).items()})
        given = {option.removeprefix("--").split("=")[0] for option in rest if option.startswith("--")}
        for group in EXCLUSIVE:
            if group & given:
                config = {key: value for key, value in config.items() if key not in group}
        parser.set_defaults_with_config(**config)
    parsed: tuple[Any, ...] = parser.parse_args_into_dataclasses(args=rest)
    return parsed


def _read_config(path: Path, known: set[str]) -> dict[str, Any]:
    import yaml

    if not path.is_file():
        raise FileNotFoundError(f"There is no config file {str(path)!r}.")
    config = yaml.safe_load(path.read_text())
    if not isinstance(config, dict):
        raise ValueError(f"Config file {path} must hold a YAML mapping of argument names to values.")
    for key in config:
        if key not in known and key != "env":
            near = difflib.get_close_matches(str(key), known, n=1)
            hint = f" Did you mean `{near[0]}`?" if near else " See `--help` for the names."
            raise ValueError(f"Config file {path} has the key `{key}`, which no argument has.{hint}")
    return config


def parse_shard(text: str) -> tuple[int, int]:
    """Read `i/n`.

    Example:
        >>> parse_shard("3/64")
        (3, 64)
    """
    number, _, num_shards = text.partition("/")
    if not (number.isdigit() and num_shards.isdigit() and int(number) < int(num_shards)):
        raise ValueError(f"`shard` must be i/n with 0 <= i < n, such as 0/64, got {text!r}.")
    return int(number), int(num_shards)
