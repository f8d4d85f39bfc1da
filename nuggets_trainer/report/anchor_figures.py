"""What the pairs say about the anchors: how often each is won, how it agrees with the others, and a map of gains."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from nuggets_trainer.golden.arrays import Bools, Ints
from nuggets_trainer.report.tallies import AnchorTally
from nuggets_trainer.store.files import Place
from nuggets_trainer.store.read_results import read_pairs
from nuggets_trainer.store.shown_rows import texts_of
from nuggets_trainer.store.stored_scores import StoredScores

HEAT_ROWS, HEAT_ANCHORS = 60, 60
SAMPLE_ROWS = 4000  # random candidates that the verdict compares halves of the anchors on


@dataclass(frozen=True, eq=False)  # arrays have no single truth value to compare by
class RowGains:
    """Gains of some rows on all anchors.

    Attributes:
        rows: pool indices, `(r,)`; those of the heat map come best row first.
        gains: nats per token, `(r, m)`; NaN for pairs that were not scored.
    """

    rows: Ints
    gains: npt.NDArray[np.float32]


def tally_pairs(
    score_dir: Place, scores: StoredScores, anchors: list[dict[str, Any]], sample: Bools
) -> tuple[AnchorTally, RowGains, RowGains]:
    """Count all pairs of a run, in one pass over pairs.parquet.

    Args:
        score_dir: directory of the run.
        scores: scores of the n rows.
        anchors: rows of anchors.parquet, m of them.
        sample: whether a row stands for all candidates, `(n,)`.

    Returns:
        The counts, the gains of the heat map's rows, and those of at most `SAMPLE_ROWS` rows of the sample.
    """
    zero_shot = np.full(len(anchors), np.nan, dtype=np.float32)
    for j, anchor in enumerate(anchors):
        if anchor["zero_shot"] is not None:
            zero_shot[j] = anchor["zero_shot"]
    tally = AnchorTally(zero_shot)
    drawn = np.random.default_rng(0).permutation(np.flatnonzero(sample))[:SAMPLE_ROWS]
    found = []
    for rows in (_heat_rows(scores), np.sort(drawn)):
        found.append(RowGains(rows, np.full((len(rows), len(anchors)), np.nan, dtype=np.float32)))
    start = 0
    for block in read_pairs(score_dir):
        stop = start + len(block)
        tally.add(block, scores.selected[start:stop], sample[start:stop])
        for some in found:
            here = np.flatnonzero((some.rows >= start) & (some.rows < stop))
            some.gains[here] = block[some.rows[here] - start] - zero_shot
        start = stop
    return tally, found[0], found[1]


def anchor_figures(anchors: list[dict[str, Any]], tally: AnchorTally, shown: pa.Table) -> list[dict[str, Any]]:
    """Return a dict for each anchor: its columns of anchors.parquet, its counts, and its texts if they are stored."""
    texts = {}
    for row in shown.filter(pc.equal(shown["part"], "anchor")).to_pylist():
        texts[row["anchor"]] = texts_of(row)
    discrimination = tally.discrimination()
    figures = []
    for j, anchor in enumerate(anchors):
        counts = {
            "pairs": tally.scored[j],
            "pairs_won": tally.won[j],
            "won": _share(tally.won_sample[j], tally.scored_sample[j]),
            "won_by_kept": _share(tally.won_kept[j], tally.scored_kept[j]),
            "mean_gain": _share(tally.gain[j], tally.scored_sample[j]),
            "discrimination": discrimination[j],
        }
        figures.append({**anchor, **counts, **texts.get(j, {})})
    return figures


def _share(count: Any, number: Any) -> float | None:
    return float(count) / float(number) if number else None


def heat_map_figures(scores: StoredScores, tally: AnchorTally, heat: RowGains) -> dict[str, Any]:
    """Return gains of some rows on some anchors, from the anchor that is won most to the one that is won least."""
    usable = np.flatnonzero(tally.scored > 0)
    won = tally.won_sample[usable] / np.maximum(tally.scored_sample[usable], 1)
    anchors = _evenly_spaced(usable[np.argsort(-won, kind="stable")], HEAT_ANCHORS)
    shown = heat.gains[:, anchors].astype(np.float64)
    sizes = np.abs(shown[~np.isnan(shown)])
    return {
        "rows": heat.rows,
        "selected": scores.selected[heat.rows],
        "anchors": anchors,
        "scale": float(np.quantile(sizes, 0.9)) if sizes.any() else 1.0,
        "gains": shown.round(4),
    }


def _heat_rows(scores: StoredScores) -> Ints:
    """Pool indices for the heat map, best first: evenly through the ranking, then through the eliminated rows."""
    ranked, eliminated = np.flatnonzero(scores.rank > 0), np.flatnonzero(scores.eliminated & (scores.rank == 0))
    ranked = ranked[np.argsort(scores.rank[ranked])]
    eliminated = eliminated[np.argsort(-scores.upper_bound[eliminated], kind="stable")]
    return _evenly_spaced(np.concatenate([ranked, eliminated]), HEAT_ROWS)


def _evenly_spaced(values: Ints, number: int) -> Ints:
    """Take so many values, evenly from the first to the last."""
    places = np.linspace(0, len(values) - 1, min(number, len(values)))
    taken: Ints = values[np.unique(places.round().astype(np.int64))]
    return taken
