"""The schedule `exact`: every pair is scored. The processes do not communicate until the end."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from functools import partial

import numpy as np
import numpy.typing as npt

from nuggets_trainer.racing.scored_pairs import Result
from nuggets_trainer.scoring.blocks import blocks, distinct
from nuggets_trainer.scoring.collect import AfterPilot, Outcome, Pilot
from nuggets_trainer.scoring.pair_scorer import PairScorer
from nuggets_trainer.scoring.progress import show_phase
from nuggets_trainer.scoring.rendering import Rendered
from nuggets_trainer.scoring.session import ScoringSession
from nuggets_trainer.scoring.watch import Watch
from nuggets_trainer.store.score_store import ZERO_SHOT, PartWriter, known

PILOT_ROWS = 64  # rows that tell how reliable a ranking is, within 0.06 of a correlation of 0.7
PILOT_SHARE = 4  # a small pool has a pilot of a fourth of its rows


def pilot_size_of_exact(num_candidates: int) -> int:
    """Return the number of rows to look at before the rest is scored: sqrt(n), but 64 where the pool has 256 rows.

    Example:
        >>> pilot_size_of_exact(100), pilot_size_of_exact(1_000), pilot_size_of_exact(52_000)
        (25, 64, 228)
    """
    return max(math.isqrt(num_candidates), min(PILOT_ROWS, num_candidates // PILOT_SHARE))


class ExactRun:
    """A run that scores every pair of a candidate and an anchor.

    Args:
        session: open session.
        rendered: anchors and candidates.
        watch: counts and times what is scored; it may stop the run.
        inner: whether another run of this session is under way, which has chosen the engine's path already.
        name: what the progress display calls it.

    Attributes:
        scorer: scores the pairs.
    """

    def __init__(
        self, session: ScoringSession, rendered: Rendered, watch: Watch, inner: bool = False, name: str = "Scoring"
    ) -> None:
        self._session, self._rendered, self._watch, self._name = session, rendered, watch, name
        self.scorer = PairScorer(session, rendered, watch, inner)

    def score(self, after_pilot: AfterPilot | None = None) -> None:
        """Score what is not stored; all ranks must call it.

        Args:
            after_pilot: called once the rows of the smallest hashes are scored and stored, which come first anyway;
                if it raises, the run ends there.
        """
        with self.scorer.writing() as writer:
            self._score(writer, after_pilot)

    def _score(self, writer: PartWriter, after_pilot: AfterPilot | None) -> None:
        ranks = self._session.ranks
        missing, tokens = self.missing()
        num_needed, all_tokens = np.sum(ranks.gather([(missing.num_pairs, tokens)]), axis=0).tolist()
        name = self._name if ranks.world == 1 else f"{self._name} (share of 1 of {ranks.world} processes)"
        with show_phase(name, "pairs", missing.num_pairs, ranks.is_main and missing.num_pairs > 0) as phase:
            workload = self.scorer.workload(num_needed, all_tokens)
            self._watch.start(phase, workload, own_tokens=tokens)
            if workload.tokens:
                self.scorer.choose_path()
            self.scorer.score_zero_shot()
            results = self.scorer.score(missing, writer, stoppable=True)
            if after_pilot is not None:
                ranks.gather_from(partial(self._score_pilot, results, missing, writer))
                after_pilot(self._session.only_on_main(self._read_pilot))
                self._watch.skip()
            ranks.gather_from(partial(self._score_rest, results, missing, writer))  # all have written, or all fail

    def _score_pilot(self, results: Iterator[Result], missing: MissingPairs, writer: PartWriter) -> list[None]:
        """Write this rank's pairs of the pilot; the pairs are computed in the same batches as without a pilot."""
        with self._session.passes.in_step():
            pilot = self._pilot_rows()
            wanted = missing.among({i for i, key in self.scorer.key_of.items() if key in pilot})
            # The longest candidate comes before them. The first one behind them ends the pilot.
            for candidate, _, _ in results if wanted else ():
                if candidate not in wanted and candidate != missing.first:
                    break
        writer.flush()
        return []

    def _score_rest(self, results: Iterator[Result], missing: MissingPairs, writer: PartWriter) -> list[None]:
        """Write this rank's other pairs; the other ranks only need to know of an error."""
        with self._session.passes.in_step():
            for _ in results:
                pass
        self._watch.finished = self.scorer.num_pairs == missing.num_pairs
        writer.flush()
        return []

    def _pilot_rows(self) -> dict[str, int]:
        """Find the number of the first candidate with each of the smallest hashes, of all ranks, by key."""
        _, first = distinct(self._rendered.keys)
        smallest = sorted(first)[: pilot_size_of_exact(len(first))]
        return {key: self._rendered.candidates[first[key]] for key in smallest}

    def _read_pilot(self) -> Pilot:
        """Read the pairs of the pilot from the store, where all ranks have put them."""
        rows = self._pilot_rows()
        pairs, _ = self._session.store.read([ZERO_SHOT, *rows], self._rendered.anchor_set.keys)
        one_shot = np.where(self.scorer.excluded(list(rows)), np.float32(np.nan), pairs[1:])
        return Pilot(pairs[0], one_shot, list(rows.values()))

    def missing(self) -> tuple[MissingPairs, int]:
        """Find the pairs that this rank has to score, and the forward tokens that they take."""
        rendered = self._rendered
        pairs = self._missing_pairs()
        return pairs, sum(rendered.shared.num_tokens(rendered.prompts[i], anchors) for i, anchors in pairs)

    def _missing_pairs(self) -> MissingPairs:
        """Find the pairs that this rank has to score; equal rows are scored once.

        They come in a random order, so that the speed so far tells the time to come. The longest prefix is first:
        memory runs out at once or never.
        """
        session, rendered, prompts = self._session, self._rendered, self._rendered.prompts
        by_key: dict[str, int] = {}
        for i in sorted(prompts):
            by_key.setdefault(self.scorer.key_of[i], i)
        keys, candidates = list(by_key), list(by_key.values())
        stored = session.store.read_matrix(keys, rendered.anchor_set.keys, session.scratch)
        needless = session.scratch.full(stored.shape, False, np.bool_)
        for some, block in blocks(keys):
            needless[block] = known(stored[block]) | self.scorer.excluded(some)
        longest = max(candidates, key=lambda i: (prompts[i].num_tokens(), -i), default=None)
        order = sorted(range(len(candidates)), key=lambda row: (candidates[row] != longest, keys[row]))
        return MissingPairs(candidates, order, needless)

    def read_outcome(self) -> Outcome | None:
        """Read all pairs from the store, once they are scored; all ranks must call it.

        Returns:
            The outcome on the main process; None on the others.

        Raises:
            RuntimeError: if the ranks do not share the store's file system.
        """
        return self._session.only_on_main(self._read_outcome)

    def _read_outcome(self) -> Outcome:
        keys, anchors, store = self._rendered.keys, self._rendered.anchor_set.keys, self._session.store
        row, first = distinct(keys)
        zero_shot, zero_known = store.read([ZERO_SHOT], anchors)
        one_shot = store.read_matrix(list(first), anchors, self._session.scratch)
        excluded = self.scorer.all_excluded(keys)
        missing = int((~zero_known).sum())
        for _, block in blocks(keys):
            missing += int((~known(one_shot[row[block]]) & ~excluded[block]).sum())
        if missing:
            raise RuntimeError(
                f"{missing:,} pairs that other ranks scored are not in {store.directory}. Is `score_dir` on a file "
                "system that all ranks share?"
            )
        no_bound = np.full(len(keys), np.nan)
        no_pilot = np.zeros(0, dtype=np.int64)
        return Outcome(zero_shot[0], one_shot, row, excluded, no_bound, {}, no_pilot)


class MissingPairs:
    """Candidates with the anchors that they have yet to be scored on, found as they are asked for.

    Args:
        candidates: candidates, `(c,)`.
        order: places among them, in the order to score in.
        needless: whether each pair needs no score, `(c, m)`.

    Attributes:
        num_pairs: number of pairs to score.
        first: candidate that comes first; None if there is none.
    """

    def __init__(self, candidates: list[int], order: list[int], needless: npt.NDArray[np.bool_]) -> None:
        self._candidates, self._order, self._needless = candidates, order, needless
        self.num_pairs = int(needless.size - np.count_nonzero(needless))
        self.first = candidates[order[0]] if order else None

    def among(self, wanted: Collection[int]) -> set[int]:
        """Return those of some candidates that have pairs to score."""
        found = set()
        for place, candidate in enumerate(self._candidates):
            if candidate in wanted and not self._needless[place].all():
                found.add(candidate)
        return found

    def __iter__(self) -> Iterator[tuple[int, npt.NDArray[np.int64]]]:
        for place in self._order:
            anchors = np.flatnonzero(~self._needless[place])
            if len(anchors):
                yield self._candidates[place], anchors
