"""Another selection rule for scores that are there: no model, no forward pass, some seconds."""

from __future__ import annotations

import dataclasses
import logging
from typing import Any

import numpy as np
import numpy.typing as npt

from nuggets_trainer.config.diversity_options import BEYOND_RANKING
from nuggets_trainer.config.nuggets_config import NuggetsConfig
from nuggets_trainer.config.requirement import TOTAL_TOKENS
from nuggets_trainer.config.rule_options import RANK_BY_SIGNALS, RULES
from nuggets_trainer.data.pool import Pool
from nuggets_trainer.data.row import first_of_equal
from nuggets_trainer.golden.diversity import Diversity
from nuggets_trainer.golden.limits import DUPLICATE, FAILS_REQUIRE, NO_SIGNAL
from nuggets_trainer.golden.ranking import RANKED_VALUES, SIGNAL_VALUES, RankedValue, most_within, written_rule
from nuggets_trainer.golden.selection import GoldenSet, select_golden_set
from nuggets_trainer.pipeline.diversity import diversity_of_stored
from nuggets_trainer.pipeline.row_filter import AGAIN, check_computed, rows_that_pass_stored
from nuggets_trainer.racing.recall import expected_recall, indifference_of
from nuggets_trainer.store.files import Place
from nuggets_trainer.store.read_results import check_same_pool, read_config, read_overlap, read_scores
from nuggets_trainer.store.stored_scores import StoredScores

logger = logging.getLogger(__name__)


def select_again(score_dir: Place, config: NuggetsConfig | None = None, pool: Pool | None = None) -> GoldenSet:
    """Choose a golden set by another selection rule from the scores of an earlier run.

    The golden set is the one that scoring the pool with this rule would give. After a race for gains, at least the
    share `race_recall` of it is as good as a row of that set, by expectation.

    Args:
        score_dir: directory or URL with the scores.parquet of the run.
        config: options of selection; the rule, `rank_by`, `require`, `group_by=num_tokens` and `max_rows_per_prompt`
            are read. None takes the defaults.
        pool: the rows that were scored, which `max_rows_per_prompt` needs. For scores of earlier versions, which did
            not look for duplicates, the rows that repeat an earlier one are left out here. A warning says if only
            their number could be compared with the scored rows.

    Raises:
        FileNotFoundError: if nothing was scored there.
        ValueError: if the golden set of the run or of the config depends on more than scores, lengths and prompts; if
            rows that a race stopped or left out could be in the golden set; if there are no columns that the config
            needs; or if other rows were scored than those of the pool. The error says what to run.
    """
    config = config or NuggetsConfig()
    # What lengths and prompts limit can be chosen here; such limits also take the place of the run's own ones.
    limited_here = set()
    if config.groups_by_length:
        limited_here.add("group_by")
    if config.max_rows_per_prompt is not None:
        limited_here.add("max_rows_per_prompt")
    wanted = _beyond_ranking(vars(config), limited_here)
    if wanted:
        raise ValueError(
            f"{wanted} needs all pairs, but `select_again` reads scores only. Run `nuggets score` with the new "
            "options on the same `score_dir`: it finds every pair in the store."
        )
    run_config = read_config(score_dir)
    used = _beyond_ranking(run_config, limited_here)
    if used:
        raise ValueError(
            f"The golden set in {score_dir} was chosen with {used}, which is not asked for now. `nuggets select` can "
            "choose within classes of length (`--group_by num_tokens`) and limit the rows of each prompt "
            "(`--max_rows_per_prompt`): repeat such an option. For any other choice, run the same `nuggets score` "
            "again with the new rule: it finds every pair in the store."
        )
    stored = read_scores(score_dir)
    if pool is not None:
        unchecked = check_same_pool(stored, pool)
        if unchecked is not None:
            logger.warning("%s", unchecked)
        if not read_overlap(score_dir):
            stored = _without_repeats(stored, pool)
    if config.rank_by in RANK_BY_SIGNALS:
        return _choose_by_signal(stored, config, run_config, pool)
    if not stored.num_anchors.any():
        raise ValueError(
            f"`rank_by={config.rank_by}` needs scored pairs, but the run in {score_dir} ranked rows by "
            f"`{run_config.get('rank_by')}` and scored none. {AGAIN} and with `--rank_by {config.rank_by}`."
        )
    passes = rows_that_pass_stored(stored, config.requirement, run_config)
    diversity = diversity_of_stored(stored, config, pool)
    return choose_by_rule(stored, config.selection_rule, run_config, config.rank_by, passes, diversity)


def _without_repeats(stored: StoredScores, pool: Pool) -> StoredScores:
    """Leave out the rows that repeat an earlier candidate word for word."""
    is_repeat = np.zeros(len(stored), dtype=np.bool_)
    for i, first in first_of_equal(pool.read_keys()[0]).items():
        is_repeat[i] = stored.reason[first] < 0
    return stored.without(is_repeat, DUPLICATE)


def _choose_by_signal(
    stored: StoredScores, config: NuggetsConfig, run_config: dict[str, Any], pool: Pool | None
) -> GoldenSet:
    """Choose by a signal of each row: a race that left out pairs has it too, also for rows that it left out."""
    check_computed(stored, [config.rank_by], f"`rank_by={config.rank_by}`")
    passes = rows_that_pass_stored(stored, config.requirement, run_config, need_pairs=False)
    signal, rule = stored.signals[config.rank_by], config.selection_rule
    tokens = _tokens_for(stored, rule)
    # A row that failed the condition of the run, or lacked the signal that it ranked by, was dropped for that alone.
    is_dropped = (stored.reason >= 0) & ~stored.dropped_as(FAILS_REQUIRE) & ~stored.dropped_as(NO_SIGNAL)
    signal = np.where(is_dropped, np.nan, signal)
    stored = dataclasses.replace(stored, signals={**stored.signals, config.rank_by: signal})
    has_value = ~np.isnan(signal)
    if passes is not None:
        has_value &= passes
    num_choosable = int(has_value.sum())
    if not num_choosable or (rule[0] == "top_k" and rule[1] > num_choosable):
        words = SIGNAL_VALUES[config.rank_by].words
        condition = ""
        if config.requirement is not None:
            condition = f" and meet `{config.requirement.text}`"
        raise ValueError(f"`{written_rule(rule)}` is too much: {num_choosable:,} rows have a {words}{condition}.")
    diversity = diversity_of_stored(stored, config, pool)
    return select_golden_set(
        stored, rule, diversity=diversity, rank_by=config.rank_by, passes=passes, total_tokens=tokens
    )


def _tokens_for(stored: StoredScores, rule: tuple[str, float]) -> npt.NDArray[np.float64] | None:
    """Return the tokens of each row, `(n,)`, if the rule is a token budget.

    Raises:
        ValueError: if the run did not count them.
    """
    if rule[0] != "max_tokens":
        return None
    check_computed(stored, [TOTAL_TOKENS], f"`{written_rule(rule)}`")
    return stored.signals[TOTAL_TOKENS]


def _beyond_ranking(config: dict[str, Any], but: set[str]) -> str:
    """Name the options of a config under which a golden set is not a ranking, but not those that can be had here."""
    return " and ".join(f"`{name}`" for name in BEYOND_RANKING if config.get(name) is not None and name not in but)


def choose_by_rule(
    stored: StoredScores,
    rule: tuple[str, float],
    run_config: dict[str, Any],
    rank_by: str = "golden_score",
    passes: npt.NDArray[np.bool_] | None = None,
    diversity: Diversity | None = None,
) -> GoldenSet:
    """Choose by a rule, if the scores suffice for it.

    Args:
        stored: scores of an earlier run.
        rule: name and value of the selection rule.
        run_config: config of that run, for the error.
        rank_by: value to rank by.
        passes: whether each row meets the condition `require`, `(n,)`; None without one.
        diversity: limits of the choice, from `diversity_of_stored`; None for a ranking.

    Raises:
        ValueError: if a row that a race stopped could be in the golden set, or if rows lack the value.
    """
    name, value = rule
    tokens = _tokens_for(stored, rule)
    all_stored = stored
    if passes is not None:
        stored = stored.without(~passes, FAILS_REQUIRE)
    if not stored.num_candidates:
        raise ValueError("No row that was scored meets `require`. Ask less of the rows.")
    if name == "top_k" and value > stored.num_candidates:
        raise ValueError(
            f"`top_k={value:.0f}` is larger than the usable pool: {stored.num_candidates:,} rows can be scored. Lower "
            "it."
        )
    if rank_by != "golden_score":
        _check_all_have(stored, RANKED_VALUES[rank_by])
        _check_recall(stored, _in_rows(stored, rule, rank_by, tokens), run_config, RANKED_VALUES[rank_by])
    else:
        reason = _why_not_enough(stored, rule, tokens, diversity)
        if reason is not None:
            raise ValueError(_refusal(rule, run_config, int(stored.eliminated.sum()), reason, diversity))
    return select_golden_set(all_stored, rule, stored.num_candidates, diversity, rank_by, passes, total_tokens=tokens)


def _in_rows(
    stored: StoredScores,
    rule: tuple[str, float],
    rank_by: str,
    tokens: npt.NDArray[np.float64] | None,
    diversity: Diversity | None = None,
) -> tuple[str, float]:
    """Give a token budget as the number of rows that it keeps; any other rule comes back as it is."""
    if tokens is None:
        return rule
    kept = select_golden_set(stored, rule, stored.num_candidates, diversity, rank_by, total_tokens=tokens)
    return "top_k", len(kept)


def _check_all_have(stored: StoredScores, ranked: RankedValue) -> None:
    """Refuse to rank by a gain that candidates lack: a gain has no bound that they could be ruled out by."""
    num_without = stored.num_candidates - int((~np.isnan(ranked.of(stored))).sum())
    if not num_without:
        return
    if stored.eliminated.any():
        reason = "because a race stopped rows before their last anchor"
    else:
        reason = "because an earlier version of nuggets_trainer wrote the file"
    raise ValueError(
        f"`rank_by={ranked.name}` needs the {ranked.words} of all candidates, but {num_without:,} of "
        f"{stored.num_candidates:,} have none, {reason}. Run the command that scored the pool again, on the same "
        f"`score_dir`, with `--rank_by {ranked.name}`: it scores what is missing, reuses the rest, and writes this "
        "golden set."
    )


def _check_recall(
    stored: StoredScores, rule: tuple[str, float], run_config: dict[str, Any], ranked: RankedValue
) -> None:
    """Refuse to rank by predicted gains if they find less of the golden set than the race was asked for."""
    if not stored.eliminated.any():
        return
    level = float(run_config.get("race_recall", 0.0))
    values, errors = ranked.of(stored), getattr(stored, ranked.error)
    has_value = ~np.isnan(values)
    name, value = rule
    num_kept = int(value) if name == "top_k" else max(1, round(value * stored.num_candidates))
    # The share of a threshold is not known before its rows are, so it is the run's only if that had the same one.
    is_same_size = num_kept == int(stored.selected.sum())
    if name == "threshold":
        is_same_size = run_config.get(name) == value
    is_own = run_config.get("rank_by") == ranked.name and is_same_size
    if is_own and has_value[stored.selected].all():
        return  # the race has decided this set, and it knew more of the errors: how skewed they are
    scored = has_value & ~stored.eliminated  # the errors of the others are those of predictions
    indifference = indifference_of(values[scored], errors[scored], rule, num_kept / max(1, stored.num_candidates))
    error_left = np.where(stored.eliminated, errors, 0.0)[has_value]
    one_each = np.ones(len(error_left), dtype=np.int64)
    found = expected_recall(values[has_value], error_left, one_each, rule, num_kept, indifference).share
    if found < level:
        reason = f"the predicted {ranked.words} of these rows would find only {found:.0%} of the golden set, by "
        reason += f"expectation, where `race_recall={level:g}` asks for {level:.0%}"
        raise ValueError(_refusal(rule, run_config, int(stored.eliminated.sum()), reason))


def _why_not_enough(
    stored: StoredScores,
    rule: tuple[str, float],
    tokens: npt.NDArray[np.float64] | None,
    diversity: Diversity | None,
) -> str | None:
    """Say why the scores do not decide a rule; None if they do."""
    bounds = stored.upper_bound[stored.eliminated]
    if not len(bounds):
        return None
    name, value = rule
    if tokens is not None:
        # The row that would pass the budget must be known too: in its place, a shorter one might fit.
        name, value = _in_rows(stored, rule, "golden_score", tokens, diversity)
        candidates = stored.complete | stored.eliminated
        value = min(value + 1, most_within(tokens[candidates], rule[1]))
    if name == "threshold":
        cut = value
        within = bounds > cut
    else:
        num_scored = int(stored.complete.sum())
        needed = value if name == "top_k" else max(1, round(value * stored.num_candidates))
        if needed > num_scored and tokens is not None:
            return f"the budget has room for more than the {num_scored:,} rows that have a golden score"
        if needed > num_scored:
            return f"the rule keeps {needed:,.0f} rows, but only {num_scored:,} have a golden score"
        known = select_golden_set(stored, (name, value), stored.num_candidates, diversity)
        if known.num_missing:
            return f"of the rows that have a golden score only {len(known):,} fit under `max_rows_per_prompt`"
        cut = known.cut
        within = bounds >= cut  # at the cut the mean gain decides, and that of a stopped row is not known
    if not within.any():
        return None
    return f"{int(np.sum(within)):,} of them could still reach {cut:.3f} (the best of them {bounds.max():.3f})"


def _refusal(
    rule: tuple[str, float],
    run_config: dict[str, Any],
    num_stopped: int,
    reason: str,
    diversity: Diversity | None = None,
) -> str:
    name, value = rule
    options = f"`--{name} {value}`"
    if diversity is not None:  # a race with gaps decides no other limit
        options += f" and `--max_rows_per_prompt {diversity.max_rows_per_prompt}`"
    in_place = ""
    for own in RULES:
        if run_config.get(own) is not None:
            in_place = f" in place of `--{own} {run_config[own]}`"
    return (
        f"The scores do not decide `{written_rule(rule)}`: a race stopped {num_stopped:,} rows before their last "
        f"anchor, and {reason}. Run the command that scored the pool again, on the same `score_dir`, with "
        f"{options}{in_place}: it scores what this rule needs, reuses the rest, and writes this golden "
        "set. For any rule, now and later, run it with `--schedule exact`, which scores every row, and then `nuggets "
        "select` again."
    )


def as_json(golden_set: GoldenSet) -> dict[str, Any]:
    """Return the golden set as numbers and lists."""
    rule = dict([golden_set.rule])
    result = {"rule": rule, "rank_by": golden_set.rank_by, **golden_set.summary()}
    if golden_set.groups:
        result["by_group"] = golden_set.groups
    return {**result, "indices": golden_set.indices.tolist()}
