"""Candidates in the order to visit them, cut into waves of about the same work."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from nuggets_trainer.golden.arrays import Bools, Ints

Wave = list[tuple[int, Ints]]  # candidates, each with the anchors to score it on


class WaveQueue:
    """A queue of candidates, and the waves that are taken from it.

    Args:
        rows: candidates to visit first, `(r,)`.
        prefix_tokens: forward tokens of a visit to each candidate before the first anchor, `(n,)`.
        anchor_tokens: forward tokens of each anchor behind any candidate, `(m,)`.
        tokens_per_wave: approximate forward tokens of a wave: it ends with the candidate that reaches them.
        block: number of candidates to choose anchors for at a time.

    Attributes:
        wave_tokens: forward tokens of the last wave.
    """

    def __init__(self, rows: Ints, prefix_tokens: Ints, anchor_tokens: Ints, tokens_per_wave: int, block: int) -> None:
        self._prefix_tokens, self._anchor_tokens = prefix_tokens, anchor_tokens
        self._tokens_per_wave, self._block = tokens_per_wave, block
        self.wave_tokens = 0
        self._outstanding = 0
        self.refill(rows, len(rows))

    def refill(self, rows: Ints, rank_again_after: int) -> None:
        """Replace the queue; after so many candidates, it is to be ranked anew."""
        self._rows, self._position, self._rank_again_at = rows, 0, rank_again_after

    def next_wave(self, rank: Callable[[], None], choose: Callable[[Ints], Bools]) -> Wave:
        """Take a wave.

        Args:
            rank: function that refills the queue; it is called before a wave, if it is time to rank anew.
            choose: function from candidates, `(r,)`, to the anchors of their next visit, `(r, m)`; a candidate without
                any is left out.

        Returns:
            Empty if the queue is empty after it was refilled.
        """
        assert self._outstanding == 0, f"{self._outstanding} pairs of the last wave have no result"
        wave: Wave = []
        self.wave_tokens = 0
        while self.wave_tokens < self._tokens_per_wave:
            if self._position >= self._rank_again_at and not wave:
                rank()
            rows = self._rows[self._position : self._position + self._block]
            if len(rows) == 0:
                break
            self._add(wave, rows, choose(rows))
        self._outstanding = sum(len(anchors) for _, anchors in wave)
        return wave

    def count_results(self, num_pairs: int) -> None:
        """Count pairs of the last wave whose results are in."""
        self._outstanding -= num_pairs

    def _add(self, wave: Wave, rows: Ints, chosen: Bools) -> None:
        """Add candidates to a wave until it is full; the others wait for the next wave.

        Args:
            wave: the wave so far, which grows.
            rows: the next candidates of the queue, `(r,)`.
            chosen: anchors of each, `(r, m)`.
        """
        places = np.flatnonzero(chosen.any(axis=1))
        visits = self._prefix_tokens[rows[places]] + chosen[places] @ self._anchor_tokens
        total = self.wave_tokens + np.cumsum(visits)
        size = min(len(places), int(np.searchsorted(total, self._tokens_per_wave)) + 1)
        for place in places[:size].tolist():
            wave.append((int(rows[place]), np.flatnonzero(chosen[place])))
        # Candidates without a visit are passed over, those behind the last visit too.
        self._position += int(np.append(places, len(rows))[size])
        if size:
            self.wave_tokens = int(total[size - 1])
