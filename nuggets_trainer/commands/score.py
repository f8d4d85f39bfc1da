"""`nuggets score`: score a pool and choose its golden set, without training. A thin layer over `score_pool`."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from trl import TrlParser

from nuggets_trainer.commands import EXIT_CODES, description
from nuggets_trainer.commands.arguments import (
    TRAINING_ONLY,
    OutputArguments,
    ScorerArguments,
    ShardArguments,
    parse_arguments,
    training_parsers,
)
from nuggets_trainer.commands.inputs import check_given, check_places, load, with_score_dir
from nuggets_trainer.commands.output import printed_instead, stdout_kept_for_result, write_result
from nuggets_trainer.commands.parser import make_parser, with_first_word
from nuggets_trainer.config.nuggets_config import NuggetsConfig
from nuggets_trainer.config.places import PoolArguments
from nuggets_trainer.config.row_options import RowOptions
from nuggets_trainer.launch.parts import AUTO, find_part
from nuggets_trainer.wording import counted

if TYPE_CHECKING:
    from nuggets_trainer.golden.selection import GoldenSet
    from nuggets_trainer.store.results import PoolScores

USAGE = "nuggets score D --model_name_or_path M [--score_dir S] [--config FILE] [options]"
EPILOG = f"""examples:
  nuggets score --model_name_or_path nuggets-demo/model --dataset_name nuggets-demo/pool \\
      --anchors nuggets-demo/anchors --score_dir scores
  nuggets score --num_processes 8 --config my.yaml --score_dir scores

If it is killed, the same command continues: scores are kept in <score_dir>. `nuggets plan` takes the same options.

{EXIT_CODES}"""


def make_score_parser() -> TrlParser:
    """Make the parser of the command."""
    dataclasses = (PoolArguments, RowOptions, ScorerArguments, ShardArguments, OutputArguments, NuggetsConfig)
    return make_parser(dataclasses, "nuggets score", description("score"), USAGE, EPILOG, TRAINING_ONLY)


def parse(argv: Sequence[str]) -> tuple[Any, ...]:
    """Read the command line; the pool may be its first word."""
    argv = with_first_word(argv, "--dataset_name")
    parsed = parse_arguments(make_score_parser(), argv, training_parsers)
    *others, config = parsed
    rows, _, scorer, part, _ = others
    check_given("nuggets score", rows, scorer, config)
    if part.shard is not None:
        number, num_shards = parse_shard(part.shard)
        others[3] = dataclasses.replace(part, shard=f"{number}/{num_shards}")
    return (*others, with_score_dir(rows, scorer, config, argv))


def run(
    rows: PoolArguments,
    row_options: RowOptions,
    scorer: ScorerArguments,
    part: ShardArguments,
    output: OutputArguments,
    config: NuggetsConfig,
) -> None:
    """Score, and print what was chosen."""
    check_places(rows, scorer, config)
    from nuggets_trainer.pipeline.score_pool import result_logger, score_pool, score_shard
    from nuggets_trainer.ranks import end_processes

    with stdout_kept_for_result() as stdout, printed_instead(result_logger, not output.json):
        model, tokenizer, pool, options = load(rows, row_options, scorer, config)
        if part.shard is None:
            scores, golden_set = score_pool(model, tokenizer, pool, **options)
            result, text = _describe(config, scores, golden_set)
        else:
            num_done = score_shard(model, tokenizer, pool, shard=parse_shard(part.shard), **options)
            unit, done = "num_pairs_scored", f"{counted(num_done, 'pair')} scored into {config.score_dir}"
            if not config.scores_pairs:
                unit, done = "num_rows", f"the signals of {counted(num_done, 'row')} are in {config.score_dir}"
            result = {"score_dir": config.score_dir, "shard": part.shard, unit: num_done}
            text = (
                f"shard {part.shard}: {done}; once all shards are through, the same command without `--shard` writes "
                "the results"
            )
        write_result(stdout, result, text, output.json)
        end_processes()


def _describe(config: NuggetsConfig, scores: PoolScores, golden_set: GoldenSet) -> tuple[dict[str, Any], str]:
    """Write the result as one JSON object, and as text for people."""
    from nuggets_trainer.store.results import describe_results, set_means

    result = {
        "score_dir": config.score_dir,
        "rule": dict([golden_set.rule]),
        "rank_by": golden_set.rank_by,
        **golden_set.summary(),
        **scores.summary(),
        "by_anchor_set": set_means(scores, golden_set),
        "by_group": golden_set.groups,
        "verdict": scores.verdict,
        "cautions": scores.cautions,
        "indices": golden_set.indices.tolist(),
    }
    lines = describe_results(scores, golden_set)
    if scores.verdict:
        lines.append(f"verdict: {scores.verdict['sentence']}")
    lines.append(f"scores and results: {config.score_dir}")
    return result, "\n".join(lines)


def parse_shard(text: str) -> tuple[int, int]:
    """Read `i/n`; for `auto`, find it in the variables of a scheduler.

    Raises:
        ValueError: if the text is not `i/n`, or if no scheduler has set the variables.

    Example:
        >>> parse_shard("3/64")
        (3, 64)
    """
    if text == AUTO:
        return find_part(os.environ)
    number, _, num_shards = text.partition("/")
    if not (number.isdigit() and num_shards.isdigit() and int(number) < int(num_shards)):
        raise ValueError(f"`shard` must be `auto` or i/n with 0 <= i < n, such as 0/64, got {text!r}.")
    return int(number), int(num_shards)
