"""Runs a schedule: `exact` (every pair) or `race`, over all ranks, into the store. Knows no formula.

Each rank scores the candidates that it rendered. The exact schedule needs no word between ranks until the end. A race
is kept by the main process; after each wave the ranks meet, and what is in the store already answers at once, so that
a race that was interrupted, or raced before under another rule, is replayed and goes on.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from nuggets_trainer.golden.forecast import tokens_of_all
from nuggets_trainer.golden.pilot import pilot_size
from nuggets_trainer.golden.race import Race
from nuggets_trainer.golden.standings import Standings
from nuggets_trainer.prompts.segment import PrefixedSegments
from nuggets_trainer.prompts.shared_prefix import AnchorSet, CandidatePrompt, SharedPrefix
from nuggets_trainer.scoring.collect import Outcome
from nuggets_trainer.scoring.pairs import MissingPairs, Wanted, blocks, distinct
from nuggets_trainer.scoring.path import choose_path
from nuggets_trainer.scoring.progress import show_phase
from nuggets_trainer.scoring.session import ScoringSession
from nuggets_trainer.scoring.timing import Workload
from nuggets_trainer.scoring.watch import Watch
from nuggets_trainer.store.score_store import ZERO_SHOT, PartWriter, known
from nuggets_trainer.store.scratch import Scratch

# Forward passes of one wave: few meetings of the ranks, and little scored beyond need. For all ranks together up to
# four, so that they score the same pairs as one; beyond, each rank would get too little of it.
WAVE_BATCHES = 16
RANKS_IN_A_WAVE = 4
CALL_BATCHES = 8  # forward passes of one call of the engine, so that the last one's gaps do not count

Result = tuple[int, npt.NDArray[np.int64], npt.NDArray[np.float32]]  # candidate, anchor positions, log-probs


class Execution:
    """The pairs of one session, as far as this rank computes them.

    Args:
        session: what the stages share.
        anchor_set: the anchors.
        shared: their suffixes.
        prompts: the candidates that this rank rendered.
        candidates: pool indices of all ranks' candidates, in order.
    """

    def __init__(
        self,
        session: ScoringSession,
        anchor_set: AnchorSet,
        shared: SharedPrefix,
        prompts: dict[int, CandidatePrompt],
        candidates: list[int],
    ) -> None:
        self._session, self._anchor_set, self._shared, self._prompts = session, anchor_set, shared, prompts
        self._candidates = candidates
        self._keys = [session.keys[i] for i in candidates]
        self._scratch = Scratch(session.store.score_dir)
        self._path_chosen = False
        self._outcome: Outcome | None = None
        self.num_pairs = 0  # computed by this rank

    def run(self, measure_seconds: float | None = None) -> Outcome | None:
        """Score what the schedule asks for; the main process gets the outcome, the others None.

        Args:
            measure_seconds: stop after this time of scoring; `watch` then knows what it has shown.

        Raises:
            RuntimeError: if the ranks do not share the store's file system.
        """
        self._measuring, self.watch = measure_seconds is not None, Watch(measure_seconds)
        self._find_budget()
        with PartWriter(self._session.store) as writer:
            if self._session.config.schedule_in_force == "exact":
                return self._run_exact(writer)
            return self._run_race(writer)

    def _find_budget(self) -> None:
        """Find the tokens of a forward pass, on all ranks together: it may take some passes."""

        def find() -> list[int]:
            with self._session.passes.in_step():
                return [self._session.engine.find_tokens_per_batch()]

        self._session.ranks.gather_from(find)

    def _run_exact(self, writer: PartWriter) -> Outcome | None:
        ranks = self._session.ranks
        missing = self._missing_pairs()
        tokens = sum(self._shared.num_tokens(self._prompts[i], anchors) for i, anchors in missing)
        counts = ranks.gather([(missing.num_pairs, tokens)])
        name = "Scoring" if ranks.world == 1 else f"Scoring (share of 1 of {ranks.world} processes)"
        with show_phase(name, "pairs", missing.num_pairs, ranks.is_main and missing.num_pairs > 0) as phase:
            workload = self._workload(sum(pairs for pairs, _ in counts), sum(tokens for _, tokens in counts))
            self.watch.over(phase, workload, own_tokens=tokens)
            if workload.tokens:
                self._choose_path()
            self._score_zero_shot()

            def score() -> list[None]:
                """Write this rank's pairs; there is nothing to tell the others but an error."""
                with self._session.passes.in_step():
                    for _ in self._score(missing, writer, stoppable=True):
                        pass
                self.watch.finished = self.num_pairs == missing.num_pairs
                writer.flush()
                return []

            ranks.gather_from(score)  # all have written, or all fail
        if not self._measuring:
            ranks.on_main(self._read_outcome)
        return self._outcome

    def _workload(self, num_needed: int, tokens: float) -> Workload:
        n, m = len(self._candidates), len(self._anchor_set.keys)
        return Workload(n, m, n * m, n * m - num_needed, tokens)

    def _count_race(self) -> tuple[int, float]:
        """Pairs that are not stored, and their tokens."""
        num_pairs = int(self._race.standings.num_anchors.sum())
        num_stored = sum(int(known(self._stored[block]).sum()) for _, block in blocks(self._racers))
        num_needed = num_pairs - min(num_pairs, num_stored)
        return num_needed, tokens_of_all(self._race) * num_needed / max(1, num_pairs)

    def _missing_pairs(self) -> MissingPairs:
        """Find the pairs that this rank has to score; equal rows are scored once.

        In a random order, so that the speed so far tells the time to come, but for the longest prefix, which is first:
        memory runs out at once or never.
        """
        by_key = {self._session.keys[i]: i for i in sorted(self._prompts, reverse=True)}
        stored = self._session.store.read_matrix(list(by_key), self._anchor_set.keys, self._scratch)
        needless = self._scratch.full(stored.shape, False, np.bool_)
        for keys, block in blocks(list(by_key)):
            needless[block] = known(stored[block]) | self._excluded(keys)
        candidates = list(by_key.values())
        longest = max(candidates, key=lambda i: (self._prompts[i].num_tokens(), -i), default=None)
        order = sorted(
            range(len(candidates)),
            key=lambda row: (candidates[row] != longest, self._session.keys[candidates[row]]),
        )
        return MissingPairs(candidates, order, needless)

    def _read_outcome(self) -> None:
        anchors, store = self._anchor_set.keys, self._session.store
        row, first = distinct(self._keys)
        zero_shot, zero_known = store.read([ZERO_SHOT], anchors)
        one_shot = store.read_matrix(list(first), anchors, self._scratch)
        excluded = self._scratch.full((len(self._keys), len(anchors)), False, np.bool_)
        missing = int((~zero_known).sum())
        for keys, block in blocks(self._keys):
            excluded[block] = self._excluded(keys)
            missing += int((~known(one_shot[row[block]]) & ~excluded[block]).sum())
        if missing:
            raise RuntimeError(
                f"{missing:,} pairs that other ranks scored are not in {store.directory}. Is `score_dir` on a file "
                "system that all ranks share?"
            )
        self._outcome = Outcome(zero_shot[0], one_shot, row, excluded, np.full(len(self._keys), np.nan))

    def _run_race(self, writer: PartWriter) -> Outcome | None:
        ranks = self._session.ranks
        costs = ranks.gather([(i, prompt.prefix_tokens()) for i, prompt in self._prompts.items()])
        with show_phase("Scoring", "pairs", None, ranks.is_main) as phase:
            self._score_zero_shot()
            ranks.on_main(lambda: self._start_race(dict(costs)))
            # An upper bound: how many pairs a race leaves out is seen at its end.
            self.watch.over(phase, self._workload(*ranks.on_main(self._count_race)), sharing=ranks.world)
            while wave := ranks.on_main(self._next_missing):
                self._choose_path()
                own = {i: anchors for i, anchors in wave if i in self._prompts}
                results = ranks.gather_from(lambda own=own: self._score_together(own, writer))  # type: ignore[misc]
                ranks.on_main(lambda results=results: self._update(results))  # type: ignore[misc]
            self.watch.finished = ranks.on_main(lambda: self.watch.finished)
        if not self._measuring:
            ranks.on_main(self._end_race)
        return self._outcome

    def _start_race(self, prefix_tokens: dict[int, int]) -> None:
        """Set up the race between the different candidates of all ranks, in pool order."""
        anchors, store = self._anchor_set.keys, self._session.store
        self._row, first = distinct(self._keys)
        self._racers = [self._candidates[place] for place in first.values()]
        self._stored = store.read_matrix(list(first), anchors, self._scratch)
        self._row_of = {i: row for row, i in enumerate(self._racers)}
        excluded = self._scratch.full((len(first), len(anchors)), False, np.bool_)
        for keys, block in blocks(list(first)):
            excluded[block] = self._excluded(keys)
        zero_shot = store.read([ZERO_SHOT], anchors)[0][0]
        rule, copies = self._session.config.selection_rule, np.bincount(self._row)
        self._race = Race(
            Standings(rule, zero_shot, excluded, copies, self._scratch.full),
            np.array([prefix_tokens[i] for i in self._racers]),
            np.array([len(self._shared.suffixes[j].ids) for j in range(len(anchors))]),
            self._tokens_per_wave(),
            pilot=self._pilot(list(first)),
        )

    def _tokens_per_wave(self) -> int:
        scale = max(1, self._session.ranks.world // RANKS_IN_A_WAVE)
        return WAVE_BATCHES * scale * self._session.engine.find_tokens_per_batch()

    def _pilot(self, keys: list[str]) -> npt.NDArray[np.int64]:
        """Choose the rows with the smallest hashes: a random sample, most of which stays when a pool grows."""
        smallest = sorted(range(len(keys)), key=lambda row: keys[row])[: pilot_size(len(keys))]
        return np.array(smallest, dtype=np.int64)

    def _next_missing(self) -> list[tuple[int, npt.NDArray[np.int64]]]:
        """Pairs of the next wave that are not stored; waves that are stored whole pass at once. Empty at the end."""
        missing: list[tuple[int, npt.NDArray[np.int64]]] = []
        while not missing and (wave := self._race.next_wave()):
            stored: list[Result] = []
            for row, anchors in wave:
                found = self._stored[row, anchors]
                there = known(found)
                if there.any():
                    stored.append((row, anchors[there], found[there]))
                if not there.all():
                    missing.append((self._racers[row], anchors[~there]))
            self._race.update(stored)
        self.watch.finished, stopped = not missing, self.watch.stopped
        self.watch.look_at(self._race, last=not missing or stopped)
        return [] if stopped else missing

    def _update(self, results: list[Result]) -> None:
        self._race.update([(self._row_of[i], anchors, log_probs) for i, anchors, log_probs in results])

    def _end_race(self) -> None:
        standings, row = self._race.standings, self._row
        del self._stored  # as large as what follows
        upper_bound = np.where(standings.eliminated, standings.upper_bound(), np.nan)
        excluded = self._scratch.full((len(row), len(self._anchor_set.keys)), False, np.bool_)
        for keys, block in blocks(self._keys):
            excluded[block] = self._excluded(keys)
        self._outcome = Outcome(standings.zero_shot, standings.one_shot, row, excluded, upper_bound[row])

    def _score_together(self, pairs: dict[int, npt.NDArray[np.int64]], writer: PartWriter) -> list[Result]:
        with self._session.passes.in_step():
            return list(self._score(pairs.items(), writer))

    def _score(self, pairs: Wanted, writer: PartWriter, stoppable: bool = False) -> Iterator[Result]:
        """Score these pairs of this rank's candidates into the store."""
        for batch in self._batches(pairs):
            if stoppable and self.watch.stopped:
                break
            log_probs = self._session.engine.score_prefixed([prefixed for _, _, prefixed in batch])
            for (i, anchors, _), values in zip(batch, log_probs, strict=True):
                writer.add(self._session.keys[i], [self._anchor_set.keys[j] for j in anchors], values)
                self.num_pairs += len(anchors)
                yield i, anchors, values
            writer.end_candidates(len({i for i, _, _ in batch}))
            tokens = (len(prefix) + sum(len(s.ids) for s in segments) for _, _, (prefix, segments) in batch)
            self.watch.scored(sum(len(anchors) for _, anchors, _ in batch), sum(tokens))

    def _batches(self, pairs: Wanted) -> Iterator[list[tuple[int, npt.NDArray[np.int64], PrefixedSegments]]]:
        """Yield candidates with their anchors, as many as fill some forward passes; each candidate whole."""
        batch: list[tuple[int, npt.NDArray[np.int64], PrefixedSegments]] = []
        num_tokens = 0
        for i, anchors in pairs:
            prompt, wanted = self._prompts[i], set(anchors.tolist())
            for prefix, sharing in prompt.prefixes:
                own = [j for j in sharing if j in wanted]
                if own:
                    segments = [self._shared.suffixes[j] if prefix else prompt.unshared[j] for j in own]
                    batch.append((i, np.array(own), (prefix, segments)))
                    num_tokens += len(prefix) + sum(len(s.ids) for s in segments)
            if num_tokens >= CALL_BATCHES * self._session.engine.find_tokens_per_batch():
                yield batch
                batch, num_tokens = [], 0
        if batch:
            yield batch

    def _choose_path(self) -> None:
        """Have the engine choose its path, once, and let the time run from then on."""
        if not self._path_chosen:
            self._path_chosen = True
            choose_path(self._session, self._anchor_set, self._shared, self._prompts)
            self.watch.begin()

    def _score_zero_shot(self) -> None:
        keys, store = self._anchor_set.keys, self._session.store
        missing = self._session.ranks.on_main(lambda: np.flatnonzero(~store.read([ZERO_SHOT], keys)[1][0]))
        if not len(missing):
            return
        self._choose_path()

        def score() -> list[None]:
            with self._session.passes.in_step():
                if self._session.ranks.is_main:
                    log_probs = self._session.engine.score([], [self._anchor_set.segments[j] for j in missing])
                    store.write([None] * len(missing), [keys[j] for j in missing], log_probs)
            return []

        self._session.ranks.gather_from(score)

    def _excluded(self, keys: list[str]) -> npt.NDArray[np.bool_]:
        """Where candidate and anchor have the same text and `exclude_self` holds, `(len(keys), usable anchors)`."""
        exclude_self = self._session.config.exclude_self
        if exclude_self is None:
            exclude_self = self._session.template.name != "nuggets"
        texts = self._session.texts
        columns: dict[str, list[int]] = {}
        for j, anchor in enumerate(self._anchor_set.rows):
            columns.setdefault(anchor.text_key, []).append(j)
        excluded = np.zeros((len(keys), len(self._anchor_set.keys)), dtype=np.bool_)
        for row, key in enumerate(keys if exclude_self else []):
            excluded[row, columns.get(texts[key], [])] = True
        return excluded
