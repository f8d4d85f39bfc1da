"""What a small sample of candidates tells of all: how many it takes, loss rates, the score at the cut. Pure numpy."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]

PRIOR_ANCHORS = 2.0  # pseudo-count of candidates behind each anchor's loss rate


def pilot_size(num_candidates: int) -> int:
    """Rows of the pilot: sqrt(n), a price of 1 / sqrt(n) of all pairs, most of which the order then saves."""
    return math.isqrt(num_candidates)


def upper_quantile(scores: Floats, share: float) -> float:
    """Score that this share of the candidates reaches, estimated from a sample.

    Half way between the sample's own quantile, which is low in small samples, and that of a half-normal through its
    better half.
    """
    middle = float(np.median(scores))
    spread = math.sqrt(float(np.mean((scores[scores >= middle] - middle) ** 2)))
    half_normal = middle + spread * max(0.0, NormalDist().inv_cdf(max(1 - share, 1e-12)))
    return (float(np.quantile(scores, 1 - share)) + min(1.0, half_normal)) / 2


def shrunk_rate(lost: Bools, scored: Bools) -> Floats:
    """Share of losses per anchor, `(m,)`, drawn towards that of all anchors where few rows are known."""
    mean = (lost.sum() + 1) / (scored.sum() + 2)
    rate: Floats = (lost.sum(axis=0) + PRIOR_ANCHORS * mean) / (scored.sum(axis=0) + PRIOR_ANCHORS)
    # In steps of 2^-20 sums are exact, hence the same in whatever order results come back.
    return np.ceil(rate * 2**20) / 2**20
