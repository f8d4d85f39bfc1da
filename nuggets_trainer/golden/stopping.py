"""A probabilistic stop for the race: a test that stays valid however often one looks. Pure numpy."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

STAKE = 0.5  # of the bet on each anchor; at most 0.5, so that the capital is never negative


def out_of_reach(
    lost: npt.NDArray[np.bool_],
    scored: npt.NDArray[np.bool_],
    loss_rate: npt.NDArray[np.float64],
    num_anchors: npt.NDArray[np.int64],
    max_losses: npt.NDArray[np.float64],
    confidence: float,
) -> npt.NDArray[np.bool_]:
    """Which candidates have lost so much, so early, that it cannot be chance.

    Hypothesis: the candidate loses at most `max_losses` of its anchors, which come in a random order. A capital of 1
    is bet on each anchor against it: with x the loss (0 or 1) less what the pilot expects, and mu the most that the
    mean of x can be over the anchors to come, the capital is multiplied by `1 + STAKE * (x - mu)`. Under the
    hypothesis it does not grow in expectation, so that it ever reaches `1 / (1 - confidence)` with probability at most
    `1 - confidence` (Ville's inequality). A lower bound on what a selected candidate needs only makes mu larger and
    the capital smaller, so the bound may rise as the race goes on.

    Args:
        lost: `(r, m)`, anchors of each row in its own random order.
        scored: the same, those that are scored: the first ones, apart from such as are never scored.
        loss_rate: the same, the pilot's loss rate of each anchor; 0 for those that are never scored.
        num_anchors: anchors that each row is to be scored on at most, `(r,)`.
        max_losses: with more than this it is not selected, `(r,)`.
        confidence: in (0, 1).

    Returns:
        `(r,)`; a row of the golden set is among them with probability at most `1 - confidence`, over its order.
    """
    excess = np.where(scored, lost - loss_rate, 0.0)
    most = (max_losses - loss_rate.sum(axis=1))[:, None] - (np.cumsum(excess, axis=1) - excess)
    left = num_anchors[:, None] - (np.cumsum(scored, axis=1) - scored)
    mean = np.minimum(most / np.maximum(left, 1), 1.0)
    factor = np.where(scored, 1 + STAKE * (excess - mean), 1.0)
    with np.errstate(divide="ignore"):
        capital = np.cumsum(np.log(factor), axis=1)
    broken: npt.NDArray[np.bool_] = capital.max(axis=1) >= -np.log1p(-confidence)
    return broken


def own_order(rows: npt.NDArray[np.int64], num_anchors: int, seed: int) -> npt.NDArray[np.int64]:
    """Anchors in a random order of each row's own, `(len(rows), num_anchors)`; always the same for a seed."""
    orders = [np.random.default_rng([seed, row]).permutation(num_anchors) for row in rows.tolist()]
    return np.array(orders, dtype=np.int64).reshape(-1, num_anchors)
