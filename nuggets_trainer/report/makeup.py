"""What a golden set is made of: by anchor set, by group, and over the choices during training. Knows no texts."""

from __future__ import annotations

from typing import Any

from nuggets_trainer.store.files import Place
from nuggets_trainer.store.read_results import StoredScores, read_scores, reselections

MOST_GROUPS = 30


def what_is_kept(run: dict[str, Any]) -> str:
    """Say by which rule, and within what limits, rows were kept."""
    (rule, value), config = run["rule"], run["config"]
    best = {"top_fraction": f"The best {value * 100:g}%", "top_k": f"The best {value:,}"}
    limits = []
    if config.get("group_by") is not None:
        limits.append(f"within quotas by {config['group_by']}")
    if config.get("max_similarity") is not None:
        limits.append("without near-duplicates")
    if config.get("coverage_weight") is not None:
        limits.append("by coverage of the anchors")
    return ", ".join([f"{best.get(rule, f'All above {value:g}')} are kept", *limits])


def set_figures(table: StoredScores, anchors: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Mean golden score on each of several anchor sets; empty where there is one."""
    return [
        {
            "name": name,
            "num_anchors": sum(a["anchor_set"] == name and a["zero_shot"] is not None for a in anchors),
            "mean_kept": own[table.selected].mean(),
            "mean_candidates": own[table.complete].mean(),
        }
        for name, own in table.by_set.items()
    ]


def group_figures(run: dict[str, Any]) -> dict[str, Any] | None:
    """Rows of the largest groups, where there were quotas; and how many groups there are besides."""
    counts = run.get("groups")
    if not counts:
        return None
    rows = [{"name": name, **of_group} for name, of_group in counts.items()]
    return {"column": run["config"]["group_by"], "rows": rows[:MOST_GROUPS], "num_more": len(rows[MOST_GROUPS:])}


def reselection_figures(score_dir: Place, table: StoredScores) -> list[dict[str, Any]]:
    """One entry per golden set, the first one included; empty where it was chosen once."""
    steps = reselections(score_dir)
    if not steps:
        return []
    entries, first, before = [], table.selected, table.selected
    for step, scores in [(0, table), *((step, read_scores(place)) for step, place in steps)]:
        kept = scores.selected
        entries.append(
            {
                "step": step,
                "num_kept": kept.sum(),
                "kept": (kept & before).sum(),
                "kept_of_first": (kept & first).sum(),
                "mean_kept": scores.golden_score[kept].mean(),
                "cut": scores.golden_score[kept].min(),
                "mean_gain_kept": scores.mean_gain[kept].mean(),
            }
        )
        before = kept
    return entries
