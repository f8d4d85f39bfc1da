"""A race finds the golden set of scoring everything: always, on any number of ranks, for fewer pairs."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nuggets_trainer.golden.scores import golden_scores
from nuggets_trainer.golden.selection import select_golden_set
from nuggets_trainer.racing.race import Race
from nuggets_trainer.racing.standings import Standings

RULES = st.one_of(
    st.tuples(st.just("top_k"), st.integers(1, 40)),
    st.tuples(st.just("top_fraction"), st.sampled_from([0.01, 0.1, 0.25, 0.5, 1.0])),
    st.tuples(st.just("threshold"), st.sampled_from([0.0, 0.25, 0.5, 0.8, 1.0])),
)


@dataclasses.dataclass
class Case:
    rule: tuple[str, float]
    zero_shot: np.ndarray
    log_probs: np.ndarray
    excluded: np.ndarray
    prefix_tokens: np.ndarray
    anchor_tokens: np.ndarray
    copies: np.ndarray

    def race(self, seed: int = 0, tokens_per_wave: int = 60) -> Race:
        standings = Standings(self.rule, self.zero_shot, self.excluded, self.copies)
        return Race(standings, self.prefix_tokens, self.anchor_tokens, tokens_per_wave, seed=seed)

    def scores(self, one_shot: np.ndarray, keep: np.ndarray, dropped: np.ndarray):
        """Golden scores of these rows, all others without one; equal rows repeated at the end of the pool."""
        one_shot = np.where(keep[:, None] & ~dropped[:, None] & ~self.excluded, one_shot, np.float32(np.nan))
        return golden_scores(self.zero_shot, np.repeat(one_shot, self.copies, axis=0))

    def exact(self):
        scorable = ~self.excluded & np.isfinite(self.zero_shot)
        dropped = (scorable & ~np.isfinite(self.log_probs)).any(axis=1)
        return self.scores(self.log_probs, np.full(len(dropped), True), dropped), dropped

    def raced(self, race: Race):
        return self.scores(race.standings.one_shot, race.standings.complete, race.standings.dropped)


@st.composite
def cases(draw) -> Case:
    rule = draw(RULES)
    n, m = draw(st.integers(1, 40)), draw(st.integers(1, 30))
    levels = draw(st.integers(2, 4))  # few values: ties in golden score and in mean gain
    skill, hardness = draw(st.floats(0, 3)), draw(st.floats(0, 3))
    nan_share, excluded_share = (draw(st.sampled_from([0.0, 0.0, 0.1, 0.5])) for _ in range(2))
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    latent = (
        skill * generator.normal(size=(n, 1)) + hardness * generator.normal(size=m) + generator.normal(size=(n, m))
    )
    log_probs = (np.round(np.clip(latent, -1, 1) * levels) / levels - 2).astype(np.float32)
    bad = generator.random(n) < nan_share / 2
    log_probs[bad[:, None] & (generator.random((n, m)) < 0.5)] = draw(st.sampled_from([np.nan, np.inf, -np.inf]))
    zero_shot = np.full(m, -2, dtype=np.float32)
    zero_shot[generator.random(m) < excluded_share / 5] = np.nan
    return Case(
        rule=rule,
        zero_shot=zero_shot,
        log_probs=log_probs,
        excluded=generator.random((n, m)) < excluded_share,
        prefix_tokens=generator.integers(0, 30, n),
        anchor_tokens=generator.integers(1, 20, m),
        copies=generator.integers(1, draw(st.integers(2, 4)), n),
    )


def run(race: Race, log_probs: np.ndarray, world: int = 1, seed: int = 0) -> list:
    """Play a race to its end, each wave spread over ranks whose results come back in any order and in pieces."""
    generator = np.random.default_rng(seed)
    waves = []
    while wave := race.next_wave():
        waves.append([(i, anchors.tolist()) for i, anchors in wave])
        shares = [wave[rank::world] for rank in range(world)]
        pieces = [(i, part) for share in shares for i, a in share for part in np.array_split(a, world) if len(part)]
        results = [(i, anchors, log_probs[i, anchors]) for i, anchors in pieces]
        results = [results[place] for place in generator.permutation(len(results))]
        middle = len(results) // 2
        race.update(results[:middle])
        race.update(results[middle:])
    return waves


def outcome(function):
    """Return what a function returns, or the text of its error."""
    try:
        return function()
    except ValueError as error:
        return str(error)


FAST = settings(
    max_examples=150, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow], database=None
)


@settings(FAST, max_examples=300)
@given(case=cases(), world=st.integers(1, 4), seed=st.integers(0, 3), tokens_per_wave=st.sampled_from([1, 60, 10**6]))
def test_a_race_finds_the_golden_set_of_scoring_all(case, world, seed, tokens_per_wave):
    race = case.race(seed, tokens_per_wave)
    run(race, case.log_probs, world, seed)
    scores, dropped = case.exact()
    # A race may miss a log-prob that is not finite on a pair it never scores; then it keeps a larger fraction.
    assert not (race.standings.dropped & ~dropped & (race.standings.num_anchors > 0)).any()
    expected = outcome(lambda: select_golden_set(scores, case.rule))
    num_candidates = int(case.copies[~race.standings.dropped].sum())
    found = outcome(lambda: select_golden_set(case.raced(race), case.rule, num_candidates))
    if isinstance(expected, str) or isinstance(found, str):
        assert isinstance(expected, str) and isinstance(found, str)
        assert expected == found
        return
    size = len(expected)
    assert size <= len(found)
    if case.rule[0] != "top_fraction" or (dropped <= race.standings.dropped).all():
        assert size == len(found)
        assert (expected.cut, expected.ties_at_cut) == (found.cut, found.ties_at_cut)
    for field in ("indices", "golden_score", "mean_gain", "standard_error"):
        np.testing.assert_array_equal(getattr(expected, field), getattr(found, field)[:size])


@FAST
@given(case=cases(), world=st.integers(1, 4))
def test_standings_of_every_candidate_are_true(case, world):
    race = case.race()
    run(race, case.log_probs, world)
    counted = np.isfinite(case.zero_shot) & ~case.excluded
    wins = counted & (case.log_probs > case.zero_shot)
    standings = race.standings
    complete, eliminated, dropped = standings.complete, standings.eliminated, standings.dropped
    np.testing.assert_array_equal(complete.astype(int) + eliminated + dropped, 1)  # each is exactly one of the three
    np.testing.assert_array_equal(standings.num_anchors, counted.sum(axis=1))
    scored = ~np.isnan(standings.one_shot)
    np.testing.assert_array_equal(standings.num_scored[~dropped], scored.sum(axis=1)[~dropped])
    np.testing.assert_array_equal(standings.wins, (scored & wins).sum(axis=1))
    final = wins.sum(axis=1) / np.maximum(counted.sum(axis=1), 1)
    upper = standings.upper_bound()
    np.testing.assert_array_equal(upper[complete], final[complete])
    assert (final <= upper)[eliminated].all()
    assert (upper < standings.bound)[eliminated].all()
    if case.rule[0] == "threshold":
        assert (upper <= case.rule[1])[eliminated].all()
    np.testing.assert_array_equal(standings.one_shot[complete], np.where(counted, case.log_probs, np.nan)[complete])


@FAST
@given(case=cases(), world=st.integers(2, 4))
def test_waves_do_not_depend_on_ranks_or_result_order(case, world):
    assert run(case.race(), case.log_probs) == run(case.race(), case.log_probs, world, seed=5)


@FAST
@given(case=cases(), seed=st.integers(0, 3))
def test_no_pair_is_scored_twice_or_without_need(case, seed):
    race = case.race(seed)
    seen = case.excluded | ~np.isfinite(case.zero_shot)
    while wave := race.next_wave():
        assert len({i for i, _ in wave}) == len(wave)
        for i, anchors in wave:
            assert len(anchors) and not seen[i, anchors].any()
            assert not race.standings.dropped[i] and not race.standings.eliminated[i]
            seen[i, anchors] = True
        race.update([(i, anchors, case.log_probs[i, anchors]) for i, anchors in wave])


def easy_case(n: int = 3000, m: int = 60, rule=("top_fraction", 0.01)) -> Case:
    generator = np.random.default_rng(0)
    latent = 1.5 + generator.normal(size=(n, 1)) + 1.5 * generator.normal(size=m) + generator.normal(size=(n, m))
    return Case(
        rule,
        np.full(m, -2, dtype=np.float32),
        (latent / 10 - 2).astype(np.float32),
        np.zeros((n, m), dtype=bool),
        generator.integers(50, 400, n),
        generator.integers(30, 200, m),
        np.ones(n, dtype=np.int64),
    )


def test_a_race_scores_few_pairs_in_full_waves():
    case = easy_case()
    race = case.race(tokens_per_wave=100_000)
    waves = run(race, case.log_probs)
    assert race.standings.num_scored.sum() < 0.25 * case.log_probs.size
    tokens = [sum(case.prefix_tokens[i] + case.anchor_tokens[a].sum() for i, a in wave) for wave in waves]
    assert np.mean(tokens) > 0.8 * 100_000  # the pilot's last wave and those of the end are short
    assert max(tokens) < 1.2 * 100_000
    visits = sum(len(wave) for wave in waves)
    assert visits < 3.5 * len(case.prefix_tokens)
    assert race.standings.eliminated.sum() > 0.9 * len(case.prefix_tokens)


def test_a_wave_waits_for_the_results_of_the_last():
    case = easy_case(n=30)
    race = case.race()
    assert race.next_wave()
    with pytest.raises(AssertionError, match="have no result"):
        race.next_wave()


def give(race: Race, case: Case, row: int, anchors) -> None:
    """Let a race have results that it has not asked for."""
    anchors = np.array(anchors)
    race._queue.count_results(-len(anchors))
    race.update([(row, anchors, case.log_probs[row, anchors])])


def test_the_bound_counts_equal_rows_each():
    case = easy_case(n=20, m=10, rule=("top_k", 3))
    case.copies[0] = 3
    race = case.race()
    assert race.standings.bound == -np.inf
    give(race, case, 0, range(10))
    assert race.standings.bound == np.mean(case.log_probs[0] > case.zero_shot)
    wider = dataclasses.replace(case, rule=("top_k", 4)).race()
    give(wider, case, 0, range(10))
    assert wider.standings.bound == -np.inf


def test_reaching_the_threshold_exactly_is_not_enough():
    case = easy_case(n=3, m=4, rule=("threshold", 0.75))
    case.log_probs[:] = -1  # wins
    case.log_probs[1, 0] = -3
    race = case.race()
    give(race, case, 1, [0])
    # No candidate passes yet, so the best of the pool has to be found.
    assert race.standings.eliminated.tolist() == [False, False, False]
    give(race, case, 0, range(4))
    assert race.standings.eliminated.tolist() == [False, True, False]
