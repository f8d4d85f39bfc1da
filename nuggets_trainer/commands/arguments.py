"""Command-line and YAML arguments of `nuggets` and of the recipes. Knows names and defaults, no scoring."""

from __future__ import annotations

import argparse
import difflib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any, ClassVar

from trl import TrlParser

from nuggets_trainer.commands.parser import make_parser, unknown_options
from nuggets_trainer.config.nuggets_config import NuggetsConfig
from nuggets_trainer.config.removed import refuse_removed
from nuggets_trainer.training.job_arguments import RecipeArguments


@dataclass
class PoolArguments:
    """Where the pool comes from; names and defaults are those of TRL's `ScriptArguments`."""

    title: ClassVar[str] = "rows (names and defaults of trl.ScriptArguments)"

    dataset_name: str | None = field(
        default=None,
        metadata={
            "help": "The pool: a hub dataset, a local directory, a .json, .jsonl, .csv or .parquet file, or "
            "`nuggets-demo/pool`."
        },
    )
    dataset_config: str | None = field(default=None, metadata={"help": "Configuration of a hub dataset."})
    dataset_train_split: str = field(
        default="train", metadata={"help": "Which split is the pool; a single file is its own split."}
    )
    dataset_streaming: bool = field(
        default=False, metadata={"help": "Stream the rows, and take the first `pool_size` of them."}
    )


@dataclass
class ScorerArguments:
    """The model that `nuggets score` scores with; names and defaults are those of TRL's `ModelConfig`."""

    title: ClassVar[str] = "the model that scores (names of trl.ModelConfig)"

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
    attn_implementation: str | None = field(
        default=None, metadata={"help": "Attention implementation, e.g. sdpa. Default: that of transformers."}
    )
    trust_remote_code: bool = field(default=False, metadata={"help": "Run code that comes with the model."})


@dataclass
class ShardArguments:
    """Which part of the pool a job scores."""

    title: ClassVar[str] = "parts of a pool"

    shard: str | None = field(
        default=None,
        metadata={
            "help": "`i/n`: score the i-th of n parts of the pool (i from 0) into the store, write no results. Such "
            "jobs know nothing of each other (a Slurm array, spot machines); the same command without `shard` then "
            "scores what is missing and writes the results. A shard is scored exactly: what a row must reach is known "
            "once all are scored."
        },
    )


@dataclass
class PlanArguments:
    """What `nuggets plan` measures and tells."""

    title: ClassVar[str] = "the plan"

    measure_seconds: float = field(
        default=10.0,
        metadata={
            "help": "For how long to score real pairs, in seconds; what is scored is stored for the run itself. At "
            "least one call of the engine, some forward passes, is timed."
        },
    )
    price_per_hour: float | None = field(
        default=None,
        metadata={"help": "What the machine costs per hour, in any currency: the plan then says what scoring costs."},
    )


@dataclass
class SelectArguments:
    """The scores that `nuggets select` reads, and the file that it writes."""

    title: ClassVar[str] = "stored scores"

    score_dir: str | None = field(
        default=None,
        metadata={"help": "Directory or URL with the scores.parquet of an earlier run. May be given as first word."},
    )
    output_file: str | None = field(
        default=None,
        metadata={
            "help": "Write the golden set to this file, best row first, in the pool's own columns: .parquet, .jsonl, "
            ".json or .csv. Needs `dataset_name`."
        },
    )
    pool_size: int | None = field(
        default=None, metadata={"help": "As it was when the pool was scored. Default: all rows."}
    )


@dataclass
class OutputArguments:
    """How a command answers."""

    title: ClassVar[str] = "output"

    json: bool = field(
        default=False, metadata={"help": "Print one JSON object on stdout; everything else goes to stderr."}
    )


# Of these, one may be given: an option of the command line takes the place of its partners in the config file.
EXCLUSIVE = ({"top_fraction", "top_k", "threshold"}, {"anchors", "num_anchors"})
# Fields of NuggetsConfig that do nothing outside of training, or from a command line.
OF_TRAINING = {"match_full_steps", "reselect", "reselect_steps", "response_field"}
CONFIGS = Path(str(files("nuggets_trainer"))) / "configs"


def recipe_parser(prog: str | None = None, **texts: str) -> TrlParser:
    """Parser of `nuggets train` and recipes/train.py: the four groups of arguments, as TRL's own scripts have it.

    Args:
        prog: as it is called.
        texts: description, usage and epilog, see `make_parser`.
    """
    from trl import ModelConfig, SFTConfig

    texts = {"description": "", **texts}
    return make_parser((RecipeArguments, SFTConfig, ModelConfig, NuggetsConfig), prog or "train", **texts)


def training_parsers() -> tuple[TrlParser]:
    """Parsers of the programs that train."""
    return (recipe_parser(),)


def parse_arguments(
    parser: TrlParser, argv: Sequence[str], others: Callable[[], Sequence[TrlParser]] = tuple
) -> tuple[Any, ...]:
    """Parse command line and `--config` file; an option of the command line wins over the file.

    Args:
        parser: of the program.
        argv: the command line, without the program's name.
        others: makes the parsers of other programs, whose keys the file may have too: one YAML serves all.

    Raises:
        FileNotFoundError: if the config file is not there.
        ValueError: if an option or a key of the file is none of the program's; the error names the nearest one.
    """
    finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    finder.add_argument("--config")
    found, rest = finder.parse_known_args(list(argv))
    if found.config is not None:
        path = config_path(found.config)
        options = {action.dest for action in parser._actions}
        ignored = {action.dest for other in others() for action in other._actions}
        config = _read_config(path, options | ignored)
        config = {key: value for key, value in config.items() if key in options or key == "env"}
        os.environ.update({name: str(value) for name, value in config.pop("env", {}).items()})
        given = given_options(rest)
        for group in EXCLUSIVE:
            if group & given:
                config = {key: value for key, value in config.items() if key not in group}
        parser.set_defaults_with_config(**config)
        for action in parser._actions:
            if action.dest in config:
                action.source = found.config  # for --help
    *parsed, unknown = parser.parse_args_into_dataclasses(args=rest, return_remaining_strings=True)
    if unknown:
        raise ValueError(unknown_options(unknown, parser))
    return tuple(parsed)


def given_options(argv: Sequence[str]) -> set[str]:
    """Names of the fields that a command line has options for, in either spelling.

    Example:
        >>> sorted(given_options(["--top-k", "5", "--score_dir=scores"]))
        ['score_dir', 'top_k']
    """
    return {word[2:].split("=")[0].replace("-", "_") for word in argv if word.startswith("--")}


def config_path(name: str) -> Path:
    """Path of a config file: the file itself, or the one of this name that ships with the package.

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
        f"There is no config file {name!r}, and none of this name ships with the package: `nuggets configs` lists "
        "those that do."
    )


def _read_config(path: Path, known: set[str]) -> dict[str, Any]:
    import yaml

    config = yaml.safe_load(path.read_text())
    if not isinstance(config, dict):
        raise ValueError(f"Config file {path} must hold a YAML mapping of argument names to values.")
    for key in config:
        if key not in known and key != "env":
            refuse_removed([str(key)])
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
