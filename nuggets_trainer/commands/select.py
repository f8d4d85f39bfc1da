"""`nuggets select`: a golden set by another rule, from stored scores. It loads no model."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trl import TrlParser

from nuggets_trainer.commands import EXIT_CODES, description
from nuggets_trainer.commands.arguments import (
    OutputArguments,
    SelectArguments,
    parse_arguments,
    training_parsers,
)
from nuggets_trainer.commands.inputs import read_rows
from nuggets_trainer.commands.output import stdout_kept_for_result, write_result
from nuggets_trainer.commands.parser import make_parser, with_first_word
from nuggets_trainer.config.nuggets_config import NuggetsConfig
from nuggets_trainer.config.places import PoolArguments
from nuggets_trainer.config.row_options import RowOptions
from nuggets_trainer.config.rule_options import RuleOptions
from nuggets_trainer.data.loading import check_paths
from nuggets_trainer.data.row import first_of_equal
from nuggets_trainer.pipeline.row_files import check_output_file, write_rows
from nuggets_trainer.report.dataset_entries import (
    RowFile,
    check_entry,
    check_format,
    check_programs,
    how_to_use,
    write_entry,
)
from nuggets_trainer.store.read_results import read_overlap, read_scores
from nuggets_trainer.store.results import describe_groups
from nuggets_trainer.wording import counted

if TYPE_CHECKING:
    from nuggets_trainer.data.pool import Pool

logger = logging.getLogger(__name__)

USAGE = (
    "nuggets select S [--top_fraction F | --top_k K | --threshold T | --max_tokens N] [--rank_by VALUE] "
    "[--dataset_name D --output_file FILE [--with_scores] [--entry_for PROGRAM ...]]"
)
EPILOG = f"""examples:
  nuggets select scores --top_k 500
  nuggets select scores --top_fraction 0.05 --require "ifd < 0.9"
  nuggets select scores --max_tokens 500000
  nuggets select scores --top_k 500 --group_by num_tokens
  nuggets select scores --top_k 500 --max_rows_per_prompt 1 --dataset_name pool.jsonl --output_file golden.jsonl
  nuggets select scores --top_fraction 0.05 --dataset_name pool.jsonl --output_file golden.parquet
  nuggets select scores --top_k 500 --dataset_name pool.jsonl --output_file golden.jsonl --entry_for llama_factory
  nuggets select scores --top_k 500 --rank_by gain
  nuggets select scores --top_k 500 --rank_by loss

The golden set is exact. If a race left rows without a score that this rule could choose, the command says what to run.

{EXIT_CODES}"""


def make_select_parser() -> TrlParser:
    """Make the parser of the command."""
    dataclasses = (SelectArguments, RuleOptions, PoolArguments, RowOptions, OutputArguments)
    return make_parser(dataclasses, "nuggets select", description("select"), USAGE, EPILOG)


def parse(argv: Sequence[str]) -> tuple[Any, ...]:
    """Read the command line."""
    argv = with_first_word(argv, "--score_dir")
    choice, rule, rows, row_options, output = parse_arguments(make_select_parser(), argv, training_parsers)
    if choice.score_dir is None:
        raise ValueError("`nuggets select` needs the directory of the scores: `nuggets select S ...`.")
    if choice.output_file is not None:
        check_output_file(choice.output_file)
        if rows.dataset_name is None:
            raise ValueError("`output_file` needs the rows of the pool. Name the pool with --dataset_name.")
    elif choice.with_scores or choice.entry_for:
        raise ValueError("`with_scores` and `entry_for` need a file of rows. Name it with --output_file.")
    check_programs(choice.entry_for or [])
    if choice.max_rows_per_prompt is not None and rows.dataset_name is None:
        raise ValueError("`max_rows_per_prompt` needs the rows of the pool. Name the pool with --dataset_name.")
    others = {}
    for name in ("pool_size", "columns", "group_by", "group_quota", "max_rows_per_prompt"):
        others[name] = getattr(choice, name)
    config = NuggetsConfig(**vars(rule), **others)
    return choice, config, rows, row_options, output


def run(
    choice: SelectArguments,
    config: NuggetsConfig,
    rows: PoolArguments,
    row_options: RowOptions,
    output: OutputArguments,
) -> None:
    """Choose the golden set, write its rows if a file is named, and print it."""
    from nuggets_trainer.pipeline.row_filter import describe_percentiles, percentiles_as_json  # late: so is scipy
    from nuggets_trainer.pipeline.rows import read_pool  # late: `--help` does not wait for torch
    from nuggets_trainer.pipeline.select_again import as_json, select_again

    check_paths(config, {"dataset_name": rows.dataset_name}, {}, {"output_file": choice.output_file})
    with stdout_kept_for_result() as stdout:
        score_dir = choice.score_dir or ""
        pool = None
        if rows.dataset_name is not None:
            pool = read_pool(read_rows(rows), config, row_options, name="dataset_name")
        golden_set = select_again(score_dir, config, pool)
        if golden_set.num_missing:
            logger.warning("%s", golden_set.describe_missing())
        overlap = read_overlap(score_dir) or looked_for_now(pool)
        lines = [golden_set.describe(), *describe_groups(golden_set), f"duplicates: {overlap['says']}"]
        requirement, percentiles = config.requirement, []
        if requirement is not None and requirement.percentiles:
            signals = read_scores(score_dir).signals
            percentiles = percentiles_as_json(requirement, signals)
            lines.append(f"condition: {describe_percentiles(requirement, signals)}")
        text = "\n".join(lines)
        if pool is not None and choice.output_file is not None:
            entries = []
            for name in choice.entry_for or []:
                entries.append((name, described_rows(pool, choice.output_file, golden_set.indices[:1])))
            for entry in entries:
                check_entry(*entry)
            write_rows(pool.dataset, golden_set, choice.output_file, choice.with_scores)
            text += f"\n{counted(len(golden_set), 'row')}, best first: {choice.output_file}"
            for name, written in entries:
                text += f"\n{how_to_use(name, written, write_entry(name, written))}"
        result = {"score_dir": choice.score_dir, **as_json(golden_set), "output_file": choice.output_file}
        result["overlap"] = overlap
        if percentiles:
            result["percentiles"] = percentiles
        write_result(stdout, result, text, output.json)


def looked_for_now(pool: Pool | None) -> dict[str, Any]:
    """Return what is known of duplicates in a pool that an earlier version scored, which did not look for them.

    Args:
        pool: the rows, in which `select_again` has looked; None if they were not named.
    """
    if pool is None:
        says = (
            "an earlier version made these scores and did not look for them, so the golden set may have rows twice. "
            "Name the rows with --dataset_name to leave out the repeated ones."
        )
        return {"says": says}
    repeats = first_of_equal(pool.read_keys()[0])
    number = counted(len(repeats), "row repeats an earlier one", "rows repeat an earlier one")
    return {"duplicates": len(repeats), "says": f"{number} word for word (left out now)"}


def described_rows(pool: Pool, file: str, first: Iterable[int] = ()) -> RowFile:
    """Describe the rows of a file for the entries of other programs.

    Args:
        pool: rows of the pool.
        file: file of the chosen rows.
        first: pool index of the first row of the file, if it has one.

    Raises:
        ValueError: if the other programs cannot read rows like these.
    """
    from datasets import Value  # late: a config file may set variables that datasets reads when it is imported

    nested = {name for name, feature in pool.dataset.features.items() if not isinstance(feature, Value)}
    columns = frozenset(pool.dataset.column_names)
    record = next((pool.record(int(i)) for i in first), None)
    described = RowFile(Path(file), pool.format, columns, frozenset(nested), record)
    check_format(described)
    return described
