"""`GoldenScorer`: the scores of `score_pool` batch by batch, in the forms of other projects."""

from __future__ import annotations

import pickle

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from datasets import Dataset
from datasets.fingerprint import Hasher

from nuggets_trainer import GoldenScorer, NuggetsConfig, load_rows, load_scorer, score_pool
from nuggets_trainer.engine.log_probs import LogProbEngine

NUMBERS = ("golden_score", "standard_error", "mean_gain", "mean_gain_error")
BROKEN = {"instruction": "Say it.", "input": "", "output": ""}


@pytest.fixture(scope="module")
def pool() -> Dataset:
    """Rows, one that is an anchor too, and one that cannot be scored."""
    rows = load_rows("nuggets-demo/pool").select(range(12)).select_columns(["instruction", "input", "output"])
    anchor = load_rows("nuggets-demo/anchors").select_columns(["instruction", "input", "output"])[1]
    return Dataset.from_list([*rows.to_list(), anchor, BROKEN])


@pytest.fixture(scope="module")
def anchors() -> Dataset:
    return load_rows("nuggets-demo/anchors").select(range(6))


@pytest.fixture(scope="module")
def scored(pool, anchors, tmp_path_factory):
    place = tmp_path_factory.mktemp("scores")
    config = NuggetsConfig(schedule="exact", top_k=3, row_signals=True)
    scores, _ = score_pool(*load_scorer("nuggets-demo/model"), pool, anchors, config, place)
    return scores, place


@pytest.fixture(scope="module")
def scorer(anchors, scored) -> GoldenScorer:
    return GoldenScorer("nuggets-demo/model", anchors, row_loss=True, scale_from=str(scored[1]))


def test_scores_are_those_of_score_pool(scorer, pool, scored):
    scores, _ = scored
    found = {name: [] for name in (*NUMBERS, "gain", "loss", "dropped")}
    for start in range(0, len(pool), 5):  # the last batch is smaller
        batch = scorer(pool[start : start + 5])
        assert batch["instruction"] == pool[start : start + 5]["instruction"]
        for name, values in found.items():
            values += batch[name].tolist()
    assert np.array_equal(found["golden_score"], scores.golden_score, equal_nan=True)
    assert np.array_equal(found["standard_error"], scores.standard_error, equal_nan=True)
    np.testing.assert_allclose(found["mean_gain"], scores.mean_gain, atol=1e-5)
    np.testing.assert_allclose(found["gain"], scores.gain, atol=1e-4)
    np.testing.assert_allclose(found["loss"], scores.signals["loss"], atol=1e-5)
    assert found["dropped"] == scores.dropped and found["dropped"][-1] is not None
    assert scores.num_anchors[-2] == 5  # the row that is an anchor is not scored on itself


def test_paths_are_compared_on_the_longest_anchor(pool, anchors, monkeypatch):
    """They were compared on the first three anchors and the shortest ones: a window longer than these was not seen."""
    samples, choose = [], LogProbEngine.choose_path

    def recorded(engine, prefixed, num_tokens=0):
        samples.append(prefixed)
        return choose(engine, prefixed, num_tokens)

    monkeypatch.setattr(LogProbEngine, "choose_path", recorded)
    by_length = sorted(range(6), key=lambda j: len(anchors[j]["output"]))
    scorer = GoldenScorer("nuggets-demo/model", anchors.select(by_length))
    scorer(pool[:2])
    longest = max(len(segment.ids) for segment in scorer._prepared._anchor_set.segments)
    assert len(samples) == 2 and [len(sample) for sample in samples] == [1, 3]
    for segments in (segments for sample in samples for ids, segments in sample if not ids):
        assert max(len(segment.ids) for segment in segments) == longest


def test_a_batch_comes_back_as_the_kind_it_was(scorer, pool):
    rows = pool.select(range(11, 14))
    columns = {name: np.array(values, dtype=object) for name, values in rows.to_dict().items()}
    expected = scorer(rows.to_dict())
    for batch, read in (
        (columns, dict),
        (rows.to_list(), lambda found: pd.DataFrame(found).to_dict("list")),
        (rows.to_pandas(), lambda found: found.to_dict("list")),
        (pa.table(rows.to_dict()), lambda found: found.to_pydict()),
        (pa.RecordBatch.from_pydict(rows.to_dict()), lambda found: found.to_pydict()),  # what mapInArrow gives
        (rows, lambda found: found.to_dict()),
    ):
        scored = scorer(batch)
        assert type(scored) is type(batch)
        found = read(scored)
        assert [text for text in found["dropped"] if isinstance(text, str)] == [expected["dropped"][-1]]
        for name in (*NUMBERS, "loss"):
            np.testing.assert_array_equal(np.array(found[name], dtype=float), expected[name], err_msg=name)


def test_datasets_and_pandas_take_the_scorer_as_it_is(scorer, pool):
    mapped = pool.select(range(8)).map(scorer, batched=True, batch_size=3)
    frames = list(scorer.each(iter([pool.select(range(5)).to_pandas(), pool.select(range(5, 8)).to_pandas()])))
    assert mapped["golden_score"][:] == pd.concat(frames)["golden_score"].tolist()
    assert mapped.column_names[:3] == ["instruction", "input", "output"] and len(mapped) == 8


def test_a_scorer_travels_without_what_it_has_loaded(scorer, pool):
    """A model of some GB would travel to each worker, and be hashed by `datasets`."""
    scorer(pool.select(range(2)).to_dict())
    assert len(pickle.dumps(scorer)) < 100_000
    before = Hasher.hash(scorer)
    again = pickle.loads(pickle.dumps(scorer))
    assert Hasher.hash(again) == before
    rows = pool.select(range(2)).to_dict()
    assert np.array_equal(again(rows)["mean_gain"], scorer(rows)["mean_gain"])


def test_a_loaded_model_and_a_list_of_anchors_do(scorer, anchors, pool):
    model, tokenizer = load_scorer("nuggets-demo/model")
    rows = pool.select(range(3)).to_dict()
    found = GoldenScorer(model, anchors.to_list(), tokenizer=tokenizer)(rows)
    assert np.array_equal(found["golden_score"], scorer(rows)["golden_score"]) and "gain" not in found


def test_wrong_arguments_and_batches_are_named(scorer, anchors, pool, scored):
    with pytest.raises(ValueError, match="`tokenizer` must be given"):
        GoldenScorer(object(), anchors)
    with pytest.raises(ValueError, match="`anchors` must be given: anchors cannot be chosen"):
        GoldenScorer("nuggets-demo/model")
    with pytest.raises(TypeError, match="A batch must be a mapping of columns.* got set"):
        scorer({3})
    with pytest.raises(ValueError, match="columns that scoring adds, got golden_score"):
        scorer({**pool[:2], "golden_score": [0.0, 1.0]})
    with pytest.raises(ValueError, match="read as 'text' and an earlier one as 'alpaca'"):
        scorer({"text": ["one", "two"]})
    with pytest.raises(ValueError, match="`scale_from` must be a run with the same anchors"):
        GoldenScorer("nuggets-demo/model", anchors.select(range(3)), scale_from=str(scored[1]))(pool[:2])


def test_missing_values_of_pandas_are_rows_without_an_input(scorer, pool):
    """A DataFrame has NaN or NA there, which failed inside of pyarrow or dropped the rows."""
    rows = pool.select(range(2)).to_pandas().assign(input="")
    expected = scorer(rows)["golden_score"].tolist()
    assert np.isfinite(expected).all()
    for missing in (np.nan, None, pd.NA):
        for inputs in ([missing, missing], ["", missing]):
            assert scorer(rows.assign(input=inputs))["golden_score"].tolist() == expected


@pytest.mark.parametrize("option", [{"pool_size": 2}, {"num_anchors": 2}, {"decontaminate": ["alpaca_eval"]}])
def test_options_of_a_whole_pool_are_refused(anchors, option):
    """With `pool_size` a batch came back with columns of another length; the others did nothing."""
    with pytest.raises(ValueError, match=f"`{next(iter(option))}` must be left out"):
        GoldenScorer("nuggets-demo/model", anchors, NuggetsConfig(**option))
