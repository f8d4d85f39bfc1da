"""A run that ranks by a signal of each row: no pair is scored, and all else is as in any other run."""

from __future__ import annotations

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
from datasets import Dataset

from nuggets_trainer import NuggetsConfig, Pool, plan_pool, score_pool, score_shard
from nuggets_trainer.config.rule_options import RANK_BY_SIGNALS
from nuggets_trainer.pipeline.select_again import select_again
from nuggets_trainer.report.dataset import write_dataset
from nuggets_trainer.signals import stored_values, without_pairs
from tests.support.rows import alpaca_rows

ROWS = [{**row, "source": "ab"[i % 2]} for i, row in enumerate(alpaca_rows(14, seed=5))]
ROWS[3] = {**ROWS[3], "output": ""}
ANCHORS = alpaca_rows(5, seed=6)


def run(model, tokenizer, score_dir, rank_by, anchors=None, **options):
    given = None if anchors is None else Dataset.from_list(anchors)
    config = NuggetsConfig(**{"top_k": 3, "template": "plain", "rank_by": rank_by, **options})
    return score_pool(model, tokenizer, Dataset.from_list(ROWS), given, config=config, score_dir=score_dir)


def run_json(score_dir):
    return json.loads((score_dir / "run.json").read_text())


def stored_names(score_dir):
    """Names of all values in the store, and of the anchors of pairs among them."""
    parts = [pq.read_table(part) for part in score_dir.glob("*/parts/*.parquet")]
    return {name for part in parts for name in part["anchor"].to_pylist()}


@pytest.fixture(scope="module")
def whole(llama, tokenizer, tmp_path_factory):
    """A run that scored all pairs, with all signals."""
    score_dir = tmp_path_factory.mktemp("whole")
    run(llama, tokenizer, score_dir, "golden_score", ANCHORS, ica=True, row_signals=True)
    return score_dir


@pytest.mark.parametrize("name", RANK_BY_SIGNALS)
def test_it_chooses_what_select_would_and_scores_no_pair(name, whole, llama, tokenizer, tmp_path):
    scores, golden_set = run(llama, tokenizer, tmp_path, name, ANCHORS)
    # Equal values are told apart by the golden score, where there is one.
    assert golden_set.value.tolist() == select_again(whole, NuggetsConfig(top_k=3, rank_by=name)).value.tolist()
    assert scores.num_pairs_scored == 0 and all(entry.startswith("=") for entry in stored_names(tmp_path))
    assert "no pair" in scores.describe() and scores.summary()["dropped_empty_completion"] == 1
    expected, found = (pq.read_table(place / "scores.parquet") for place in (whole, tmp_path))
    for column in {"loss", "ifd", "similarity", "num_tokens", "repetition", name}:
        assert found[column].equals(expected[column])
    assert found["golden_score"].null_count == found["gain"].null_count == len(ROWS)
    assert np.flatnonzero(found["selected"]).tolist() == sorted(golden_set.indices.tolist())
    again = select_again(tmp_path, NuggetsConfig(top_k=2, rank_by=name))
    assert again.indices.tolist() == golden_set.indices.tolist()[:2]


def test_anchors_are_chosen_only_where_the_signal_needs_them(llama, tokenizer, tmp_path, monkeypatch):
    chosen = []
    find = without_pairs.find_anchors
    monkeypatch.setattr(without_pairs, "find_anchors", lambda session: chosen.append(1) or find(session))
    scores, _ = run(llama, tokenizer, tmp_path, "loss")
    assert not chosen and len(scores.anchors) == 0 and "similarity" not in scores.signals
    assert pq.read_table(tmp_path / "pairs.parquet").num_rows == len(ROWS)
    with pytest.raises(ValueError, match="`rank_by=similarity` needs the columns .'similarity'"):
        select_again(tmp_path, NuggetsConfig(rank_by="similarity"))
    assert run_json(tmp_path)["drawn_anchors"] is None
    scores, golden_set = run(llama, tokenizer, tmp_path, "similarity", num_anchors=3, anchor_selection="random")
    assert chosen and len(scores.anchors) == 3 and golden_set.ranked.name == "similarity"
    with pytest.raises(ValueError, match="the run in .* ranked rows by `similarity` and scored none"):
        select_again(tmp_path, NuggetsConfig())
    run(llama, tokenizer, tmp_path, "similarity_turn", ANCHORS, num_anchors=2)
    (drawn,) = run_json(tmp_path)["drawn_anchors"].values()
    assert len(drawn) == 2 and set(drawn) < set(range(len(ANCHORS)))


def _best_of_each_source(order):
    best = {}
    for i in order.tolist():
        if i != 3:  # it is empty
            best.setdefault(ROWS[i]["source"], i)
    return list(best.values())


def test_every_rule_and_limit_works(llama, tokenizer, tmp_path):
    scores, golden_set = run(llama, tokenizer, tmp_path, "loss", top_k=None, top_fraction=0.5)
    loss = scores.signals["loss"]
    order = np.argsort(loss, kind="stable")
    assert golden_set.indices.tolist() == order[:6].tolist() and golden_set.num_candidates == 13  # 6.5, to even
    cut = float(np.sort(loss)[2])
    _, below = run(llama, tokenizer, tmp_path, "loss", top_k=None, threshold=cut)
    assert below.indices.tolist() == order[:2].tolist()
    _, grouped = run(llama, tokenizer, tmp_path, "loss", top_k=2, group_by="source", group_quota="equal")
    assert grouped.indices.tolist() == _best_of_each_source(order)
    scores, grouped = run(llama, tokenizer, tmp_path, "similarity_turn", ANCHORS, top_k=2, group_by="source")
    assert grouped.indices.tolist() == _best_of_each_source(np.argsort(scores.signals["similarity_turn"]))
    assert grouped.groups == {"a": {"candidates": 7, "kept": 1}, "b": {"candidates": 6, "kept": 1}}
    _, distinct = run(llama, tokenizer, tmp_path, "loss", top_k=5, max_similarity=0.2)
    assert distinct.passed_over["near_duplicate"] > 0
    budget, within = run(llama, tokenizer, tmp_path, "loss", top_k=None, max_tokens=200)
    tokens = np.cumsum(budget.signals["total_tokens"][order])
    assert within.indices.tolist() == order[: int((tokens <= 200).sum())].tolist() and len(within) > 1
    shortest = int(np.nanmin(scores.signals["num_tokens"]))
    scores, met = run(llama, tokenizer, tmp_path, "loss", require=f"num_tokens > {shortest}", top_k=3)
    assert scores.meets_require is not None and scores.meets_require[met.indices].all()
    assert met.passed_over["fails_require"] > 0


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"coverage_weight": 0.5}, "`coverage_weight=0.5` needs scored pairs"),
        ({"schedule": "exact"}, "`schedule=exact` needs scored pairs"),
        ({"num_anchors": "auto"}, "`num_anchors=auto` needs scored pairs"),
        ({"require": "gain > 0"}, "`require='gain > 0'` needs scored pairs"),
        ({"stop_if_unreliable": True}, "`stop_if_unreliable=True` needs scored pairs"),
        ({"reselect": "epoch"}, "`reselect=epoch` does not work with `rank_by=loss`"),
    ],
)
def test_what_needs_pairs_is_refused_at_once(options, match):
    with pytest.raises(ValueError, match=match):
        NuggetsConfig(rank_by="loss", **options)


def test_a_row_without_the_signal_is_dropped_with_a_reason(llama, tokenizer, tmp_path):
    """Without its own text among the anchors, a row has no other anchor to be similar to."""
    scores, golden_set = run(llama, tokenizer, tmp_path, "similarity", [ROWS[0]], top_k=None, top_fraction=1.0)
    assert scores.dropped[0] == "no_signal" and 0 not in golden_set.indices and len(golden_set) == 12
    figures = json.loads((tmp_path / "report.json").read_text())
    assert figures["run"]["dropped"] == {"empty_completion": 1, "no_signal": 1}


def test_report_and_cards_show_no_pairs(llama, tokenizer, tmp_path):
    scores, _ = run(llama, tokenizer, tmp_path, "loss")
    page = (tmp_path / "report.html").read_text()
    assert "read each row by itself" in page and 'id="anchors"' not in page and "Rows and anchors" not in page
    figures = json.loads((tmp_path / "report.json").read_text())
    assert figures["verdict"]["title"] == "A baseline" and "nuggets compare" in scores.verdict["sentence"]
    reasons = {row["index"]: row["why"] for row in figures["rows"]}
    assert any(why.startswith("Above the cut: loss ") for why in reasons.values())
    write_dataset(tmp_path, Pool(Dataset.from_list(ROWS)), tmp_path / "dataset")
    card = (tmp_path / "dataset" / "README.md").read_text()
    assert "kept by their loss: the lowest mean negative log-prob" in card and "nan" not in card.lower()


def test_shards_compute_the_signals_for_a_later_run(llama, tokenizer, tmp_path, monkeypatch, caplog):
    caplog.set_level("INFO")
    config = NuggetsConfig(top_k=2, template="plain", rank_by="ifd")
    rows = Dataset.from_list(ROWS)
    for number in range(2):
        num_rows = score_shard(llama, tokenizer, rows, config=config, score_dir=tmp_path, shard=(number, 2))
        assert num_rows == 7 - number  # row 3 is empty
        assert f"shard {number}/2: the signals of {num_rows} of 7 rows are stored" in caplog.text
    monkeypatch.setattr(stored_values, "PartWriter", None)  # nothing is left to compute
    scores, _ = score_pool(llama, tokenizer, rows, config=config, score_dir=tmp_path)
    assert (~np.isnan(scores.signals["ifd"])).sum() == 13


def test_a_condition_that_hardly_a_row_meets_is_named(llama, tokenizer, tmp_path):
    with pytest.raises(ValueError, match=r"The rows must meet `require='ifd <= 1'`"):
        run(llama, tokenizer, tmp_path, "ifd", top_k=13)


def test_a_plan_measures_signals_in_place_of_pairs(llama, tokenizer, tmp_path):
    config = NuggetsConfig(top_k=2, template="plain", rank_by="ifd")
    rows = Dataset.from_list(ROWS)
    plan = plan_pool(llama, tokenizer, rows, config=config, score_dir=tmp_path, price_per_hour=3.0)
    assert plan.cost.num_rows == 13 and plan.cost.num_known == 0
    assert "none: rows are ranked by their IFD" in plan.describe() and "`ifd <= 1`" in plan.describe()
    assert plan.to_dict()["cost"] == pytest.approx(3.0 * plan.seconds / 3600)
    again = plan_pool(llama, tokenizer, rows, config=config, score_dir=tmp_path)
    assert again.cost.num_known == 13 and "the signals of 13 rows" in again.describe()
