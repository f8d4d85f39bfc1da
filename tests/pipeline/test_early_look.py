"""The early look at the pilot: what it says, when it ends a run, and that it changes no result."""

from __future__ import annotations

import dataclasses
import json
import logging
import time

import numpy as np
import pytest
from datasets import Dataset

from nuggets_trainer import NuggetsConfig, Pool, load_scorer, score_pool
from nuggets_trainer.cli import main
from nuggets_trainer.engine.log_probs import LogProbEngine
from nuggets_trainer.golden.agreement import Agreement
from nuggets_trainer.pipeline import early_look, signal_check
from nuggets_trainer.pipeline.early_look import EarlyLook, UnreliableScoresError, look_at, problems_of
from nuggets_trainer.pipeline.request import read_request
from nuggets_trainer.pipeline.score_pool import score_request
from nuggets_trainer.scoring.collect import Pilot
from nuggets_trainer.scoring.session import open_session
from nuggets_trainer.scoring.watch import Watch
from tests.support.launch import TORCHRUN, run
from tests.support.models import tiny_model
from tests.support.rows import alpaca_rows

NUM_ROWS, NUM_ANCHORS = 100, 6


@pytest.fixture(scope="module")
def rows():
    pool = Pool(Dataset.from_list(alpaca_rows(NUM_ROWS, seed=41)))
    return pool, Pool(Dataset.from_list(alpaca_rows(NUM_ANCHORS, seed=42)), "anchors")


def model_that_cannot_tell(tokenizer):
    """A model to which all tokens are equally likely, after any text: no row wins any anchor."""
    model = tiny_model("llama", len(tokenizer))
    model.lm_head.weight.data.zero_()
    return model


def look_of(score_dir):
    return json.loads((score_dir / "run.json").read_text())["early_look"]


def test_a_batch_that_the_look_interrupts_keeps_its_time(llama, tokenizer, rows, tmp_path, monkeypatch):
    """Its time was left out with that of the look, so that a continued run promised to end in 0 s."""
    score_batch, scored, seconds = LogProbEngine.score_prefixed, Watch.scored, []

    def slow(engine, *arguments):
        time.sleep(0.01)
        return score_batch(engine, *arguments)

    def noted(watch, *arguments):
        scored(watch, *arguments)
        seconds.append(watch.calls[-1][1])

    monkeypatch.setattr(LogProbEngine, "score_prefixed", slow)
    monkeypatch.setattr(Watch, "scored", noted)
    config = NuggetsConfig(template="plain", top_k=10, schedule="exact", tokens_per_batch=64, signal_check=False)
    score_pool(llama, tokenizer, *rows, config=config, score_dir=tmp_path)
    assert len(seconds) > 4 and min(seconds) >= 0.01


def test_with_quotas_the_look_names_its_cut():
    """Each group has its own cut; the look knows that of all rows together."""
    numbers = {"num_won_by_all": 1, "num_won_by_none": 0, "reliability": 0.8, "stays": 0.6, "top_stays": 0.8}
    look = EarlyLook(64, 100, "golden_score", 0.55, 12, remedy="stop", signal=None, problems=(), **numbers)
    assert "golden score at the cut about 0.55, where 12 rows" in look.describe() and "quotas" not in look.sentence
    grouped = dataclasses.replace(look, group_by="num_tokens")
    assert "golden score at the cut of all groups together about 0.55, where 12 rows" in grouped.describe()
    assert grouped.sentence.endswith("80% of its best quarter; both shares ignore the quotas of `num_tokens`.")


@pytest.mark.parametrize("schedule", ["exact", "race"])
def test_the_look_changes_no_result(schedule, llama, tokenizer, rows, tmp_path, monkeypatch):
    monkeypatch.setattr(signal_check, "FEWEST_CANDIDATES", 2)  # a twentieth of so few pairs are two candidates
    results = {}
    for checked in (None, False):
        place = tmp_path / str(checked)
        config = NuggetsConfig(template="plain", top_k=10, schedule=schedule, signal_check=checked)
        _scores, _ = score_pool(llama, tokenizer, *rows, config=config, score_dir=place)
        results[checked] = [(place / name).read_bytes() for name in ("scores.parquet", "pairs.parquet")]
        assert (place / "signal_check.json").exists() == (checked is None)
    assert results[None] == results[False]
    assert (
        look_of(tmp_path / "None")["signal"] in ("unclear", "none") and look_of(tmp_path / "False")["signal"] is None
    )
    look = look_of(tmp_path / "False")
    assert look["num_rows"] == {"exact": 25, "race": 10}[schedule] and look["num_anchors"] == NUM_ANCHORS


@pytest.mark.slow
@pytest.mark.parametrize(("schedule", "rank_by"), [("exact", "gain"), ("race", "golden_score"), ("race", "gain")])
def test_the_look_at_a_large_pool_changes_no_result(schedule, rank_by, llama, tokenizer, tmp_path):
    """From 1,600 rows on the signal check has its full size, 40 candidates on all anchors."""
    pool = Pool(Dataset.from_list(alpaca_rows(1610, seed=43)))
    anchors = Pool(Dataset.from_list(alpaca_rows(2, seed=44)), "anchors")
    results = {}
    for checked in (None, False):
        place = tmp_path / str(checked)
        config = NuggetsConfig(template="plain", schedule=schedule, rank_by=rank_by, signal_check=checked)
        scores, _ = score_pool(llama, tokenizer, pool, anchors, config=config, score_dir=place)
        results[checked] = [(place / name).read_bytes() for name in ("scores.parquet", "pairs.parquet")]
        if checked is None:
            num_with_check = scores.num_pairs_scored
    assert results[None] == results[False]
    # Two copies each on two anchors; a copy that equals its row is no pair.
    assert 150 <= num_with_check - scores.num_pairs_scored <= 160


def test_the_look_is_the_same_after_a_restart(llama, tokenizer, rows, tmp_path):
    config = NuggetsConfig(template="plain", top_k=10, schedule="exact")
    score_pool(llama, tokenizer, *rows, config=config, score_dir=tmp_path)
    look = look_of(tmp_path)
    again, _ = score_pool(llama, tokenizer, *rows, config=config, score_dir=tmp_path)
    assert again.num_pairs_scored == 0 and look_of(tmp_path) == look


@pytest.mark.parametrize("schedule", ["exact", "race"])
def test_it_ends_there_if_the_user_asks(schedule, tokenizer, rows, tmp_path, monkeypatch):
    monkeypatch.setattr(early_look, "FEWEST_ROWS", 10)  # the pilot of a race in a pool of 100 rows
    model = model_that_cannot_tell(tokenizer)
    config = NuggetsConfig(template="plain", top_k=10, schedule=schedule, stop_if_unreliable=True)
    with pytest.raises(UnreliableScoresError, match="all 10 rows|all 25 rows") as caught:
        score_pool(model, tokenizer, *rows, config=config, score_dir=tmp_path)
    assert "6 of 6 anchors decide nothing (0 won by every row, 6 by none: anchors 0, 1, 2, 3, 4, 5)" in str(
        caught.value
    )
    assert not (tmp_path / "scores.parquet").exists()
    config = NuggetsConfig(template="plain", top_k=10, schedule=schedule)
    whole, _ = score_pool(model, tokenizer, *rows, config=config, score_dir=tmp_path)
    assert 0 < whole.num_pairs_scored <= (NUM_ROWS - 10) * NUM_ANCHORS  # the pilot's pairs were stored


def test_a_training_job_warns_only(tokenizer, rows, tmp_path, caplog):
    config = NuggetsConfig(template="plain", top_k=10, schedule="exact", stop_if_unreliable=True)
    model = model_that_cannot_tell(tokenizer)
    request = read_request(model, tokenizer, *rows, config, tmp_path)
    caplog.set_level(logging.INFO, "nuggets_trainer")
    scores, _ = score_request(model, request)
    told = [record for record in caplog.records if record.name == early_look.__name__]
    assert [record.levelname for record in told] == ["WARNING"] and "Better stop here" in told[0].getMessage()
    assert set(scores.golden_score) == {0.0}


def test_the_command_ends_with_a_code_of_its_own(tokenizer, rows, tmp_path, capsys):
    model_that_cannot_tell(tokenizer).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    for name, pool in zip(("pool", "anchors"), rows, strict=True):
        pool.dataset.to_json(tmp_path / f"{name}.jsonl")
    options = ["--model_name_or_path", str(tmp_path / "model"), "--dataset_name", str(tmp_path / "pool.jsonl")]
    options += [
        "--anchors",
        str(tmp_path / "anchors.jsonl"),
        "--score_dir",
        str(tmp_path / "s"),
        "--template",
        "plain",
    ]
    options += ["--schedule", "exact", "--top_k", "10", "--stop_if_unreliable", "true"]
    assert main(["score", *options]) == 3
    said = capsys.readouterr().err
    assert "nuggets score: stopped: early look at 25 random rows" in said and "Traceback" not in said
    options[-1] = "false"
    assert main(["score", *options]) == 0


TWO_PROCESSES = """
import sys
from accelerate import PartialState
from nuggets_trainer import NuggetsConfig, load_rows, load_scorer, score_pool
from nuggets_trainer.pipeline.early_look import UnreliableScoresError

place = sys.argv[1]
rows = [load_rows(f"{place}/{name}.jsonl") for name in ("pool", "anchors")]
config = {"template": "plain", "top_k": 10}
for schedule in ("exact", "race"):
    options = NuggetsConfig(**config, schedule=schedule, signal_check=True)
    score_pool(*load_scorer(f"{place}/llama"), *rows, options, f"{place}/two-{schedule}")
try:
    options = NuggetsConfig(**config, schedule="exact", stop_if_unreliable=True)
    score_pool(*load_scorer(f"{place}/blind"), *rows, options, f"{place}/blind-scores")
except UnreliableScoresError as error:
    print(f"process {PartialState().process_index} stops: {error}", flush=True)
PartialState().destroy_process_group()  # at the end of the interpreter, gloo aborts now and then
"""


@pytest.mark.slow
def test_two_processes_look_once_and_stop_together(llama, tokenizer, rows, tmp_path):
    """The script says nothing of the CPU: each of its processes scored the whole pool, as if it were alone."""
    for name, model in (("llama", llama), ("blind", model_that_cannot_tell(tokenizer))):
        model.save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
    for name, pool in zip(("pool", "anchors"), rows, strict=True):
        pool.dataset.to_json(tmp_path / f"{name}.jsonl")
    (tmp_path / "script.py").write_text(TWO_PROCESSES)
    output = run([*TORCHRUN, "2", str(tmp_path / "script.py"), str(tmp_path)])
    for schedule in ("exact", "race"):
        config = NuggetsConfig(template="plain", top_k=10, schedule=schedule, signal_check=True)
        score_pool(llama, tokenizer, *rows, config=config, score_dir=tmp_path / schedule)
        one, two = tmp_path / schedule, tmp_path / f"two-{schedule}"
        assert (one / "scores.parquet").read_bytes() == (two / "scores.parquet").read_bytes()
        assert look_of(one) == look_of(two) and look_of(one)["signal"] is not None
        assert json.loads((two / "run.json").read_text())["device"]["processes"] == 2
    for process in (0, 1):
        assert f"process {process} stops: early look at 25 random rows" in output
    assert not (tmp_path / "blind-scores" / "scores.parquet").exists()


@pytest.mark.parametrize(
    ("template", "share", "said"), [("nuggets", 1.0, True), ("nuggets", 0.8, False), ("plain", 1.0, False)]
)
def test_a_missing_bos_is_named(template, share, said, shared, rows, tmp_path):
    """All rows tied at 1.000, after hours, and nothing said so: the model had never read a text without BOS."""
    model, tokenizer = load_scorer(str(shared / "models" / "stories260K"))  # its tokenizer adds BOS to every text
    config = NuggetsConfig(template=template, top_k=10)
    request = read_request(model, tokenizer, *rows, config, tmp_path)
    one_shot = np.where(np.arange(20) < 20 * share, 0.5, -0.5).astype(np.float32) * np.ones((30, 1), dtype=np.float32)
    pilot = Pilot(np.zeros(20, dtype=np.float32), one_shot, list(range(30)))
    with open_session(model, request) as session:
        look = look_at(pilot, session, NUM_ROWS, None)
    assert ("puts BOS before the row" in look.describe()) == said
    assert look.sentence.startswith("Better stop here: all 30 rows have the same value; 20 of 20 anchors decide")


@pytest.mark.parametrize(("noise", "said"), [(0.3, True), (30.0, False)])
def test_where_scores_tie_the_gain_is_named_if_it_is_reliable(noise, said, llama, tokenizer, rows, tmp_path):
    """On solutions of school mathematics each row wins on each anchor, and only the size of the gains differs."""
    generator = np.random.default_rng(0)
    one_shot = 1000 + np.linspace(-1, 1, 64)[:, None] + generator.normal(0, noise, (64, 10))
    pilot = Pilot(np.zeros(10, dtype=np.float32), one_shot.astype(np.float32), list(range(64)))
    config = NuggetsConfig(top_k=10)
    with open_session(llama, read_request(llama, tokenizer, *rows, config, tmp_path)) as session:
        look = look_at(pilot, session, NUM_ROWS, None)
    assert look.sentence.startswith("Better stop here: all 64 rows have the same value; 10 of 10 anchors decide")
    assert ("`rank_by=gain`" in look.sentence) == said and "try another template" in look.sentence


def agreement(**changes):
    figures = {"num_rows": 64, "num_anchors": 100, "reliability": 0.63, "stays": 0.3, "top_stays": 0.4}
    return Agreement(**{**figures, "num_won_by_all": 0, "num_won_by_none": 2, **changes})


def test_what_speaks_against_going_on():
    assert problems_of(agreement(), False, "some") == problems_of(agreement(), False, None) == []
    assert problems_of(agreement(reliability=0.29), False, "all") == [
        "the reliability is 0.29: other anchors would rank the rows otherwise"
    ]
    assert problems_of(agreement(reliability=0.29, num_rows=29), False, "unclear") == []  # too few rows to tell
    assert problems_of(agreement(num_won_by_all=49), False, None) == ["51 of 100 anchors decide nothing"]
    assert problems_of(agreement(num_won_by_all=48), False, None) == []
    assert problems_of(agreement(reliability=0.0), True, None) == ["all 64 rows have the same value"]
    assert len(problems_of(agreement(), False, "none")) == 1


def test_the_expected_cut_and_its_ties():
    generator = np.random.default_rng(0)
    values = generator.integers(0, 11, 64) / 10
    for rule, fraction in ((("top_fraction", 0.25), 0.25), (("top_k", 10), 0.01)):
        config = NuggetsConfig(**dict([rule]))
        assert early_look.expected_fraction(config, 1000, values) == fraction
    config = NuggetsConfig(threshold=0.5)
    assert early_look.expected_fraction(config, 1000, values) == (values > 0.5).mean()
