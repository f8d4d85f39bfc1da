"""Random token ids to score."""

from __future__ import annotations

import numpy as np

from nuggets_trainer.prompts.segment import Segment

VOCAB = 97


def random_segments(num_segments: int, seed: int) -> list[Segment]:
    generator = np.random.default_rng(seed)
    segments = []
    for _ in range(num_segments):
        length = int(generator.integers(2, 40))
        ids = generator.integers(0, VOCAB, length).tolist()
        segments.append(Segment(ids, int(generator.integers(1, length))))
    return segments


def random_prefix(length: int = 23) -> list[int]:
    return np.random.default_rng(5).integers(0, VOCAB, length).tolist()
