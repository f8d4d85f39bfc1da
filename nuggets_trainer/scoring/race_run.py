"""The schedule `race`: a candidate stops as soon as it cannot be selected any more, or in a race for gains hardly can.

The main process keeps the race, and the ranks communicate after each wave. Pairs that are in the store are not scored
again: a race that was interrupted, or that ran before under another rule, is replayed from the store and goes on.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import numpy.typing as npt

from nuggets_trainer.golden.gains import gain_pilot
from nuggets_trainer.prompts.segment import CandidatePrompt
from nuggets_trainer.racing.forecast import tokens_of_all
from nuggets_trainer.racing.gain_race import GainRace
from nuggets_trainer.racing.gain_standings import GainStandings
from nuggets_trainer.racing.pilot import pilot_size
from nuggets_trainer.racing.race import Race
from nuggets_trainer.racing.scored_pairs import Result
from nuggets_trainer.racing.standings import Standings
from nuggets_trainer.scoring.blocks import blocks, distinct
from nuggets_trainer.scoring.collect import AfterPilot, Outcome, Pilot
from nuggets_trainer.scoring.pair_scorer import PairScorer
from nuggets_trainer.scoring.progress import show_phase
from nuggets_trainer.scoring.rendering import Rendered
from nuggets_trainer.scoring.session import ScoringSession
from nuggets_trainer.scoring.watch import Watch
from nuggets_trainer.store.score_store import ZERO_SHOT, PartWriter, known

# Forward passes of one wave: more mean fewer meetings of the ranks, and more pairs beyond need. Up to four ranks share
# a wave, so that they score the same pairs as one rank; more ranks would get too little of it, so it grows with them.
WAVE_BATCHES = 16
RANKS_IN_A_WAVE = 4

Floats = npt.NDArray[np.float64]
Wave = list[tuple[int, npt.NDArray[np.int64]]]  # candidates, and the anchors to score each on


class RaceRun:
    """A run that scores what a race between the candidates of all ranks asks for.

    Args:
        session: open session.
        rendered: anchors and candidates.
        watch: counts and times what is scored; it may stop the run.
        total_tokens: tokens of each row of the pool, `(n,)`, on the main process; for a race for gains with
            `max_tokens`.

    Attributes:
        scorer: scores the pairs.
    """

    def __init__(
        self, session: ScoringSession, rendered: Rendered, watch: Watch, total_tokens: Floats | None = None
    ) -> None:
        self._session, self._rendered, self._watch = session, rendered, watch
        self._total_tokens = total_tokens
        self.scorer = PairScorer(session, rendered, watch)
        self._keeper: RaceKeeper | None = None  # on the main process

    def score(self, after_pilot: AfterPilot | None = None) -> None:
        """Score what the race asks for and the store lacks; all ranks must call it.

        Args:
            after_pilot: called once the race's pilot is scored and stored; if it raises, the run ends there.
        """
        with self.scorer.writing() as writer:
            self._score(writer, after_pilot)

    def _score(self, writer: PartWriter, after_pilot: AfterPilot | None) -> None:
        ranks, prompts = self._session.ranks, self._rendered.prompts
        own_tokens = map(CandidatePrompt.prefix_tokens, prompts.values())
        prefix_tokens = dict(ranks.gather(list(zip(prompts, own_tokens, strict=True))))
        with show_phase("Scoring", "pairs", None, ranks.is_main) as phase:
            self.scorer.score_zero_shot()
            self._keeper = self._session.only_on_main(
                lambda: RaceKeeper(self._session, self._rendered, self.scorer, prefix_tokens, self._total_tokens)
            )
            # An upper bound: how many pairs a race leaves out is seen at its end.
            needed = ranks.on_main(lambda: self._kept().count_needed())
            self._watch.start(phase, self.scorer.workload(*needed), sharing=ranks.world)
            while wave := ranks.on_main(self._next_wave):
                if after_pilot is not None and ranks.on_main(lambda: self._kept().pilot_is_scored):
                    self._look(after_pilot, writer)
                    after_pilot = None
                self.scorer.choose_path()
                results = ranks.gather_from(partial(self._score_wave, wave, writer))
                ranks.on_main(partial(self._update, results))
            if after_pilot is not None:  # every pair of the others was stored, or there are no others
                self._look(after_pilot, writer)
            self._watch.finished = ranks.on_main(lambda: self._watch.finished)

    def _look(self, after_pilot: AfterPilot, writer: PartWriter) -> None:
        def flush() -> list[None]:
            writer.flush()
            return []

        self._session.ranks.gather_from(flush)
        after_pilot(self._session.only_on_main(lambda: self._kept().read_pilot()))
        self._watch.skip()

    def _kept(self) -> RaceKeeper:
        assert self._keeper is not None, "only the main process keeps the race"
        return self._keeper

    def _next_wave(self) -> Wave:
        """Return the pairs of the next wave that are not stored; none at the end, or if the watch stops the run."""
        missing = self._kept().next_missing()
        self._watch.finished, stopped = not missing, self._watch.stopped
        self._watch.update_from_race(self._kept().race, last=not missing or stopped)
        return [] if stopped else missing

    def _score_wave(self, wave: Wave, writer: PartWriter) -> list[Result]:
        own = [(i, anchors) for i, anchors in wave if i in self._rendered.prompts]
        with self._session.passes.in_step():
            return list(self.scorer.score(own, writer))

    def _update(self, results: list[Result]) -> None:
        self._kept().update(results)

    def read_outcome(self) -> Outcome | None:
        """Return the result of the race, once it is over; all ranks must call it.

        Returns:
            The outcome on the main process; None on the others.
        """
        return self._session.only_on_main(lambda: self._kept().outcome())


class RaceKeeper:
    """A race between the different candidates of all ranks, in pool order, as the main process keeps it.

    Args:
        session: open session.
        rendered: anchors and candidates; the anchors are scored alone already.
        scorer: finds the pairs that are left out.
        prefix_tokens: tokens of each candidate's prefixes, of all ranks.
        total_tokens: tokens of each row of the pool, `(n,)`; read by a race for gains with `max_tokens`.

    Attributes:
        race: the race; its candidates are numbered in the order of their first occurrence.
    """

    def __init__(
        self,
        session: ScoringSession,
        rendered: Rendered,
        scorer: PairScorer,
        prefix_tokens: dict[int, int],
        total_tokens: Floats | None = None,
    ) -> None:
        self._rendered, self._scorer = rendered, scorer
        anchors, store = rendered.anchor_set.keys, session.store
        self._row, self._first = distinct(rendered.keys)
        keys = list(self._first)
        self._racers = [rendered.candidates[place] for place in self._first.values()]
        self._row_of = dict(zip(self._racers, range(len(self._racers)), strict=True))
        self._stored = store.read_matrix(keys, anchors, session.scratch)
        zero_shot = store.read([ZERO_SHOT], anchors)[0][0]
        config, copies = session.config, np.bincount(self._row)
        pairs = config.selection_rule, zero_shot, scorer.all_excluded(keys), copies, session.scratch.full
        scale = max(1, session.ranks.world // RANKS_IN_A_WAVE)
        tokens = (
            np.array([prefix_tokens[i] for i in self._racers]),
            rendered.shared.suffix_tokens,
            WAVE_BATCHES * scale * session.engine.find_tokens_per_batch(),
        )
        self.race: Race | GainRace
        if config.rank_by == "golden_score":
            self.race = Race(Standings(*pairs), *tokens, pilot=_smallest_hashes(keys))
        else:
            budgeted = None
            if config.max_tokens is not None and total_tokens is not None:
                budgeted = total_tokens[self._racers].astype(np.int64)
            gain_standings = GainStandings(*pairs, rank_by=config.rank_by, total_tokens=budgeted)
            self.race = GainRace(gain_standings, *tokens, pilot=gain_pilot(keys), recall=config.race_recall)

    def count_needed(self) -> tuple[int, float]:
        """Count the pairs that are not stored, as if the race left none out, and their tokens."""
        num_pairs = int(self.race.standings.num_anchors.sum())
        num_stored = 0
        for _, block in blocks(self._racers):
            num_stored += int(known(self._stored[block]).sum())
        num_needed = num_pairs - min(num_pairs, num_stored)
        return num_needed, tokens_of_all(self.race) * num_needed / max(1, num_pairs)

    def next_missing(self) -> Wave:
        """Return the pairs of the next wave that are not stored; a wave that is stored completely is skipped."""
        missing: Wave = []
        while not missing and (wave := self.race.next_wave()):
            stored: list[Result] = []
            for row, anchors in wave:
                found = self._stored[row, anchors]
                there = known(found)
                if there.any():
                    stored.append((row, anchors[there], found[there]))
                if not there.all():
                    missing.append((self._racers[row], anchors[~there]))
            self.race.update(stored)
        return missing

    def update(self, results: list[Result]) -> None:
        """Pass the results of a wave to the race."""
        self.race.update([(self._row_of[i], anchors, log_probs) for i, anchors, log_probs in results])

    @property
    def pilot_is_scored(self) -> bool:
        """Whether the pilot is scored, so that the next wave is of other candidates."""
        return self.race.pilot_scored

    def read_pilot(self) -> Pilot:
        """Return the pairs of the pilot, which is scored."""
        rows, standings = self.race.pilot, self.race.standings
        return Pilot(standings.zero_shot, standings.one_shot[rows], [self._racers[row] for row in rows])

    def outcome(self) -> Outcome:
        """Return the result of the race, which is over."""
        self._stored = self._stored[:0]  # it is as large as the arrays below, and not needed any more
        standings = self.race.standings
        predicted: dict[str, npt.NDArray[np.float64]] = {}
        if isinstance(standings, GainStandings):
            upper_bound = standings.upper_bound
            for name, values in standings.predictions().items():
                predicted[name] = values[self._row]
        else:
            upper_bound = np.where(standings.eliminated, standings.upper_bound(), np.nan)
        places = np.fromiter(self._first.values(), np.int64, len(self._first))
        return Outcome(
            zero_shot=standings.zero_shot,
            one_shot=standings.one_shot,
            row=self._row,
            excluded=self._scorer.all_excluded(self._rendered.keys),
            upper_bound=upper_bound[self._row],
            predicted=predicted,
            pilot=places[self.race.pilot],
        )


def _smallest_hashes(keys: list[str]) -> npt.NDArray[np.int64]:
    """Choose the pilot by the smallest hashes: a random sample, most of which stays when a pool grows."""
    smallest = sorted(range(len(keys)), key=lambda row: keys[row])[: pilot_size(len(keys))]
    return np.array(smallest, dtype=np.int64)
