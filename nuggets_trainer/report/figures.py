"""The result files of a scoring run -> all that a report shows, as plain numbers and texts.

Pairs are read in blocks of rows, and texts are those of rows.parquet, so that a report on millions of rows takes
minutes and little memory. What comes out is what report.json holds.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from nuggets_trainer.report.cautions import cautions
from nuggets_trainer.report.makeup import group_figures, reselection_figures, set_figures, what_is_kept
from nuggets_trainer.report.tallies import (
    AnchorTally,
    clipped_counts,
    grid_counts,
    rank_correlation,
    score_edges,
    share_larger,
    spread_edges,
)
from nuggets_trainer.report.verdicts import verdict
from nuggets_trainer.store.files import Place
from nuggets_trainer.store.read_results import (
    Bools,
    Ints,
    StoredScores,
    read_anchors,
    read_optional,
    read_pairs,
    read_run,
    read_scores,
    read_shown_rows,
)

HEAT_ROWS, HEAT_ANCHORS = 60, 60
LENGTH_BARS = 24
SIGNAL_FILE = "signal_check.json"
TEXTS = ("prompt", "completion", "prompt_characters", "completion_characters", "completion_length")


def read_figures(score_dir: Place) -> dict[str, Any]:
    """Collect what a report shows.

    Args:
        score_dir: of a run that is over; a local path, or a URL for fsspec.

    Returns:
        JSON values: `run` (run.json), `what_is_kept`, `cut`, `cautions`, `scores`, `gains`, `sets`, `groups`,
        `length`, `anchors`, `heat_map`, `rows`, `reselection`, `signal_check`. A number that is not known is None.

    Raises:
        FileNotFoundError: if a file is missing, with what to do.
    """
    run, table, shown = read_run(score_dir), read_scores(score_dir), read_shown_rows(score_dir)
    anchors = read_anchors(score_dir)
    zero_shot = np.array([np.nan if a["zero_shot"] is None else a["zero_shot"] for a in anchors], dtype=np.float32)
    tally, heat_rows = AnchorTally(zero_shot), _heat_rows(table)
    sample = _sampled(table, shown)
    heat = _tally_pairs(score_dir, table, tally, heat_rows, sample)
    cut = _cut(table, sample)
    figures = {
        "run": run,
        "what_is_kept": what_is_kept(run),
        "cut": cut,
        "scores": _score_figures(table),
        "gains": _gain_figures(table),
        "sets": set_figures(table, anchors),
        "groups": group_figures(run),
        "length": _length_figures(run["length_unit"], table, shown),
        "anchors": _anchor_figures(anchors, tally, shown),
        "heat_map": _heat_map(table, tally, heat_rows, heat),
        "rows": _row_figures(table, cut, shown),
        "reselection": reselection_figures(score_dir, table),
        "signal_check": _signal_check(score_dir, run),
    }
    plain: dict[str, Any] = _plain(figures)
    return {"cautions": cautions(plain), **plain}


def _signal_check(score_dir: Place, run: dict[str, Any]) -> Any:
    """Give the signal check of this scorer; one of another, made in the same directory before, says nothing of it."""
    check = read_optional(score_dir, SIGNAL_FILE)
    is_own = isinstance(check, dict) and check.get("fingerprint") == run["fingerprint"]["id"]
    return check if is_own else None


def _tally_pairs(
    score_dir: Place, table: StoredScores, tally: AnchorTally, heat_rows: Ints, sample: Bools
) -> npt.NDArray[np.float32]:
    """Count all pairs; return the gains of the rows of the heat map, `(len(heat_rows), m)`."""
    heat = np.full((len(heat_rows), len(tally.zero_shot)), np.nan, dtype=np.float32)
    first = 0
    for block in read_pairs(score_dir):
        rows = slice(first, first + len(block))
        tally.add(block, table.selected[rows], sample[rows])
        here = np.flatnonzero((heat_rows >= rows.start) & (heat_rows < rows.stop))
        heat[here] = block[heat_rows[here] - first] - tally.zero_shot
        first += len(block)
    return heat


def _sampled(table: StoredScores, shown: pa.Table) -> Bools:
    """Which rows stand for all candidates, `(n,)`: all with a golden score, or after a race those of its pilot."""
    if not table.eliminated.any():
        return table.complete
    sample = np.zeros(len(table), dtype=np.bool_)
    sample[_sample(shown, "pilot")[0]] = True
    return sample


def _cut(table: StoredScores, sample: Bools) -> dict[str, Any]:
    """Say what is known of the cut: where it is, how sure, and who is near."""
    kept = np.flatnonzero(table.selected)
    last = kept[np.argmax(table.rank[kept])]
    score, number = float(table.golden_score[last]), int(table.num_anchors[last])
    error = float(table.standard_error[last])
    rejected = (table.reason < 0) & ~table.selected
    num_candidates = int((table.reason < 0).sum())
    # Coverage, quotas and near-duplicates reject rows far above the cut: these are not near it.
    near = rejected & (table.golden_score >= score - error) & (table.golden_score <= score + error)
    estimate = round(float((near & sample).sum() / max(1, sample.sum())) * num_candidates)
    return {
        "score": score,
        "standard_error": error,
        "num_anchors": number,
        "mean_gain": table.mean_gain[last],
        "num_rows": len(table),
        "num_candidates": num_candidates,
        "num_kept": len(kept),
        "num_eliminated": table.eliminated.sum(),
        "ties": (table.golden_score == score).sum(),
        "ties_kept": (table.golden_score[kept] == score).sum(),
        "near_kept": (table.golden_score[kept] <= score + error).sum(),
        "near_rejected": max(int(near.sum()), estimate),  # after a race, where not all of them have a score
        "num_sampled": sample.sum(),
        "best": table.golden_score[kept].max(),
        "mean_kept": table.golden_score[kept].mean(),
        "mean_gain_kept": table.mean_gain[kept].mean(),
        "mean_rejected": _mean(table.golden_score[rejected & table.complete]),
    }


def _mean(values: npt.NDArray[np.float64]) -> float | None:
    return float(values.mean()) if len(values) else None


def _score_figures(table: StoredScores) -> dict[str, Any]:
    edges = score_edges(int(table.num_anchors.max()))
    return {
        "edges": edges,
        "kept": clipped_counts(table.golden_score[table.selected], edges),
        "rejected": clipped_counts(table.golden_score[table.complete & ~table.selected], edges),
        "eliminated": clipped_counts(table.upper_bound[table.eliminated], edges),
    }


def _gain_figures(table: StoredScores) -> dict[str, Any]:
    complete = table.complete
    edges = spread_edges(table.mean_gain[complete])
    return {
        "edges": edges,
        "kept": clipped_counts(table.mean_gain[table.selected], edges),
        "rejected": clipped_counts(table.mean_gain[complete & ~table.selected], edges),
        "correlation": rank_correlation(table.golden_score[complete], table.mean_gain[complete]),
    }


def _length_figures(unit: str, table: StoredScores, shown: pa.Table) -> dict[str, Any]:
    """Score against completion length over the sample; an eliminated row enters with what it could have had."""
    indices, lengths = _sample(shown, "length")
    _, of_kept = _sample(shown, "length_kept")
    of_rejected = lengths[~table.selected[indices]]
    score, logs = table.best_known[indices], np.log10(lengths)
    sample, sample_lengths = _sample(shown, "pilot") if table.eliminated.any() else (indices, lengths)
    x_edges = np.linspace(math.floor(logs.min() * 5) / 5, math.floor(logs.max() * 5) / 5 + 0.2, LENGTH_BARS + 1)
    y_edges = np.linspace(0, 1, min(LENGTH_BARS, int(table.num_anchors.max()) + 1) + 1)
    return {
        "unit": unit,
        "num_sampled": len(lengths),
        "x_edges": 10**x_edges,
        "y_edges": y_edges,
        "counts": grid_counts(logs, score, x_edges, y_edges),
        "correlation": rank_correlation(sample_lengths, table.golden_score[sample]),
        "share_longer": share_larger(of_kept, of_rejected),
        "median_kept": np.median(of_kept),
        "median_rejected": np.median(of_rejected) if len(of_rejected) else None,
        "kept": clipped_counts(np.log10(of_kept), x_edges),
        "rejected": clipped_counts(np.log10(of_rejected), x_edges),
    }


def _sample(shown: pa.Table, part: str) -> tuple[Ints, npt.NDArray[np.float64]]:
    """Pool indices and completion lengths of one sample; no length is below 1, for a scale of powers."""
    rows = shown.filter(pc.equal(shown["part"], part))
    return rows["index"].to_numpy(), np.maximum(rows["completion_length"].to_numpy().astype(np.float64), 1)


def _anchor_figures(anchors: list[dict[str, Any]], tally: AnchorTally, shown: pa.Table) -> list[dict[str, Any]]:
    rows = shown.filter(pc.equal(shown["part"], "anchor")).to_pylist()
    texts = {row["anchor"]: {name: row[name] for name in TEXTS} for row in rows}
    discrimination = tally.discrimination()
    return [
        {
            **anchor,
            "pairs": tally.scored[j],
            "pairs_won": tally.won[j],
            "won": _share(tally.won_sample[j], tally.scored_sample[j]),
            "won_by_kept": _share(tally.won_kept[j], tally.scored_kept[j]),
            "mean_gain": _share(tally.gain[j], tally.scored_sample[j]),
            "discrimination": discrimination[j],
            **texts.get(j, {}),
        }
        for j, anchor in enumerate(anchors)
    ]


def _share(count: Any, number: Any) -> float | None:
    return float(count) / float(number) if number else None


def _spread(values: Ints, number: int) -> Ints:
    """Take so many, evenly from first to last."""
    places = np.linspace(0, len(values) - 1, min(number, len(values)))
    taken: Ints = values[np.unique(places.round().astype(np.int64))]
    return taken


def _heat_rows(table: StoredScores) -> Ints:
    """Pool indices for the heat map, best first: evenly through the ranking, then through the eliminated rows."""
    ranked, out = np.flatnonzero(table.rank > 0), np.flatnonzero(table.eliminated)
    ranked = ranked[np.argsort(table.rank[ranked])]
    return _spread(np.concatenate([ranked, out[np.argsort(-table.upper_bound[out], kind="stable")]]), HEAT_ROWS)


def _heat_map(table: StoredScores, tally: AnchorTally, rows: Ints, gains: npt.NDArray[np.float32]) -> dict[str, Any]:
    """Gains of the sampled rows; anchors from the one that is won most to the one that is won least."""
    usable = np.flatnonzero(tally.scored > 0)
    won = tally.won_sample[usable] / np.maximum(tally.scored_sample[usable], 1)
    anchors = _spread(usable[np.argsort(-won, kind="stable")], HEAT_ANCHORS)
    shown = gains[:, anchors].astype(np.float64)
    size = np.abs(shown[~np.isnan(shown)])
    return {
        "rows": rows,
        "selected": table.selected[rows],
        "anchors": anchors,
        "scale": float(np.quantile(size, 0.9)) if size.any() else 1.0,
        "gains": shown.round(4),
    }


def _row_figures(table: StoredScores, cut: dict[str, Any], shown: pa.Table) -> list[dict[str, Any]]:
    """Rows with their texts, scores, and why they were kept or not: best first, dropped ones last."""
    rows = []
    for row in shown.filter(pc.is_in(shown["part"], pa.array(["kept", "rejected", "dropped"]))).to_pylist():
        i = row["index"]
        status, why = verdict(table, i, cut)
        numbers = {name: getattr(table, name)[i] for name in ("golden_score", "standard_error", "mean_gain")}
        numbers |= {"upper_bound": table.upper_bound[i], "num_anchors": table.num_anchors[i]}
        rank = int(table.rank[i]) or None
        texts = {name: row[name] for name in TEXTS}
        rows.append({"index": i, "status": status, "why": why, "rank": rank, **numbers, **texts})
    place = {"kept": 0, "tied": 0, "below": 0, "eliminated": 1, "dropped": 2}
    return sorted(
        rows, key=lambda r: (place[r["status"]], r["rank"] or 0, -np.nan_to_num(r["upper_bound"]), r["index"])
    )


def _plain(value: Any) -> Any:
    """Turn arrays and numpy's numbers into what JSON knows; NaN into None."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, (np.ndarray, np.generic)):
        return _plain(value.tolist())
    return None if isinstance(value, float) and not math.isfinite(value) else value
