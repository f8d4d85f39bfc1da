"""The signal check: what a corruption is, what is counted, and what real small models see."""

from __future__ import annotations

import json
import logging

import numpy as np
import pytest
from datasets import Dataset

from nuggets_trainer import NuggetsConfig, Pool, load_rows, load_scorer, score_pool
from nuggets_trainer.pipeline import signal_check
from nuggets_trainer.pipeline.signal_check import CheckSize, affordable_size
from nuggets_trainer.pipeline.signal_verdict import SignalCheck, compare
from nuggets_trainer.scoring import exact
from nuggets_trainer.scoring.progress import show_phase
from tests.support.launch import BIN, TORCHRUN, run
from tests.support.models import tiny_model
from tests.support.rows import alpaca_rows
from tests.support.signal_check import check_scorer


def test_pairs_that_tie_count_as_half_and_say_nothing():
    zero_shot = np.zeros(4)
    clean = np.array([[1.0, 1, 1, 1]] * 20 + [[-1.0] * 4] * 20)
    copies = np.full((40, 4), -1.0)
    found = compare("shuffled_words", zero_shot, clean, copies)
    assert (found.ranked_right, found.ties, found.num_candidates) == (0.75, 20, 40)
    assert found.interval == pytest.approx((0.5 + 0.5 * (20 / (20 + 1.959964**2) - 0.5), 0.75)) and found.is_seen
    nothing = compare("shuffled_words", zero_shot, copies, copies)
    assert nothing.ranked_right == 0.5 and nothing.interval == (0.5, 0.5) and not nothing.is_seen
    backwards = compare("shuffled_words", zero_shot, copies, clean)
    assert backwards.ranked_right == 0.25 and not backwards.is_seen


def test_both_sides_are_compared_on_the_same_anchors():
    zero_shot, clean, copies = np.zeros(3), np.array([[1.0, np.nan, -1.0]]), np.array([[-1.0, 1.0, 1.0]])
    assert compare("shuffled_words", zero_shot, clean, copies).ties == 1  # 1 of 2 each


def test_noise_is_told_from_signal():
    """The interval holds one half for a scorer without signal: in about 95 of 100 checks."""
    generator = np.random.default_rng(0)
    seen = 0
    for _ in range(200):
        gains = generator.normal(size=(2, 40, 25))
        seen += compare("shuffled_words", np.zeros(25), *gains).is_seen
    assert seen <= 12  # 2.5% on this side
    signal = generator.normal(size=(2, 40, 25)) + np.array([0.3, 0]).reshape(2, 1, 1)
    assert compare("shuffled_words", np.zeros(25), *signal).is_seen


def test_the_verdict_says_what_is_seen_and_what_to_do(caplog):
    good, bad = np.ones((40, 4)), -np.ones((40, 4))
    yes, no = (
        compare("shuffled_words", np.zeros(4), good, bad),
        compare("mismatched_completion", np.zeros(4), bad, bad),
    )
    caplog.set_level(logging.INFO)
    for found, verdict, level in (((yes,), "all", "INFO"), ((yes, no), "some", "WARNING"), ((no,), "none", "WARNING")):
        check = SignalCheck(4, found)
        check.log()
        assert check.verdict == verdict and caplog.records[-1].levelname == level
        assert ("larger `scorer_model`" in check.describe()) == (verdict != "all")
    assert "cannot tell a candidate from a copy with the completion of another row" in caplog.records[1].message


@pytest.mark.parametrize("num_anchors", [4, 25, 100, 400])
def test_the_check_costs_at_most_a_twentieth(num_anchors):
    sizes = [(n, affordable_size(n, num_anchors)) for n in range(1, 2000)]
    for n, size in sizes:
        if size is not None:
            assert 2 * size.num_candidates * size.num_anchors <= 0.05 * n * num_anchors
            assert 8 <= size.num_candidates <= 40 and size.num_anchors <= num_anchors
    assert dict(sizes)[1600] == CheckSize(40, num_anchors) and dict(sizes)[15] is None
    assert dict(sizes)[320] is not None


def test_a_small_check_that_cannot_tell_says_so(caplog):
    good, bad, zero_shot = np.ones((10, 4)), -np.ones((10, 4)), np.zeros(4)
    six_right = np.concatenate([good[:6], bad[:4]])
    found = compare("shuffled_words", zero_shot, six_right, -six_right)
    check = SignalCheck(4, (found,))
    assert found.is_unclear and check.verdict == "unclear" and "too few candidates" in check.describe()
    check.log()
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    backwards = SignalCheck(4, (compare("shuffled_words", zero_shot, bad, good),))
    assert backwards.verdict == "none"  # ten of ten wrong are enough to tell
    # On 340 rows of the demo seven of nine tied and two were right, and the check said that it had failed.
    mostly_tied = SignalCheck(4, (compare("shuffled_words", zero_shot, good[:9], np.r_[bad[:2], good[:7]]),))
    assert mostly_tied.corruptions[0].interval[1] < 0.75 and mostly_tied.verdict == "unclear"
    assert SignalCheck(4, (compare("shuffled_words", zero_shot, good, good),)).verdict == "unclear"  # all tie


def test_the_copies_are_scored_as_rows_of_a_pool_would_be(tokenizer, tmp_path):
    model, rows = tiny_model("llama", len(tokenizer)), alpaca_rows(9, seed=31)
    anchors = Pool(Dataset.from_list(alpaca_rows(4, seed=32)), "anchors")
    config = NuggetsConfig(template="plain", top_k=3, signal_check=True)
    pool = Pool(Dataset.from_list(rows))
    scores, _ = score_pool(model, tokenizer, pool, anchors, config=config, score_dir=tmp_path)
    found = json.loads((tmp_path / "signal_check.json").read_text())
    assert found["verdict"] in ("none", "some", "all", "unclear") and found["num_anchors"] == 4

    ordered = sorted(range(9), key=lambda i: pool[i].key)  # by content hash
    copies = [
        {**rows[i], "output": pool[j].completion} for i, j in zip(ordered, ordered[1:] + ordered[:1], strict=True)
    ]
    assert all(copy["output"] != rows[i]["output"] for copy, i in zip(copies, ordered, strict=True))
    both = Pool(Dataset.from_list([rows[i] for i in ordered] + copies))
    config = NuggetsConfig(template="plain", top_k=3, schedule="exact")
    slow, _ = score_pool(model, tokenizer, both, anchors, config=config, score_dir=tmp_path / "slow")
    right = np.sign(slow.golden_score[:9] - slow.golden_score[9:]) / 2 + 0.5
    mismatched = found["corruptions"][1]
    assert mismatched["corruption"] == "mismatched_completion" and mismatched["num_candidates"] == 9
    assert mismatched["ranked_right"] == pytest.approx(right.mean())
    assert mismatched["golden_score"] == pytest.approx([slow.golden_score[:9].mean(), slow.golden_score[9:].mean()])
    again, _ = score_pool(model, tokenizer, pool, anchors, config=NuggetsConfig(top_k=3, signal_check=True, template="plain"), score_dir=tmp_path)  # fmt: skip  # noqa: E501
    assert scores.num_pairs_scored > 9 * 4 and again.num_pairs_scored == 0  # all of it is in the store


def test_anchors_are_no_candidates_of_the_check(tokenizer, tmp_path, monkeypatch):
    """Else an anchor would be scored without itself, and its copy with it. The bar is not that of the pool's run."""
    bars = []
    monkeypatch.setattr(exact, "show_phase", lambda name, *more: bars.append(name) or show_phase(name, *more))
    model, rows = tiny_model("llama", len(tokenizer)), alpaca_rows(8, seed=33)
    pool, anchors = Pool(Dataset.from_list(rows)), Pool(Dataset.from_list(rows[:3]), "anchors")
    found = check_scorer(model, tokenizer, pool, anchors, config=NuggetsConfig(template="plain"), score_dir=tmp_path)
    assert max(c.num_candidates for c in found.corruptions) == 5
    assert bars == ["Signal check"]


def seen(name, pool, anchors, tmp_path, num_anchors, **config):
    model, tokenizer = load_scorer(str(name))
    anchors = load_rows(str(anchors))
    anchors = Pool(anchors.select(range(min(num_anchors, len(anchors)))), "anchors")
    check = check_scorer(model, tokenizer, pool, anchors, config=NuggetsConfig(**config), score_dir=tmp_path)
    return check.verdict, {found.corruption: found for found in check.corruptions}


def test_it_passes_on_the_demo(tmp_path):
    pool = Pool(load_rows("nuggets-demo/pool"))
    verdict, found = seen("nuggets-demo/model", pool, "nuggets-demo/anchors", tmp_path, 9)
    assert verdict == "all", found
    assert found["mismatched_completion"].golden_score[1] == 0.0


def short_rows(shared, number: int, longest: int) -> Pool:
    """Short real answers to different instructions, of the better models."""
    rows = load_rows(str(shared / "data" / "pool_alpacaeval" / "train.jsonl"))
    chosen = {}
    for row in rows:
        if 100 < len(row["output"]) < longest and len(row["instruction"]) < 150 and row["source_win_rate"] > 15:
            chosen.setdefault(row["instruction"], row)
    return Pool(Dataset.from_list(list(chosen.values())[:number]))


@pytest.fixture
def short_anchors(shared, tmp_path):
    rows = load_rows(str(shared / "data" / "anchors_kmeans100" / "anchors.jsonl"))
    rows = sorted((row for row in rows if len(row["output"]) > 60), key=lambda row: sum(map(len, row.values())))
    path = tmp_path / "anchors.jsonl"
    path.write_text("".join(json.dumps({k: r[k] for k in ("instruction", "input", "output")}) + "\n" for r in rows))
    return path


def test_it_says_that_an_induction_model_sees_shuffled_words_and_no_mismatch(
    shared, short_anchors, tmp_path, monkeypatch
):
    monkeypatch.setattr(signal_check, "NUM_CANDIDATES", 24)
    pool, model = short_rows(shared, 24, 250), shared / "models" / "tiny-llama-icl"
    verdict, found = seen(model, pool, short_anchors, tmp_path, 7)
    assert verdict == "some", found
    assert found["shuffled_words"].is_seen and not found["mismatched_completion"].is_seen


@pytest.mark.slow
@pytest.mark.parametrize(("name", "template"), [("tiny-llama-instruct", "chat"), ("stories260K", "plain")])
def test_it_warns_of_models_that_cannot_use_an_example(name, template, shared, short_anchors, tmp_path, caplog):
    pool = short_rows(shared, 60, 300)  # the second model reads 512 tokens of 1.6 characters
    verdict, found = seen(shared / "models" / name, pool, short_anchors, tmp_path, 16, template=template)
    assert min(corruption.num_candidates for corruption in found.values()) > 30
    assert not found["mismatched_completion"].is_seen and verdict != "all", found
    assert "larger `scorer_model`" in caplog.text


@pytest.mark.slow
def test_two_processes_find_what_one_finds(tmp_path):
    options = "--model_name_or_path nuggets-demo/model --dataset_name nuggets-demo/pool --anchors nuggets-demo/anchors"
    options += " --pool_size 60 --signal_check true --score_dir"
    run([str(BIN / "nuggets"), "score", *options.split(), str(tmp_path / "one")])
    run([*TORCHRUN, "2", "-m", "nuggets_trainer.cli", "score", *options.split(), str(tmp_path / "two")])
    one, two = (json.loads((tmp_path / name / "signal_check.json").read_text()) for name in ("one", "two"))
    for a, b in zip(one.pop("corruptions"), two.pop("corruptions"), strict=True):
        assert a.pop("mean_gain") == pytest.approx(b.pop("mean_gain"), abs=1e-5)  # other batches: other rounding
        assert a == b
    assert one == two
    assert signal_check.NUM_CANDIDATES == 40
