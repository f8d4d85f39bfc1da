"""A store with pairs is checked by computing some of them again: what the fingerprint forgets, log-probs show."""

from __future__ import annotations

import json
import logging
import shutil
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from datasets import Dataset

from nuggets_trainer import NuggetsConfig, Pool, score_pool
from nuggets_trainer.engine import log_probs
from nuggets_trainer.engine.compiled import MIN_TOKENS
from nuggets_trainer.engine.log_probs import LogProbEngine
from nuggets_trainer.engine.precision import TOLERANCE
from nuggets_trainer.prompts.segment import Segment
from nuggets_trainer.store.fingerprint import fingerprint_id
from nuggets_trainer.store.score_store import ScoreStore
from tests.support.models import tiny_model
from tests.support.rows import alpaca_rows

REFUSED = "must be those of this model and template, but .* pairs of it were computed again, and log-probs differ"


@pytest.fixture
def score(tokenizer, tmp_path):
    """Return a function that scores a small pool; its result has the number of pairs computed."""
    pool, anchors = Pool(Dataset.from_list(alpaca_rows(12, seed=1))), Pool(Dataset.from_list(alpaca_rows(5, seed=2)))

    def run(model=None, score_dir=tmp_path / "scores", **options):
        model = model or tiny_model("llama", len(tokenizer))
        config = NuggetsConfig(**{"top_k": 3, "schedule": "exact", "signal_check": False, **options})
        return score_pool(model, tokenizer, pool, anchors, config=config, score_dir=score_dir)[0]

    return run


def with_other_buffer(tokenizer):
    """Return the model with other positions; its rotary frequencies are in no state dict and in no config."""
    model = tiny_model("llama", len(tokenizer))
    model.model.rotary_emb.inv_freq.mul_(0.9)
    return model


def manifest_of(score_dir):
    (path,) = score_dir.glob("*/manifest.json")
    return path


@pytest.mark.parametrize("schedule", ["exact", "race"])
def test_scores_of_another_model_are_refused(schedule, score, tokenizer, tmp_path):
    score(schedule=schedule)
    before = {path: path.read_bytes() for path in (tmp_path / "scores").glob("*/parts/*")}
    with pytest.raises(ValueError, match=f"{REFUSED}.*its fingerprint does not name. Use another `score_dir`"):
        score(with_other_buffer(tokenizer), schedule=schedule)
    assert {path: path.read_bytes() for path in (tmp_path / "scores").glob("*/parts/*")} == before
    assert score(schedule=schedule).num_pairs_scored == 0


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_rounding_is_not_refused(dtype, score):
    first = score(score_dtype=dtype)
    for tokens_per_batch in (None, 16):
        again = score(score_dtype=dtype, tokens_per_batch=tokens_per_batch)
        assert first.num_pairs_scored and not again.num_pairs_scored


def test_pairs_with_a_candidate_are_checked_too(score, tmp_path):
    """A window of attention or a flag of the tokenizer may change prompts with a candidate alone."""
    score()
    parts = manifest_of(tmp_path / "scores").parent / "parts"
    tables = [pq.read_table(path) for path in parts.iterdir()]
    fields = json.loads(manifest_of(tmp_path / "scores").read_text())["fields"]
    store = ScoreStore(tmp_path / "other", fields)
    for table in tables:
        columns = table.to_pydict()
        shift = [0.0 if candidate is None else 0.01 for candidate in columns["candidate"]]
        store.write(columns["candidate"], columns["anchor"], np.array(columns["log_prob"]) + shift)
    with pytest.raises(ValueError, match=f"{REFUSED} by 0.01 nats"):
        score(score_dir=tmp_path / "other")


# ---------------------------------------------------------------- stores of other versions


def as_if_written(score_dir, by_transformers=None, **changes):
    """Rename a store as another version would have written it: other fields, and perhaps no `written_with`."""
    path = manifest_of(score_dir)
    manifest = json.loads(path.read_text())
    manifest["fields"].update(changes)
    if by_transformers is None:
        del manifest["written_with"]
    else:
        manifest["written_with"]["transformers"] = by_transformers
        manifest["written_with"]["config"]["an_entry_of_that_version"] = 1
    path.write_text(json.dumps(manifest))
    shutil.move(path.parent, path.parent.with_name(fingerprint_id(manifest["fields"])))


@pytest.mark.parametrize("by_transformers", [None, "4.99.0"])
def test_scores_outlive_a_version_of_transformers(by_transformers, score, tokenizer, tmp_path, caplog):
    """From 5.16 to 5.23 the configs of 43 of 176 families read otherwise, and their scores were computed anew."""
    first = score()
    as_if_written(tmp_path / "scores", by_transformers, config_sha256="0" * 32)
    with caplog.at_level(logging.WARNING, logger="nuggets_trainer"):
        again = score()
    assert again.num_pairs_scored == 0 and "are used, although they differ in config_sha256: 000" in caplog.text
    np.testing.assert_array_equal(again.mean_gain, first.mean_gain)
    with pytest.raises(ValueError, match=f"{REFUSED}.*written with other versions and differs in config_sha256"):
        score(with_other_buffer(tokenizer))
    assert len(list((tmp_path / "scores").glob("*/manifest.json"))) == 1


def test_another_config_is_another_store(score, tokenizer, tmp_path, caplog):
    """What both versions spell alike tells two models apart, before anything is computed."""
    first = score()
    other = tiny_model("llama", len(tokenizer))
    other.config.rope_parameters = {**other.config.rope_parameters, "rope_theta": 500.0}
    assert score(other).num_pairs_scored == first.num_pairs_scored  # by the same version of transformers
    shutil.rmtree(tmp_path / "scores")
    score()
    as_if_written(tmp_path / "scores", "4.99.0", config_sha256="0" * 32)
    assert score(other).num_pairs_scored == first.num_pairs_scored
    assert len(list((tmp_path / "scores").glob("*/manifest.json"))) == 2 and "are not reused" in caplog.text


def test_a_store_of_an_earlier_version_is_read(score, tmp_path):
    """Layout 2 without `written_with`: it is found by its fields, and gets what it lacks."""
    score()
    as_if_written(tmp_path / "scores")
    assert score().num_pairs_scored == 0
    assert json.loads(manifest_of(tmp_path / "scores").read_text())["written_with"]["transformers"]


def test_a_job_that_goes_on_compiles_as_the_first_did(score, tmp_path, monkeypatch):
    """Compiled layers round otherwise; less may be left than is worth compiling for."""
    asked = []

    def pays(model, num_tokens):
        asked.append(num_tokens)
        return len(asked) == 1 or num_tokens >= MIN_TOKENS

    monkeypatch.setattr(log_probs, "compiling_pays", pays)
    monkeypatch.setattr(log_probs, "CompiledParts", lambda model, names: SimpleNamespace(in_use=nullcontext))
    first = score()
    for path in (tmp_path / "scores").glob("*/parts/*"):
        path.unlink()
    again = score()
    assert again.num_pairs_scored == first.num_pairs_scored
    assert asked[0] < MIN_TOKENS == asked[1]


# ---------------------------------------------------------------- what rounding can explain


def test_the_tolerance_follows_the_dtype(llama):
    segments = [Segment([1] * 40, 1), Segment([1, 2], 1)]
    assert LogProbEngine(llama).tolerances(segments).tolist() == [TOLERANCE[torch.float32]] * 2
    half = LogProbEngine(llama, autocast_dtype=torch.bfloat16).tolerances(segments)
    assert half.tolist() == [TOLERANCE[torch.bfloat16], 4 * TOLERANCE[torch.bfloat16]]  # one token: all its noise
