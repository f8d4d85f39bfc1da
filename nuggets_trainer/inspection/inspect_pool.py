"""`inspect_pool`: shows how a pool will be read, before any weights are loaded."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from nuggets_trainer.config.nuggets_config import NuggetsConfig
from nuggets_trainer.config.row_options import RowOptions
from nuggets_trainer.data.columns import implied_mapping
from nuggets_trainer.data.dataset import take_pool
from nuggets_trainer.data.formats import fitting_formats
from nuggets_trainer.data.guess_columns import guess_columns
from nuggets_trainer.data.loading import load_rows
from nuggets_trainer.data.pool import Pool
from nuggets_trainer.data.row import Row, UnusableRowError
from nuggets_trainer.inspection.columns import column_facts, format_fact
from nuggets_trainer.inspection.duplicates import exact_repeats, near_repeats, same_prompts, same_texts
from nuggets_trainer.inspection.facts import DropFact
from nuggets_trainer.inspection.inspection import Inspection
from nuggets_trainer.inspection.render import MAX_LENGTH_OF_TRL, RowRenderer
from nuggets_trainer.inspection.template import loss_on, template_fact
from nuggets_trainer.inspection.texts import character_lengths, dropped_view, text_view
from nuggets_trainer.overlap.find import overlap_of
from nuggets_trainer.pipeline.diversity import check_limits
from nuggets_trainer.pipeline.rows import check_selectable, read_anchors, read_pool, scorer_tokenizer
from nuggets_trainer.prompts.templates import make_template
from nuggets_trainer.report.verdicts import REASONS, UNKNOWN_REASON
from nuggets_trainer.wording import duration

if TYPE_CHECKING:
    from datasets import Dataset

    from nuggets_trainer.config.column_mapping import ColumnMapping
    from nuggets_trainer.pipeline.rows import AnchorDataset, PoolDataset
    from nuggets_trainer.scoring.session import AnchorPools

MOST_RENDERED = 1000  # random rows of a larger pool are rendered, which takes some seconds
NUM_EXAMPLES = 5  # rows that are named for a reason
MANY_ROWS = 200_000  # from here on, one line says that reading takes a while
SECONDS_PER_ROW = 1e-4  # to read a row of 225 tokens, and to compare it with all others

logger = logging.getLogger(__name__)


def inspect_pool(
    tokenizer: Any,
    dataset: PoolDataset | str,
    anchors: AnchorDataset | None = None,
    config: NuggetsConfig | None = None,
    *,
    name: str | None = None,
    num_rows: int = 10,
    indices: Sequence[int] | None = None,
    row_options: RowOptions | None = None,
    formatting_func: Callable[[dict[str, Any]], str] | None = None,
    training_chat_template: str | None = None,
    context: int | None = None,
) -> Inspection:
    """Show what is read, scored and dropped of a pool, before any weights are loaded.

    Args:
        tokenizer: tokenizer of the model that will score, or the model's name, of which the tokenizer alone is loaded.
            None shows the rows without a template.
        dataset: rows as in `score_pool`, or their name as in `load_rows`.
        anchors: anchors as in `score_pool`; None takes those of the config, or random rows of the pool in their place.
        config: options that the run will have.
        name: name of the pool in the text; None takes `dataset` if that is a name.
        num_rows: number of rows to show, evenly spread over the pool.
        indices: pool indices of the rows to show, in place of `num_rows`.
        row_options: options of training that decide which tokens a row has.
        formatting_func: function that writes a row as the text that training sees.
        training_chat_template: chat template with `{% generation %}` that `assistant_only_loss` needs.
        context: tokens that the model reads at once; None takes it from the config of a model that is named.

    Returns:
        The inspection. If scoring would fail, its `problem` says why.

    Raises:
        TypeError, ValueError: if the rows cannot be read at all, or if the pool does not have an index.

    Example:
        >>> found = inspect_pool("nuggets-demo/model", "nuggets-demo/pool", num_rows=1)
        >>> found.format.name, found.template.name, found.num_rows
        ('alpaca', 'chat', 1836)
    """
    config, row_options = config or NuggetsConfig(), row_options or RowOptions()
    if isinstance(tokenizer, str):
        tokenizer, context = _load_tokenizer(tokenizer, context)
    if isinstance(dataset, str):
        name, dataset = name or dataset, load_rows(dataset)
    found, pool = _read(dataset, name or "dataset", config, row_options, formatting_func)
    _check_indices(indices, found.num_rows)
    if pool is None:
        return found
    shown = indices
    if shown is None:
        shown = _evenly_spread(pool.usable_indices() or range(len(pool)), num_rows)
    try:
        sets = read_anchors(anchors, config, pool)
        if tokenizer is None:
            return _with_texts(found, pool, shown, config)
        tokenizer = scorer_tokenizer(tokenizer, config, row_options)
        template = make_template(
            config.template, tokenizer, pool, *(sets or {}).values(), training_chat_template=training_chat_template
        )
        source = template_fact(template.name, pool, tokenizer, config, row_options, training_chat_template)
        trained = loss_on(pool, training_chat_template)
        found = replace(found, template=source, context=context, loss_on=trained)
        renderer = RowRenderer(template, tokenizer, pool, *_rows_of(sets), context, trained)
    except ValueError as error:
        return replace(_with_texts(found, pool, shown, config), problem=str(error))
    return _with_prompts(found, pool, shown, config, renderer)


def _load_tokenizer(name: str, context: int | None) -> tuple[Any, int | None]:
    """Load the tokenizer of a model, and take the context from the model's config."""
    from nuggets_trainer.engine.loading import load_scorer_tokenizer, read_model_config
    from nuggets_trainer.engine.model import context_length

    return load_scorer_tokenizer(name), context or context_length(read_model_config(name))


def _read(
    dataset: PoolDataset, name: str, config: NuggetsConfig, options: RowOptions, formatting_func: Any
) -> tuple[Inspection, Pool | None]:
    """Read the rows, with a guessed mapping if their columns have no known names.

    Returns:
        The facts about columns and contents, and the pool; None in place of the pool if its rows cannot be read.
    """
    if isinstance(dataset, Pool):
        given = dataset.dataset
    else:
        given = dataset = take_pool(dataset, config.pool_size, name)
    guessed: tuple[str, ...] = ()
    is_known = (
        isinstance(dataset, Pool)
        or formatting_func is not None
        or config.columns
        or fitting_formats(given.column_names, options.dataset_text_field)
    )
    if not is_known:
        guessed = tuple(guess_columns(given.column_names, given.features))
        config = replace(config, columns=list(guessed) or None)
    if len(given) >= MANY_ROWS:
        seconds = duration(SECONDS_PER_ROW * len(given))
        logger.info("reading and comparing %s rows takes about %s on one core", f"{len(given):,}", seconds)
    mapping, text_field = _as_read(config.column_mapping, given), options.dataset_text_field
    implied = implied_mapping(given) if mapping is None and formatting_func is None else None
    try:
        pool = read_pool(dataset, config, options, formatting_func, name)
        overlap = overlap_of(pool, config)
        pool.exclude(overlap.reasons(config.deduplicate), "overlap")
        keys, unreadable = pool.read_keys()
    except (ValueError, FileNotFoundError, ImportError) as error:
        columns = column_facts(given, None, mapping or implied, text_field)
        return Inspection(name, len(given), columns, problem=str(error)), None
    looked_at = _evenly_spread(range(len(pool)), MOST_RENDERED)
    found = Inspection(
        name,
        len(pool),
        column_facts(given, pool.format, mapping or implied, pool.text_field),
        format=format_fact(pool, mapping, implied, guessed, looked_at),
        dropped=_drop_facts(unreadable),
        duplicates={"exact": exact_repeats(keys), **near_repeats(overlap.near), **same_prompts(pool)},
    )
    return found, pool


def _as_read(mapping: ColumnMapping | None, dataset: Dataset) -> ColumnMapping | None:
    """Return a mapping with the standard name of each column that the rows do not have under its own one."""
    if mapping is None:
        return None
    columns = {standard: own for standard, own in mapping.columns.items() if own in dataset.column_names}
    standard_names = {name: name for name in mapping.columns if name not in columns and name in dataset.column_names}
    return replace(mapping, columns={**columns, **standard_names})


def _with_texts(found: Inspection, pool: Pool, shown: Sequence[int], config: NuggetsConfig) -> Inspection:
    """Add rows and lengths without a template, in characters."""
    _, unreadable = pool.read_keys()
    rows = []
    for i in shown:
        rows.append(dropped_view(pool, i, unreadable[i]) if i in unreadable else text_view(pool, i))
    return replace(
        found,
        rows=tuple(rows),
        lengths=character_lengths(pool),
        length_unit="characters",
        problem=_why_not_selectable(config, pool, unreadable),
    )


def _with_prompts(
    found: Inspection, pool: Pool, shown: Sequence[int], config: NuggetsConfig, renderer: RowRenderer
) -> Inspection:
    """Add rows before anchors, and what rendering shows about the others."""
    _, unreadable = pool.read_keys()
    usable = pool.usable_indices()
    if len(usable) > MOST_RENDERED:
        usable = sorted(np.random.default_rng(0).permutation(usable)[:MOST_RENDERED].tolist())
    rendered = renderer.render(usable)
    rows = []
    for number, i in enumerate(shown):
        if i in unreadable:
            rows.append(dropped_view(pool, i, unreadable[i]))
            continue
        try:
            rows.append(renderer.view(i, number))
        except UnusableRowError as error:
            rows.append(dropped_view(pool, i, str(error)))
    dropped = {**unreadable, **rendered.dropped}
    return replace(
        found,
        problem=_why_not_selectable(config, pool, dropped),
        anchors=renderer.anchors_fact(),
        rows=tuple(rows),
        dropped=_drop_facts(dropped),
        num_rendered=len(usable),
        not_anchors=dict(rendered.not_anchors),
        remarks=dict(rendered.remarks),
        same_as_anchor=same_texts(pool, [] if renderer.stand_in else renderer.anchor_set.rows),
        lengths=rendered.lengths(renderer.anchor_lengths()),
        num_cut_in_training=sum(length > MAX_LENGTH_OF_TRL for length in rendered.rows),
    )


def _why_not_selectable(config: NuggetsConfig, pool: Pool, dropped: Mapping[int, str]) -> str | None:
    """Return the error with which a run would end before it scores; None if it would not.

    No row may be left, or fewer than `top_k`, or the rows lack the column or the prompts that a limit counts.
    """
    try:
        check_selectable(config, len(pool), dropped)
        check_limits(pool, config)
    except ValueError as error:
        return str(error)
    return None


def _rows_of(anchors: AnchorPools | None) -> tuple[list[Row | str] | None, list[str]]:
    """Return the anchors of all sets, a reason in place of one that cannot be read; and the names of their sets."""
    if anchors is None:
        return None, []
    rows: list[Row | str] = []
    names: list[str] = []
    for name, pool in anchors.items():
        names += [name] * len(pool)
        for j in range(len(pool)):
            try:
                rows.append(pool[j])
            except UnusableRowError as error:
                rows.append(str(error))
    return rows, names


def _drop_facts(dropped: Mapping[int, str]) -> tuple[DropFact, ...]:
    """Count the rows of each reason."""
    facts = []
    for reason, count in Counter(dropped.values()).most_common():
        examples = sorted(i for i, of in dropped.items() if of == reason)[:NUM_EXAMPLES]
        facts.append(DropFact(reason, REASONS.get(reason, UNKNOWN_REASON), count, tuple(examples)))
    return tuple(facts)


def _evenly_spread(indices: Sequence[int], number: int) -> list[int]:
    """Return this number of the indices, evenly spread from the first to the last; all of them if there are fewer."""
    if len(indices) <= number:
        return list(indices)
    places = np.linspace(0, len(indices) - 1, number).round().astype(int)
    return [int(indices[place]) for place in places]


def _check_indices(indices: Sequence[int] | None, num_rows: int) -> None:
    for index in indices or ():
        if not 0 <= index < num_rows:
            raise ValueError(
                f"`indices` must be row numbers from 0 to {num_rows - 1:,}, got {index}. Give other numbers."
            )
