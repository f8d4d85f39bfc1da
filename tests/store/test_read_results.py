"""The one reader of result files gives back what a run wrote, and names what is missing."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nuggets_trainer.golden.scores import AnchorScores, golden_scores
from nuggets_trainer.golden.selection import select_golden_set
from nuggets_trainer.store.read_results import (
    read_config,
    read_log_probs,
    read_pairs,
    read_scored_anchors,
    read_scores,
    read_signal_check,
    reselections,
)
from nuggets_trainer.store.results import PoolScores, write_results

ZERO_SHOT = np.array([-2.0, -1.0], dtype=np.float32)
ONE_SHOT = np.array([[-1, -0.5], [-3, -0.5], [np.nan, np.nan], [-3, np.nan]], dtype=np.float32)


@pytest.fixture
def written(tmp_path):
    """Four rows: two scored, one dropped, one eliminated by a race after its first anchor."""
    fields = vars(golden_scores(ZERO_SHOT, ONE_SHOT))
    for name in set(fields) - {"num_anchors"}:
        fields[name][3] = np.nan
    scores = PoolScores(
        **fields,
        upper_bound=np.array([np.nan, np.nan, np.nan, 0.5]),
        dropped=[None, None, "too_long", None],
        anchors=AnchorScores(
            [None, None], ZERO_SHOT, np.array([3, 4]), [None, None], 0, ["", ""], np.array([0.1, np.nan]), np.ones(2)
        ),
        by_set={},
        num_pairs_scored=5,
        seconds=1.0,
    )
    golden_set = select_golden_set(scores, ("top_k", 1), 3)
    write_results(tmp_path, scores, ONE_SHOT, golden_set, {"pool_sha256": "abc", "pool_format": "alpaca"})
    return tmp_path, scores


def test_the_directory_of_a_job_is_told_from_that_of_its_scores(written, tmp_path):
    """`nuggets select OUT` asked to score the pool again, although the scores lay in OUT/nuggets."""
    job = tmp_path / "my job"
    shutil.copytree(written[0], job / "nuggets", ignore=shutil.ignore_patterns("my job"))
    with pytest.raises(FileNotFoundError, match=r"is the `output_dir` of a training job.*my job/nuggets'\. Name that"):
        read_scores(job)
    with pytest.raises(FileNotFoundError, match=r"`nuggets score --score_dir '.*/my empty' \.\.\.` scores a pool"):
        read_scores(tmp_path / "my empty")


def test_scores_come_back_as_they_were_written(written):
    score_dir, scores = written
    stored = read_scores(score_dir)
    for name in ("golden_score", "standard_error", "mean_gain", "gain", "gain_error", "upper_bound", "num_anchors"):
        np.testing.assert_array_equal(getattr(stored, name), getattr(scores, name))
    assert stored.selected.tolist() == [True, False, False, False] and stored.rank.tolist() == [1, 2, 0, 0]
    assert [stored.reasons[code] if code >= 0 else None for code in stored.reason] == scores.dropped
    assert (len(stored), stored.num_candidates, stored.eliminated.sum()) == (4, 3, 1)
    assert (stored.pool_sha256, stored.pool_format, stored.by_set) == ("abc", "alpaca", {})
    anchors = read_scored_anchors(score_dir)
    assert [anchor["num_tokens"] for anchor in anchors] == [3, 4]
    assert [anchor["gain_mean"] for anchor in anchors] == [0.1, None]
    np.testing.assert_array_equal(np.concatenate(list(read_pairs(score_dir))), ONE_SHOT)


def test_a_file_that_lacks_columns_is_refused(written):
    score_dir, _ = written
    table = pq.read_table(score_dir / "scores.parquet").drop_columns(["upper_bound", "rank"])
    pq.write_table(table, score_dir / "scores.parquet")
    with pytest.raises(ValueError, match=r"has no columns \['rank', 'upper_bound'\].*Run the `nuggets score`"):
        read_scores(score_dir)


def test_metadata_of_the_pool_may_be_missing(written):
    """A user may have rewritten the file with another tool."""
    score_dir, _ = written
    table = pq.read_table(score_dir / "scores.parquet")
    pq.write_table(table.replace_schema_metadata(None), score_dir / "scores.parquet")
    stored = read_scores(score_dir)
    assert (stored.pool_sha256, stored.pool_format) == (None, None)


@pytest.mark.parametrize("content", [None, "{", "[1]", "{}", '{"config": 3}'])
def test_a_configuration_that_is_not_there_is_empty(content, tmp_path):
    if content is not None:
        (tmp_path / "run.json").write_text(content)
    assert read_config(tmp_path) == {}
    (tmp_path / "run.json").write_text(json.dumps({"config": {"top_k": 3}}))
    assert read_config(tmp_path) == {"top_k": 3}


def test_selections_during_training_come_in_order(tmp_path):
    for name in ("step-20", "step-3", "step-x", "other"):
        (tmp_path / name).mkdir()
        pq.write_table(pa.table({"index": [0]}), tmp_path / name / "scores.parquet")
    (tmp_path / "step-5").mkdir()  # its scores were never written
    assert reselections(tmp_path) == [(3, tmp_path / "step-3"), (20, tmp_path / "step-20")]


def test_log_probs_come_back_as_they_were_written(written):
    zero_shot, one_shot = read_log_probs(written[0])
    assert zero_shot.dtype == one_shot.dtype == np.float32
    np.testing.assert_array_equal(zero_shot, ZERO_SHOT)
    np.testing.assert_array_equal(one_shot, ONE_SHOT)


def test_the_signal_check_of_another_scorer_is_not_read(tmp_path):
    """A comparison showed it, although its scorer had not been checked."""
    run = {"fingerprint": {"id": "own"}}
    assert read_signal_check(tmp_path, run) is None
    for fingerprint in ("own", "other"):
        check = {"verdict": "all", "fingerprint": fingerprint}
        (tmp_path / "signal_check.json").write_text(json.dumps(check))
        assert read_signal_check(tmp_path, run) == (check if fingerprint == "own" else None)
    assert read_signal_check(tmp_path, None) is None


def test_missing_pairs_are_named_with_the_command(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"There is no .*pairs.parquet\. .*`nuggets score --score_dir"):
        next(read_pairs(tmp_path))
