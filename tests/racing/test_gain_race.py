"""A race for gains finds the share of the golden set that was asked for, on any number of ranks, for fewer pairs."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nuggets_trainer.golden.gains import anchor_scale
from nuggets_trainer.golden.scores import golden_scores
from nuggets_trainer.racing import gain_race, prediction_errors
from nuggets_trainer.racing.forecast import tokens_left, tokens_of_all
from nuggets_trainer.racing.gain_covariance import informative_order, shrunk_covariance
from nuggets_trainer.racing.gain_model import GainModel
from nuggets_trainer.racing.gain_race import GainRace
from nuggets_trainer.racing.gain_standings import GainStandings
from nuggets_trainer.racing.prediction_errors import correct_by_value, skewness_of
from nuggets_trainer.racing.recall import expected_recall, indifference_of

FAST = settings(
    max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow], database=None
)


def normal_pool(seed: int, n: int = 500, m: int = 40) -> np.ndarray:
    """One-shot log-probs by the law of the model, zero-shot 0: a quality, shared factors, noise; unlike anchors."""
    generator = np.random.default_rng(seed)
    quality = 0.5 * generator.normal(size=(n, 1)) * generator.uniform(0.2, 1.8, m)
    shared = generator.normal(size=(n, 3)) @ generator.normal(0, 0.4, (3, m))
    gains = quality + shared + 0.8 * generator.normal(size=(n, m))
    return (generator.normal(0, 0.1, m) + generator.uniform(0.05, 0.2, m) * gains).astype(np.float32)


def skewed_pool(seed: int, n: int = 500, m: int = 40) -> np.ndarray:
    """The same with few very bad rows and a short upper tail of the quality."""
    generator = np.random.default_rng(seed)
    quality = 1 - generator.gamma(0.4, 1 / math.sqrt(0.4), size=(n, 1))
    gains = 0.8 * quality * generator.uniform(0.5, 1.5, m) + 0.8 * generator.normal(size=(n, m))
    return (generator.normal(0, 0.1, m) + generator.uniform(0.05, 0.2, m) * gains).astype(np.float32)


def make_race(one_shot, rule, *, tokens_per_wave=2000, seed=0, pilot=64, recall=0.8, rank_by="gain", **given):
    n, m = one_shot.shape
    generator = np.random.default_rng(seed)
    excluded = given.get("excluded", np.zeros((n, m), dtype=bool))
    zero_shot = given.get("zero_shot", np.zeros(m, dtype=np.float32))
    budgeted = {"total_tokens": given["total_tokens"]} if "total_tokens" in given else {}
    standings = GainStandings(rule, zero_shot, excluded, given.get("copies"), rank_by=rank_by, **budgeted)
    prefix = generator.integers(10, 60, n) * given.get("longer", 1)
    suffix = generator.integers(20, 60, m)
    pilot = np.random.default_rng(seed).permutation(n)[:pilot]
    return GainRace(standings, prefix, suffix, tokens_per_wave, pilot=pilot, recall=recall)


def play(race: GainRace, one_shot: np.ndarray, world: int = 1, seed: int = 0) -> list:
    """Play a race to its end; results of the ranks come back in any order and in pieces."""
    generator = np.random.default_rng(seed)
    waves = []
    while wave := race.next_wave():
        waves.append([(row, anchors.tolist()) for row, anchors in wave])
        pieces = [(row, part) for row, anchors in wave for part in np.array_split(anchors, world) if len(part)]
        results = [(row, anchors, one_shot[row, anchors]) for row, anchors in pieces]
        results = [results[place] for place in generator.permutation(len(results))]
        race.update(results[: len(results) // 2])
        race.update(results[len(results) // 2 :])
    return waves


def found(race: GainRace, one_shot: np.ndarray, indifference: float = 0.0) -> float:
    """Share of the golden set by the race's values that is as good as that of scoring everything."""
    standings = race.standings
    value, _ = standings.model.predict(one_shot, ~np.isnan(one_shot))
    k = standings.num_kept
    exact, raced = np.argsort(-value, kind="stable")[:k], np.argsort(-standings.value, kind="stable")[:k]
    return float((value[raced] >= value[exact[-1]] - indifference).mean())


def tokens_of(race: GainRace, waves: list) -> int:
    return sum(int(race.prefix_tokens[row] + race.anchor_tokens[anchors].sum()) for w in waves for row, anchors in w)


@pytest.mark.parametrize("rank_by", ["gain", "mean_gain"])
def test_the_recall_is_at_least_what_was_asked(rank_by):
    """Where the gains follow the law: on the mean of pools, and for far less than all tokens."""
    recalls, shares = [], []
    for seed in range(8):
        one_shot = normal_pool(seed)
        race = make_race(one_shot, ("top_fraction", 0.1), seed=seed, rank_by=rank_by)
        waves = play(race, one_shot)
        recalls.append(found(race, one_shot, race.standings.indifference))
        shares.append(tokens_of(race, waves) / tokens_of_all(race))
    assert np.mean(recalls) >= 0.8
    assert np.mean(shares) < 0.55  # the pilot alone is 13% here
    assert min(recalls) < 1  # it does leave rows out


def pool_of_equals(seed: int, n: int = 600, m: int = 30) -> np.ndarray:
    """Gains of a pool whose better half wins each anchor by nearly as much, as a saturated model gives them."""
    generator = np.random.default_rng(seed)
    good = generator.random((n, 1)) < 0.5
    bad = -1.5 + 0.5 * generator.normal(size=(n, 1)) + 0.5 * generator.normal(size=(n, m))
    gains = np.where(good, 1 - 0.02 * generator.exponential(size=(n, m)), bad)
    return (generator.uniform(0.05, 0.2, m) * gains).astype(np.float32)


def test_rows_that_nobody_can_tell_apart_are_not_separated():
    """Such a race scored 60% of the tokens: half of the rows are as good as those at the cut."""
    as_good, shares = [], []
    for seed in range(4):
        one_shot = pool_of_equals(seed)
        race = make_race(one_shot, ("top_fraction", 0.1), seed=seed)
        shares.append(tokens_of(race, play(race, one_shot)) / tokens_of_all(race))
        as_good.append(found(race, one_shot, race.standings.indifference))
        value, _ = race.standings.model.predict(one_shot, ~np.isnan(one_shot))
        assert race.standings.indifference < 0.05 * value.std()
    assert np.mean(as_good) >= 0.8
    assert np.mean(shares) < 0.35  # the pilot and the first visits take 0.28


def test_a_token_budget_has_the_recall_for_the_rows_that_fit():
    """The race looked for as many of the shortest rows as fit: of those that the budget keeps it found too few."""
    as_good: dict[str, list[float]] = {"budget": [], "most rows": []}
    for seed in range(6):
        one_shot = skewed_pool(seed)
        generator = np.random.default_rng(seed)
        tokens = generator.integers(20, 60, len(one_shot)) * generator.choice([1, 12], len(one_shot))
        budget = int(0.15 * tokens.sum())
        most = int((np.cumsum(np.sort(tokens)) <= budget).sum())
        rules = {"budget": (("max_tokens", budget), {"total_tokens": tokens}), "most rows": (("top_k", most), {})}
        for name, (rule, given_tokens) in rules.items():
            race = make_race(one_shot, rule, seed=seed, recall=0.7, **given_tokens)
            play(race, one_shot)
            standings = race.standings
            value, _ = standings.model.predict(one_shot, ~np.isnan(one_shot))
            exact, raced = np.argsort(-value, kind="stable"), np.argsort(-standings.value, kind="stable")
            exact, raced = (order[np.cumsum(tokens[order]) <= budget] for order in (exact, raced))
            assert name == "most rows" or len(raced) == standings.num_kept
            as_good[name].append(float((value[raced] >= value[exact[-1]] - standings.indifference).mean()))
    assert np.mean(as_good["budget"]) >= 0.7 > np.mean(as_good["most rows"])


def test_equal_rows_use_a_budget_each():
    one_shot = normal_pool(6, n=100)
    copies, tokens = np.full(100, 3), np.full(100, 10)
    race = make_race(one_shot, ("max_tokens", 295), copies=copies, total_tokens=tokens)
    assert race.standings.num_kept == 29  # of average length, before the pilot is scored
    play(race, one_shot)
    assert race.standings.num_kept == 29
    race.standings.dropped[:] = True
    assert race.standings.num_kept == 1


def test_more_recall_costs_more_tokens():
    one_shot = normal_pool(3)
    spent, recalls = [], []
    for recall in (0.3, 0.7, 0.95):
        race = make_race(one_shot, ("top_k", 30), recall=recall)
        spent.append(tokens_of(race, play(race, one_shot)))
        recalls.append(found(race, one_shot))
    assert spent[0] < spent[1] < spent[2] and recalls[0] < recalls[1] <= recalls[2]
    assert recalls[0] < 0.9  # so a race that stopped too early would fail the test of the recall


@pytest.mark.parametrize("rule", [("top_k", 20), ("top_fraction", 0.02), ("threshold", 0.6)], ids=str)
def test_ranks_and_order_of_results_do_not_matter(rule):
    one_shot = normal_pool(4, n=300)
    alone, together = make_race(one_shot, rule), make_race(one_shot, rule)
    assert play(alone, one_shot) == play(together, one_shot, world=3, seed=7)
    for name in ("value", "error"):
        np.testing.assert_array_equal(getattr(alone.standings, name), getattr(together.standings, name))


def test_a_complete_row_has_its_exact_gain():
    one_shot = normal_pool(5, n=300)
    one_shot[:, 7] = np.nan  # an anchor that is not usable
    zero_shot = np.zeros(40, dtype=np.float32)
    zero_shot[7] = np.nan
    excluded = np.random.default_rng(0).random(one_shot.shape) < 0.02
    race = make_race(one_shot, ("top_k", 30), zero_shot=zero_shot, excluded=excluded)
    play(race, one_shot)
    standings = race.standings
    scorable = np.where(excluded, np.nan, one_shot)
    scores = golden_scores(zero_shot, scorable, anchor_scale(zero_shot, scorable[race.pilot]))
    complete = standings.complete
    assert 64 < complete.sum() < 300
    np.testing.assert_allclose(standings.value[complete], scores.gain[complete], atol=1e-12)
    assert (standings.error[complete] == 0).all() and (standings.error[~complete] > 0).all()
    predicted = standings.predictions()
    for name in ("gain", "mean_gain", "golden_score"):
        assert np.isnan(predicted[name][complete]).all()
        truth = getattr(scores, name)[~complete]
        errors = predicted[name][~complete] - truth
        assert abs(errors.mean()) < 0.2 * truth.std() and errors.std() < 0.7 * truth.std()
    error = (predicted["gain"] - scores.gain)[~complete] / predicted["gain_error"][~complete]
    assert 0.8 < np.sqrt(np.mean(error**2)) < 1.25  # the errors are as large as they are said to be
    bound = standings.upper_bound
    assert (bound[~complete] >= scores.golden_score[~complete]).all() and np.isnan(bound[complete]).all()


@st.composite
def odd_pools(draw) -> dict:
    """Small pools with ties, anchors that never vary, excluded pairs, rows without a finite log-prob, and copies."""
    n, m = draw(st.integers(1, 60)), draw(st.integers(1, 20))
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    one_shot = generator.normal(size=(n, m)) + draw(st.floats(0, 2)) * generator.normal(size=(n, 1))
    if draw(st.booleans()):
        one_shot = np.round(np.clip(one_shot, -1, 1))
    one_shot[:, generator.random(m) < draw(st.sampled_from([0, 0.5, 1]))] = 0.25
    one_shot[generator.random(n) < draw(st.sampled_from([0, 0.1]))] = np.nan
    zero_shot = np.zeros(m, dtype=np.float32)
    zero_shot[generator.random(m) < draw(st.sampled_from([0, 0.2]))] = np.nan
    rules = st.sampled_from([("top_k", 3), ("top_k", 99), ("top_fraction", 0.2), ("threshold", 0.4), ("threshold", 9)])
    return {
        "one_shot": one_shot.astype(np.float32),
        "rule": draw(rules),
        "zero_shot": zero_shot,
        "excluded": generator.random((n, m)) < draw(st.sampled_from([0, 0.3])),
        "copies": generator.integers(1, 4, n),
        "pilot": draw(st.integers(0, n)),
        "tokens_per_wave": draw(st.sampled_from([1, 300, 10**6])),
        "rank_by": draw(st.sampled_from(["gain", "mean_gain"])),
    }


@FAST
@given(pool=odd_pools())
def test_any_pool_ends_with_a_value_for_each_row(pool):
    one_shot = pool.pop("one_shot")
    race = make_race(one_shot, **pool)
    scored = set()
    for wave in play(race, one_shot):
        for row, anchors in wave:
            pairs = {(row, j) for j in anchors}
            assert anchors and not pairs & scored  # no pair twice
            scored |= pairs
    standings = race.standings
    assert not any(pool["excluded"][pair] for pair in scored)
    assert standings.complete[race.pilot[~standings.dropped[race.pilot]]].all()
    if standings.model is None:
        assert (standings.complete | standings.dropped).all()  # nothing was learned: all is scored
        return
    known = ~standings.dropped
    assert np.isfinite(standings.value[known]).all() and np.isfinite(standings.error[known]).all()
    assert standings.recall.share >= 0.8 or (standings.complete | standings.dropped).all()


def test_all_rows_tie():
    """Every row is as good as any other; a race used to be told apart by noise of rounding alone."""
    one_shot = np.full((200, 20), 0.3, dtype=np.float32)
    race = make_race(one_shot, ("top_k", 10))
    play(race, one_shot)
    assert found(race, one_shot) == 1


def test_forecast_holds_from_the_end_of_the_pilot_on():
    one_shot = normal_pool(6, n=800)
    race = make_race(one_shot, ("top_fraction", 0.1), tokens_per_wave=10_000)
    assert math.isnan(tokens_left(race)[1])
    spent, forecasts = 0, []
    while wave := race.next_wave():
        left = tokens_left(race)
        if not math.isnan(left[1]):
            forecasts.append((spent, left))
        spent += tokens_of(race, [[(row, anchors) for row, anchors in wave]])
        race.update([(row, anchors, one_shot[row, anchors]) for row, anchors in wave])
    at, (low, expected, high) = forecasts[0]
    assert low <= spent - at <= high and low < expected < high
    assert forecasts[-1][1][1] < 0.1 * forecasts[0][1][1]


def test_first_visits_are_longer_behind_long_prefixes(monkeypatch):
    one_shot = normal_pool(7, n=200)
    race = make_race(one_shot, ("top_k", 10), longer=100)
    waves = play(race, one_shot)
    lengths = {len(anchors) for wave in waves for row, anchors in wave if row not in set(race.pilot.tolist())}
    assert min(lengths) > gain_race.FIRST_ANCHORS


def test_recall_counts_what_is_expected_on_both_sides_of_the_cut():
    """Against the golden sets of many draws of the true values."""
    generator = np.random.default_rng(0)
    value, error = generator.normal(size=60), generator.choice([0, 0.2, 0.6], 60)
    copies = np.ones(60, dtype=np.int64)
    expected = expected_recall(value, error, copies, ("top_k", 12), 12)
    chosen = np.argsort(-value)[:12]
    draws = value + error * generator.normal(size=(4000, 60))
    shares = [np.isin(np.argsort(-draw)[:12], chosen).mean() for draw in draws]
    assert expected.share == pytest.approx(np.mean(shares), abs=0.02)
    assert expected.member.sum() == pytest.approx(12, abs=1e-6)
    doubled = expected_recall(value, error, 2 * copies, ("top_k", 24), 24)
    assert doubled.share == pytest.approx(expected.share) and doubled.cut == pytest.approx(expected.cut)


@pytest.mark.parametrize("skewness", [-0.9, 0.6])
def test_recall_counts_skewed_errors(skewness):
    """Against many draws of true values whose errors are gamma variables, and not as the normal law says."""
    generator = np.random.default_rng(2)
    value, error = generator.normal(size=400), np.full(400, 0.6)
    one_each = np.ones(400, dtype=np.int64)
    expected = expected_recall(value, error, one_each, ("top_k", 4), 4, skewness=skewness)
    shape = 4 / skewness**2
    errors = np.sign(skewness) * (generator.gamma(shape, size=(4000, 400)) - shape) / math.sqrt(shape)
    above = (value + error * errors >= expected.cut).mean(axis=0)
    np.testing.assert_allclose(expected.member, above, atol=0.03)
    assert above.sum() == pytest.approx(4, abs=0.15)
    normal = expected_recall(value, error, one_each, ("top_k", 4), 4)
    assert (normal.cut - expected.cut) * skewness < -0.05 * abs(skewness)  # a longer tail has a higher cut


def test_skewness_is_believed_only_where_chance_does_not_give_it():
    generator = np.random.default_rng(3)
    by_chance = [skewness_of(generator.standard_normal((64, 5))) for _ in range(40)]
    skewed = [skewness_of(1 - generator.gamma(2, size=(64, 5))) for _ in range(40)]  # skewness -1.4
    assert np.abs(by_chance).max() < 0.2 and np.mean(np.abs(by_chance)) < 0.02
    assert np.mean(skewed) == pytest.approx(-1, abs=0.1) and min(skewed) >= -1
    assert skewness_of(np.ones((64, 2))) == 0.0


def test_a_short_upper_tail_costs_fewer_tokens(monkeypatch):
    """With normal errors the cut of the top 1% was too high: rows were scored that had no chance."""
    tokens, recalls = {}, []
    for most in (0.0, 1.0):
        monkeypatch.setattr(prediction_errors, "MOST_SKEWNESS", most)
        spent = []
        for seed in range(2):
            one_shot = skewed_pool(seed)
            race = make_race(one_shot, ("top_fraction", 0.02), seed=seed, recall=0.75)
            spent.append(tokens_of(race, play(race, one_shot)) / tokens_of_all(race))
            if most:
                assert race.standings.model.skewness < -0.1
                recalls.append(found(race, one_shot, race.standings.indifference))
        tokens[most] = np.mean(spent)
    assert tokens[1.0] < 0.85 * tokens[0.0] and np.mean(recalls) >= 0.75


@pytest.mark.parametrize("rule", [("top_k", 12), ("threshold", 0.8)], ids=str)
def test_a_row_just_below_the_cut_is_no_miss(rule):
    """Against many draws of the true values."""
    generator = np.random.default_rng(1)
    value, error = generator.normal(size=60), np.full(60, 0.3)
    one_each = np.ones(60, dtype=np.int64)
    strict, expected = (expected_recall(value, error, one_each, rule, 12, width) for width in (0.0, 0.2))
    assert strict.share < expected.share - 0.05 and strict.cut == expected.cut
    draws = value + error * generator.normal(size=(4000, 60))
    chosen = np.argsort(-value)[:12] if rule[0] == "top_k" else np.flatnonzero(value > 0.8)
    cuts = np.sort(draws, axis=1)[:, -12] if rule[0] == "top_k" else np.full(4000, 0.8)
    shares = (draws[:, chosen] >= cuts[:, None] - 0.2).mean(axis=1)
    if rule[0] == "top_k":
        assert expected.share == pytest.approx(np.mean(shares), abs=0.02)
    assert expected.member[chosen].mean() == pytest.approx(np.mean(shares), abs=0.02)


def test_difference_that_does_not_count_is_a_quarter_of_the_error():
    """Drawn again, with the errors of both draws, rows that differ by it change places in 45 of 100 draws."""
    value, error = np.arange(40.0), np.where(np.arange(40) < 20, 8.0, 0.4)
    assert indifference_of(value, error, ("top_fraction", 0.5), 0.5) == pytest.approx(0.1)
    assert indifference_of(value, error, ("threshold", 20.0), 0.0) == pytest.approx(0.1)
    assert indifference_of(value, np.full(40, np.nan), ("top_k", 5), 0.1) == 0
    generator = np.random.default_rng(0)
    seen, truth = generator.normal(size=(2, 200_000)), np.linspace(-20, 20, 200_000)
    first, second = truth + math.sqrt(2) * 0.4 * seen  # difference of two rows, each with an error of 0.4
    changed = second[np.abs(first - 0.1) < 0.02] < 0
    assert changed.mean() == pytest.approx(0.45, abs=0.02)


def test_errors_follow_what_the_pilot_shows_near_a_value():
    """Rows of the better half are known ten times better; where all rows are alike, nothing changes."""
    generator = np.random.default_rng(2)
    predicted = np.concatenate([generator.normal(-2, 0.1, 32), generator.normal(2, 0.1, 32)])
    misses = np.concatenate([generator.normal(0, 1, 32), 0.5 + generator.normal(0, 0.1, 32)])
    found = correct_by_value(predicted, predicted + misses, 0.7, 1.2)
    (low_shift, high_shift), (low, high) = found.at(np.array([-2.0, 2.0]))
    assert high_shift == pytest.approx(0.5 / 0.7, rel=0.1) and abs(low_shift) < 0.5
    assert high < 0.25 < 0.9 < low < 2.1
    alike = correct_by_value(predicted, predicted + generator.normal(0, 0.7, 64), 0.7, 1.2)
    assert np.mean(alike.factor == 1.2) > 0.8
    assert correct_by_value(predicted[:12], predicted[:12], 0.7, 1.2).factor.tolist() == [1.2]


def test_the_plain_law_is_taken_where_it_is_right():
    """And hardly where anchors share factors; four good anchors then tell more than four others."""
    generator = np.random.default_rng(0)
    plain = 0.4 * generator.normal(size=(64, 1)) + 0.9 * generator.normal(size=(64, 50))
    assert shrunk_covariance(plain)[1] > 0.8
    shared = plain + 2 * generator.normal(size=(64, 2)) @ generator.normal(0, 0.5, (2, 50))
    assert shrunk_covariance(shared)[1] < 0.4


def test_anchors_that_tell_most_per_token_come_first():
    covariance = np.array([[1.0, 0.6, 0.0], [0.6, 1.0, 0.0], [0.0, 0.0, 0.2]])
    ones = np.ones(3)
    assert informative_order(covariance, ones, np.array([1, 1, 1])).tolist() == [0, 1, 2]
    assert informative_order(covariance, ones, np.array([4, 1, 1])).tolist() == [1, 2, 0]  # 0 tells little after 1


def test_a_draw_has_the_covariance_of_the_model():
    one_shot = normal_pool(8, n=300, m=6)
    model = GainModel(np.zeros(6, dtype=np.float32), one_shot, np.ones(6, dtype=np.int64))
    drawn = model.draw(np.random.default_rng(0), 4000)
    gains = model.scale.standardise(drawn.astype(np.float64))
    np.testing.assert_allclose(np.cov(gains.T), model.covariance, atol=0.08)
