"""The result files of a scoring run -> all that a report shows, as plain numbers and texts: what report.json holds.

Pairs are read in blocks of rows, and texts come from rows.parquet. So a report on millions of rows takes minutes and
little memory.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nuggets_trainer.golden.agreement import measure_agreement
from nuggets_trainer.golden.arrays import Bools, Floats, Ints
from nuggets_trainer.golden.ranking import RANKED_VALUES, RankedValue
from nuggets_trainer.report.anchor_figures import anchor_figures, heat_map_figures, tally_pairs
from nuggets_trainer.report.cautions import cautions
from nuggets_trainer.report.makeup import (
    group_figures,
    ranked_by,
    ranked_figures,
    reselection_figures,
    set_figures,
    what_is_kept,
)
from nuggets_trainer.report.tallies import (
    clipped_counts,
    grid_counts,
    rank_correlation,
    score_edges,
    share_larger,
    trimmed_edges,
)
from nuggets_trainer.report.trust import trust_figures
from nuggets_trainer.report.verdicts import verdict
from nuggets_trainer.store.files import Place
from nuggets_trainer.store.read_results import (
    read_run_info,
    read_scored_anchors,
    read_scores,
    read_shown_rows,
    read_signal_check,
)
from nuggets_trainer.store.shown_rows import texts_of
from nuggets_trainer.store.stored_scores import StoredScores

LENGTH_BARS = 24
NUMBERS = (
    *("golden_score", "standard_error", "gain", "gain_error", "mean_gain", "mean_gain_error"),
    *("upper_bound", "num_anchors"),
)


def read_figures(score_dir: Place) -> dict[str, Any]:
    """Collect what a report shows.

    Args:
        score_dir: directory of a finished run; a local path, or a URL for fsspec.

    Returns:
        JSON values: `verdict` (whether to trust the golden set), `run` (run.json), `what_is_kept`, `ranked` (the value
        that rows are ranked by, in words), `cut`, `cautions`, `scores` (the ranked values), `gains`, `golden_scores`
        (None without pairs), `sets`, `groups`, `length`, `anchors`, `heat_map`, `rows`, `reselection`,
        `signal_check`. A number that is not known is None.

    Raises:
        FileNotFoundError: if a file is missing; the error says what to run.
    """
    run, scores, shown = read_run_info(score_dir), read_scores(score_dir), read_shown_rows(score_dir)
    anchors = read_scored_anchors(score_dir)
    ranked = ranked_by(run)
    sample = _sampled(scores, shown, ranked)
    tally, heat, sampled = tally_pairs(score_dir, scores, anchors, sample)
    cut = _cut_figures(scores, sample, ranked)
    figures = {
        "run": run,
        "what_is_kept": what_is_kept(run),
        "ranked": ranked_figures(ranked),
        "cut": cut,
        "scores": _histogram(scores, ranked),
        "gains": _gain_figures(scores),
        "golden_scores": None if ranked.is_signal else _histogram(scores, RANKED_VALUES["golden_score"]),
        "sets": set_figures(scores, anchors),
        "groups": group_figures(run),
        "length": _length_figures(run["length_unit"], scores, shown, ranked),
        "anchors": anchor_figures(anchors, tally, shown),
        "heat_map": heat_map_figures(scores, tally, heat),
        "rows": _row_figures(scores, cut, shown, ranked),
        "reselection": reselection_figures(score_dir, scores, ranked),
        "signal_check": read_signal_check(score_dir, run),
    }
    plain: dict[str, Any] = _plain(figures)
    fraction = cut["num_kept"] / max(1, cut["num_candidates"])
    zero_shot = np.where([anchor["zero_shot"] is None for anchor in anchors], np.nan, 0.0)  # gains are over zero-shot
    value = "golden_score" if ranked.is_signal else ranked.name
    verdict_of_all = trust_figures(plain, measure_agreement(zero_shot, sampled.gains, fraction, value))
    return {"verdict": verdict_of_all, "cautions": cautions(plain), **plain}


def _sampled(scores: StoredScores, shown: pa.Table, ranked: RankedValue) -> Bools:
    """Whether a row stands for all candidates, `(n,)`: every row with a value, or after a race its pilot.

    After a race, the other rows with a golden score have it because they are good.
    """
    if ranked.is_signal:
        return ~np.isnan(ranked.of(scores)) & (scores.reason < 0)
    if not scores.eliminated.any():
        return scores.complete
    sample = np.zeros(len(scores), dtype=np.bool_)
    pilot, _ = _length_sample(shown, "pilot")
    sample[pilot] = True
    return sample


def _cut_figures(scores: StoredScores, sample: Bools, ranked: RankedValue) -> dict[str, Any]:
    """Describe the cut: where it is, how certain it is, and how many rows are near."""
    values = ranked.of(scores)
    kept = np.flatnonzero(scores.selected)
    last = kept[np.argmax(scores.rank[kept])]
    score, error = float(values[last]), float(ranked.error_of(scores)[last])
    margin = np.nan_to_num(error)
    rejected = (scores.reason < 0) & ~scores.selected
    # Coverage, quotas and near-duplicates reject rows far above the cut: these are not near it.
    near = rejected & (values >= score - margin) & (values <= score + margin)
    # After a race, not all rows near the cut have a value: the sample tells how many there are.
    estimate = round(float((near & sample).sum() / max(1, sample.sum())) * scores.num_candidates)
    return {
        "score": score,
        "standard_error": error,
        "num_anchors": scores.num_anchors[last],
        "mean_gain": scores.mean_gain[last],
        "tie_breaker": getattr(scores, ranked.tie_breaker)[last],
        "num_rows": len(scores),
        "num_candidates": scores.num_candidates,
        "num_kept": len(kept),
        "num_eliminated": scores.eliminated.sum(),
        "ties": (values == score).sum(),
        "ties_kept": (values[kept] == score).sum(),
        "near_kept": (values[kept] <= score + margin).sum(),
        "near_rejected": max(int(near.sum()), estimate),
        "num_sampled": sample.sum(),
        "best": (ranked.sign * values[kept]).max() * ranked.sign,
        "mean_kept": values[kept].mean(),
        "mean_gain_kept": scores.mean_gain[kept].mean(),
        "mean_rejected": _mean(values[rejected & ~np.isnan(values)]),
    }


def _mean(values: Floats) -> float | None:
    return float(values.mean()) if len(values) else None


def _histogram(scores: StoredScores, ranked: RankedValue) -> dict[str, Any]:
    """Count the values of kept, rejected and eliminated rows.

    An eliminated row has a predicted value after a race for gains, and a bound after one by golden scores.
    """
    values = ranked.of(scores)
    known, stopped = ~np.isnan(values), scores.eliminated & ~scores.selected
    if ranked.name == "golden_score":
        edges = score_edges(int(scores.num_anchors.max()))
        eliminated = np.where(known, values, scores.upper_bound)[stopped]
    else:
        edges, eliminated = trimmed_edges(values[known]), values[stopped & known]
    return {
        "edges": edges,
        "kept": clipped_counts(values[scores.selected & known], edges),
        "rejected": clipped_counts(values[known & ~scores.selected & ~stopped], edges),
        "eliminated": clipped_counts(eliminated, edges),
    }


def _gain_figures(scores: StoredScores) -> dict[str, Any]:
    scored = scores.has_score
    edges = trimmed_edges(scores.mean_gain[scored])
    return {
        "edges": edges,
        "kept": clipped_counts(scores.mean_gain[scores.selected], edges),
        "rejected": clipped_counts(scores.mean_gain[scored & ~scores.selected], edges),
        "correlation": rank_correlation(scores.golden_score[scored], scores.mean_gain[scored]),
    }


def _length_figures(unit: str, scores: StoredScores, shown: pa.Table, ranked: RankedValue) -> dict[str, Any]:
    """Ranked value against completion length over a sample; an eliminated row enters with its upper bound."""
    indices, lengths = _length_sample(shown, "length")
    _, kept_lengths = _length_sample(shown, "length_kept")
    rejected_lengths = lengths[~scores.selected[indices]]
    unbiased, unbiased_lengths = indices, lengths
    if scores.eliminated.any():
        unbiased, unbiased_lengths = _length_sample(shown, "pilot")
    logs = np.log10(lengths)
    # Edges on a grid of fifths of a power of ten.
    x_edges = np.linspace(math.floor(logs.min() * 5) / 5, math.floor(logs.max() * 5) / 5 + 0.2, LENGTH_BARS + 1)
    values, shown_values = ranked.of(scores), scores.best_known
    y_edges = np.linspace(0, 1, min(LENGTH_BARS, int(scores.num_anchors.max()) + 1) + 1)
    if ranked.name != "golden_score":
        shown_values = values
        y_edges = trimmed_edges(values[~np.isnan(values)], LENGTH_BARS)
    in_map = ~np.isnan(shown_values[indices])
    return {
        "unit": unit,
        "num_sampled": len(lengths),
        "x_edges": 10**x_edges,
        "y_edges": y_edges,
        "counts": grid_counts(logs[in_map], shown_values[indices][in_map], x_edges, y_edges),
        "correlation": rank_correlation(unbiased_lengths, values[unbiased]),
        "share_longer": share_larger(kept_lengths, rejected_lengths),
        "median_kept": np.median(kept_lengths),
        "median_rejected": np.median(rejected_lengths) if len(rejected_lengths) else None,
        "kept": clipped_counts(np.log10(kept_lengths), x_edges),
        "rejected": clipped_counts(np.log10(rejected_lengths), x_edges),
    }


def _length_sample(shown: pa.Table, part: str) -> tuple[Ints, Floats]:
    """Pool indices and completion lengths of one sample; no length is below 1, so that each has a logarithm."""
    rows = shown.filter(pc.equal(shown["part"], part))
    lengths = rows["completion_length"].to_numpy().astype(np.float64)
    return rows["index"].to_numpy(), np.maximum(lengths, 1)


def _row_figures(
    scores: StoredScores, cut: dict[str, Any], shown: pa.Table, ranked: RankedValue
) -> list[dict[str, Any]]:
    """Rows with their texts, scores, and why they were kept or not: best first, dropped ones last."""
    rows = []
    for row in shown.filter(pc.is_in(shown["part"], pa.array(["kept", "rejected", "dropped"]))).to_pylist():
        i = row["index"]
        status, why = verdict(scores, i, cut, ranked)
        figures = {"index": i, "status": status, "why": why, "rank": int(scores.rank[i]) or None}
        for name in NUMBERS:
            figures[name] = getattr(scores, name)[i]
        figures[ranked.name] = ranked.of(scores)[i]
        rows.append({**figures, **texts_of(row)})
    return sorted(rows, key=_place_on_the_page)


def _place_on_the_page(row: dict[str, Any]) -> tuple[float, ...]:
    """Ranked rows come by rank, eliminated ones by their upper bound, dropped ones as in the pool."""
    block = {"eliminated": 1, "dropped": 2}.get(row["status"], 0)
    return block, row["rank"] or 0, -np.nan_to_num(row["upper_bound"]), row["index"]


def _plain(value: Any) -> Any:
    """Turn arrays and numpy's numbers into what JSON knows; NaN into None."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, (np.ndarray, np.generic)):
        return _plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
