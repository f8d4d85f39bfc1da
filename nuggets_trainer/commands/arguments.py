"""Arguments of `nuggets` and of the recipes: their names, help and defaults, from the command line or a YAML file."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, get_args, get_type_hints

from trl import TrlParser

from nuggets_trainer.commands.config_file import (
    config_path,
    given_options,
    read_config_file,
    read_texts,
    set_environment,
    split_config,
    with_home,
)
from nuggets_trainer.commands.parser import make_parser, unknown_options
from nuggets_trainer.config.diversity_options import GROUP_QUOTAS
from nuggets_trainer.config.nuggets_config import NuggetsConfig
from nuggets_trainer.config.rule_options import RULES
from nuggets_trainer.config.training_options import TrainingOptions
from nuggets_trainer.training.job_arguments import RecipeArguments


@dataclass
class ScorerArguments:
    """The model that scores; the names are those of TRL's `ModelConfig`."""

    title: ClassVar[str] = "the model that scores (names of trl.ModelConfig)"

    model_name_or_path: str | None = field(
        default=None, metadata={"help": "Scorer model: hub name, local directory, or `nuggets-demo/model`."}
    )
    model_revision: str = field(default="main", metadata={"help": "Branch, tag or commit of the model."})
    dtype: str = field(
        default="float32",
        metadata={
            "help": "Dtype of the weights and of scoring (but see `score_dtype`).",
            "choices": ["auto", "bfloat16", "float16", "float32"],
        },
    )
    attn_implementation: str | None = field(
        default=None, metadata={"help": "Attention implementation, e.g. sdpa. Default: that of transformers."}
    )
    trust_remote_code: bool = field(default=False, metadata={"help": "Run code that comes with the model."})
    bf16: bool | None = field(
        default=None,
        metadata={
            "help": "Score as training with `bf16: true` does, which `score_dtype: auto` follows. Default: as in "
            "training (TRL's default is true) with a config file that has options of training, else false."
        },
    )
    fp16: bool = field(default=False, metadata={"help": "Score as training with `fp16: true` does."})
    load_in_8bit: bool = field(
        default=False, metadata={"help": "Quantize the weights to 8 bits (needs bitsandbytes), as training does."}
    )
    load_in_4bit: bool = field(
        default=False, metadata={"help": "Quantize the weights to 4 bits (needs bitsandbytes), as QLoRA does."}
    )
    bnb_4bit_quant_type: str = field(
        default="nf4", metadata={"help": "Type of the 4 bits.", "choices": ["fp4", "nf4"]}
    )
    use_bnb_nested_quant: bool = field(default=False, metadata={"help": "Quantize the constants of the 4 bits too."})
    bnb_4bit_quant_storage: str | None = field(
        default=None, metadata={"help": "Dtype that the 4 bits are packed in. Default: that of bitsandbytes."}
    )

    def __post_init__(self) -> None:
        if self.load_in_8bit and self.load_in_4bit:
            raise ValueError("`load_in_8bit` and `load_in_4bit` must not both be true. Drop one of them.")


@dataclass
class ShardArguments:
    """Which part of the pool a job scores."""

    title: ClassVar[str] = "parts of a pool"

    shard: str | None = field(
        default=None,
        metadata={
            "help": "Part of the pool to score, as `i/n`: the i-th of n parts, with i from 0. `auto` reads it from "
            "the variables of Slurm, SkyPilot, dstack, AWS Batch or a launcher. Parts need no contact with "
            "each other (a Slurm array, spot machines) and write no results; the same command without `shard` then "
            "scores what is missing and writes them. A part is scored exactly, because a race needs all rows."
        },
    )


@dataclass
class PlanArguments:
    """How long `nuggets plan` measures, and what the machine costs."""

    title: ClassVar[str] = "the plan"

    measure_seconds: float = field(
        default=10.0,
        metadata={
            "help": "Seconds of scoring to measure, at least one call of the engine (some forward passes). The pairs "
            "are real ones and are stored for the run itself."
        },
    )
    price_per_hour: float | None = field(
        default=None,
        metadata={"help": "Price of the machine per hour, in any currency; the plan then says what scoring costs."},
    )


@dataclass
class InspectArguments:
    """Which rows `nuggets inspect` shows."""

    title: ClassVar[str] = "the rows that are shown"

    num_rows: int = field(default=10, metadata={"help": "Number of rows to show, evenly spread over the pool."})
    indices: list[int] | None = field(
        default=None, metadata={"help": "Numbers of the rows to show, from 0, instead of `num_rows` rows."}
    )


@dataclass
class SelectArguments:
    """The scores that `nuggets select` reads, and the file that it writes."""

    title: ClassVar[str] = "stored scores"

    score_dir: str | None = field(
        default=None,
        metadata={"help": "Directory or URL with the scores.parquet of an earlier run. It may be the first word."},
    )
    output_file: str | None = field(
        default=None,
        metadata={
            "help": "File to write the golden set to, best row first, in the pool's own columns: .parquet, .jsonl, "
            ".json or .csv. Needs `dataset_name`."
        },
    )
    with_scores: bool = field(
        default=False,
        metadata={
            "help": "Add columns: `rank` (1 is best), `pool_index`, the ranked value, its standard error if any."
        },
    )
    entry_for: list[str] | None = field(
        default=None,
        metadata={"help": "Programs to write a dataset entry for: `llama_factory`, `axolotl`, `ms_swift`."},
    )
    group_by: str | None = field(
        default=None,
        metadata={
            "help": "`num_tokens`: choose the best rows of each of 10 classes of length, so that the golden set has "
            "the lengths of the pool. It needs the lengths, which `nuggets score` writes with `--group_by num_tokens` "
            "or `--row_signals true`. For quotas by a column, run `nuggets score` again.",
            "choices": ["num_tokens"],
        },
    )
    group_quota: str = field(
        default="proportional",
        metadata={"help": "Share of each class of length, as for `nuggets score`.", "choices": list(GROUP_QUOTAS)},
    )
    max_rows_per_prompt: int | None = field(
        default=None,
        metadata={
            "help": "Largest number of kept rows with the same prompt: 1 keeps the best answer alone. Needs the rows "
            "(`dataset_name`)."
        },
    )
    pool_size: int | None = field(
        default=None, metadata={"help": "The `pool_size` that the pool was scored with. Default: all rows."}
    )
    columns: list[str] | None | dict[str, Any] | str = field(  # noqa: RUF036 - TRL's parser takes the type before None
        default=None, metadata={"help": "The `columns` that the pool was scored with. Default: standard names."}
    )


@dataclass
class OutputArguments:
    """How a command answers."""

    title: ClassVar[str] = "output"

    json: bool = field(
        default=False, metadata={"help": "Print one JSON object on stdout; everything else goes to stderr."}
    )


# Options of which one may be given. One on the command line takes the place of its partners in the config file.
EXCLUSIVE = (set(RULES),)
# Options of selection that act during training alone; `response_field` goes with a Python function.
TRAINING_ONLY = {"response_field", *(field.name for field in fields(TrainingOptions))}
# Options of TRL's ScriptArguments that its SFT does not read either: accepted, but not listed in `--help`.
IGNORED_IN_TRAINING = {"ignore_bias_buffers"}


def recipe_parser(prog: str | None = None, **texts: str) -> TrlParser:
    """Make the parser of `nuggets train` and recipes/train.py.

    Args:
        prog: program name in the help.
        texts: description, usage and epilog, see `make_parser`.
    """
    from trl import ModelConfig, SFTConfig

    dataclasses = (RecipeArguments, SFTConfig, ModelConfig, NuggetsConfig)  # in this order, as in TRL's own scripts
    return make_parser(dataclasses, prog or "train", **{"description": "", **texts}, unlisted=IGNORED_IN_TRAINING)


def training_parsers() -> tuple[TrlParser]:
    """Make the parsers of the programs that train: their YAML serves the other commands too."""
    return (recipe_parser(),)


def parse_arguments(
    parser: TrlParser, argv: Sequence[str], others: Callable[[], Sequence[TrlParser]] = tuple
) -> tuple[Any, ...]:
    """Parse command line and `--config` file; an option of the command line wins over the file.

    Args:
        parser: parser of the program.
        argv: command line, without the program's name.
        others: maker of the parsers of other programs, whose keys the file may have too: one YAML serves all.

    Returns:
        One instance of each dataclass that the parser was made of.

    Raises:
        FileNotFoundError: if the config file does not exist.
        ValueError: for an unknown option or an unknown key of the file; the error names the nearest known one.
    """
    set_environment(argv)
    config, rest = split_config(argv)
    if config is not None:
        _take_defaults(parser, config, given_options(rest), others())
    rest = [_word_with_home(word) for word in rest]
    try:
        *parsed, unknown = parser.parse_args_into_dataclasses(args=rest, return_remaining_strings=True)
    except ValueError as error:
        if "bf16/gpu" not in str(error):  # transformers names `use_cpu` there, which would train in bfloat16
            raise
        raise ValueError(
            "No GPU was found on this machine, and TRL trains in bfloat16 by default. Add `--bf16 false` to train in "
            "float32 on the CPU."
        ) from error
    if unknown:
        raise ValueError(unknown_options(unknown, parser))
    return tuple(parsed)


def _word_with_home(word: str) -> str:
    """Replace `~` where the shell does not: in quotes, and behind `--option=`."""
    name, equals, value = word.partition("=")
    if equals and name.startswith("--"):
        return f"{name}={with_home(value)}"
    return str(with_home(word))


def _take_defaults(parser: TrlParser, name: str, given: set[str], others: Sequence[TrlParser]) -> None:
    """Make the values of a config file the defaults of a parser.

    Args:
        parser: parser of the program.
        name: name or path of the config file.
        given: options of the command line.
        others: parsers of other programs; the program ignores keys that only these have.
    """
    options = _option_names(parser)
    ignored: set[str] = set()
    for other in others:
        ignored |= _option_names(other)
    path = config_path(name)
    config = read_config_file(path, options | ignored)
    texts = read_texts(path)
    for key in _text_options(parser):
        if isinstance(config.get(key), (bool, int, float, datetime.date)):  # `reselect: no` is a boolean in YAML
            config[key] = texts[key]
    config = {key: with_home(value) for key, value in config.items()}
    replaced: set[str] = set()
    for group in EXCLUSIVE:
        if group & given:
            replaced |= group
    if "anchors" in given:
        replaced.add("num_anchors")  # the number in the file was meant for other anchors, or for the pool
    values = {key: value for key, value in config.items() if key in options - replaced}
    if config.keys() & (ignored - options):
        values = {**_precision_of_training(options, config, given), **values}
    parser.set_defaults_with_config(**values)
    for action in parser._actions:
        if action.dest in values:
            action.source = name  # for --help


def _precision_of_training(options: set[str], config: dict[str, Any], given: set[str]) -> dict[str, bool]:
    """Return TRL's default of `bf16`, for a program that scores by the config file of a program that trains."""
    is_said = {"bf16", "fp16"} & given or "bf16" in config or config.get("fp16")
    return {} if is_said or "bf16" not in options else {"bf16": True}


def _text_options(parser: TrlParser) -> set[str]:
    """Return the names of the options that are texts, and never booleans or numbers."""
    names = set()
    for options in parser.dataclass_types:
        for name, hint in get_type_hints(options).items():
            kinds = {hint} if hint is str else set(get_args(hint))
            if str in kinds and not kinds & {bool, int, float}:
                names.add(name)
    return names


def _option_names(parser: TrlParser) -> set[str]:
    return {action.dest for action in parser._actions}
