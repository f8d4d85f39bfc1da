"""What a golden set is ranked by and made of: by anchor set, by group, and over the selections during training."""

from __future__ import annotations

from typing import Any

from nuggets_trainer.config.diversity_options import COMPLETION_TOKENS
from nuggets_trainer.golden.ranking import RANKED_VALUES, RankedValue, ranked_value
from nuggets_trainer.store.files import Place
from nuggets_trainer.store.read_results import read_scores, reselections
from nuggets_trainer.store.stored_scores import StoredScores
from nuggets_trainer.wording import counted

MOST_GROUPS = 30
# Digits after the point; 2 for the other values.
DIGITS = {"mean_gain": 4, "loss": 3, "ifd": 3, "similarity": 3, "similarity_turn": 0, "ica": 4, "num_tokens": 0}
# Meaning of each value, after "A row's golden score"; the page has named the model and the anchor tasks before.
MEANINGS = {
    "golden_score": "is the share of these tasks whose right answer it made more likely",
    "gain": "says how much more likely it made their right answers on average, in deviations of each task's gains",
    "mean_gain": "says how much more likely it made their right answers on average, in nats per token",
    "loss": "is the mean negative log-prob of its completion's tokens behind its prompt, in nats; the lowest are best",
    "ifd": "is its loss behind its prompt divided by its loss without it; the highest up to 1 are best",
    "similarity": "is the mean cosine between its embedding and those of the anchors",
    "similarity_turn": "is the turn in which an anchor took it: each in turn takes the row that is most similar to it",
    "ica": "says how much more likely its completion became with anchors shown before it, in nats per token",
    "num_tokens": "is the number of scored tokens of its completion",
}


def ranked_by(run: dict[str, Any]) -> RankedValue:
    """Return the value that a run ranked its rows by; earlier versions ranked by the golden score alone."""
    return ranked_value(run.get("rank_by", "golden_score"))


def ranked_figures(ranked: RankedValue) -> dict[str, Any]:
    """Return the names of a value on the page, what it means, its unit, and the digits to show of it."""
    return {
        "name": ranked.name,
        "words": ranked.words,
        "title": ranked.words.capitalize(),
        "unit": ranked.unit,
        "meaning": MEANINGS[ranked.name],
        "tie_breaker": RANKED_VALUES[ranked.tie_breaker].words,
        "digits": DIGITS.get(ranked.name, 2),
        "is_signal": ranked.is_signal,
    }


def what_is_kept(run: dict[str, Any]) -> str:
    """Say by which rule, and within which limits, rows were kept.

    Example:
        >>> what_is_kept({"rule": ["top_k", 50], "config": {"group_by": "source"}})
        'The golden set is the best 50 rows, within quotas by source'
    """
    rule, value = run["rule"]
    ranked = ranked_by(run)
    kept = {
        "top_fraction": f"the best {value * 100:g}% of the candidates",
        "top_k": f"the best {value:,} rows",
        "threshold": f"all rows {'above' if ranked.sign > 0 else 'below'} {value:g}",
        "max_tokens": f"the best rows that {value:,} tokens have room for",
    }
    parts = [f"The golden set is {kept[rule]}"]
    num_tokens = run.get("golden_set", {}).get("golden_set_tokens")
    if num_tokens is not None:
        parts[0] += f" ({num_tokens:,} are used)"
    if ranked.name != "golden_score":
        parts[0] += f" by {ranked.words}"
    if run["config"].get("require") is not None:
        parts.append(f"of the rows with {run['config']['require']}{about_condition(run)}")
    group_by = run["config"].get("group_by")
    if group_by == COMPLETION_TOKENS:
        parts.append("within classes of length")
    elif group_by is not None:
        parts.append(f"within quotas by {group_by}")
    limit = run["config"].get("max_rows_per_prompt")
    if limit is not None:
        parts.append(f"with at most {counted(limit, 'row')} of each prompt")
    if run["config"].get("max_similarity") is not None:
        parts.append("without near-duplicates")
    if run["config"].get("coverage_weight") is not None:
        parts.append("chosen by coverage of the anchors")
    return ", ".join(parts)


def about_condition(run: dict[str, Any]) -> str:
    """Write the values of the percentiles that the condition names, and how much of the golden set it keeps.

    Returns:
        Both in brackets, after a space; empty if neither is known.
    """
    parts = []
    for found in run.get("percentiles", []):
        parts.append(f"p{found['percentage']} of {found['column']} is {found['value']:.4g}")
    measured = run.get("require_recall")
    if measured is not None:
        share = f"{measured['recall']:.0%}"
        if measured["low"] < measured["high"]:  # else all rows of the pool were measured
            share = f"about {share} (95% interval {measured['low']:.0%} to {measured['high']:.0%})"
        parts.append(
            f"without the condition, {share} of the golden set would meet it: {measured['num_met']:,} of the "
            f"{measured['num_golden']:,} best of {measured['num_rows']:,} random rows do"
        )
    if not parts:
        return ""
    return f" ({'; '.join(parts)})"


def set_figures(scores: StoredScores, anchors: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the mean golden score on each of several anchor sets; an empty list if there is one set."""
    figures = []
    for name, own in scores.by_set.items():
        num_anchors = sum(anchor["anchor_set"] == name and anchor["zero_shot"] is not None for anchor in anchors)
        figures.append(
            {
                "name": name,
                "num_anchors": num_anchors,
                "mean_kept": own[scores.selected].mean(),
                "mean_candidates": own[scores.complete].mean(),
            }
        )
    return figures


def group_figures(run: dict[str, Any]) -> dict[str, Any] | None:
    """Return the rows of the largest groups and the number of the others; None if there were no quotas."""
    groups = run.get("groups")
    if not groups:
        return None
    rows = [{"name": name, **counts} for name, counts in groups.items()]
    return {"column": run["config"]["group_by"], "rows": rows[:MOST_GROUPS], "num_more": len(rows[MOST_GROUPS:])}


def reselection_figures(score_dir: Place, scores: StoredScores, ranked: RankedValue) -> list[dict[str, Any]]:
    """Return one dict for each golden set of a training, the first one included; an empty list if there was one."""
    later = reselections(score_dir)
    if not later:
        return []
    first = previous = scores.selected
    entries = [_selection_figures(0, scores, first, previous, ranked)]
    for step, place in later:
        chosen = read_scores(place)
        entries.append(_selection_figures(step, chosen, first, previous, ranked))
        previous = chosen.selected
    return entries


def _selection_figures(
    step: int, scores: StoredScores, first: Any, previous: Any, ranked: RankedValue
) -> dict[str, Any]:
    """Describe one golden set and how much it has of the first and of the previous one, masks `(n,)`."""
    kept = scores.selected
    return {
        "step": step,
        "num_kept": kept.sum(),
        "kept": (kept & previous).sum(),
        "kept_of_first": (kept & first).sum(),
        "mean_kept": scores.golden_score[kept].mean(),
        "cut": ranked.of(scores)[kept].min(),
        "mean_gain_kept": scores.mean_gain[kept].mean(),
    }
