"""`require`: rows that fail it are counted and not chosen, whatever else chooses; a race gives them no pairs."""

from __future__ import annotations

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
from datasets import Dataset

from nuggets_trainer import GoldenScorer, NuggetsConfig, Pool, load_rows, score_pool, score_shard, write_dataset
from nuggets_trainer.cli import main
from nuggets_trainer.config.requirement import Requirement
from nuggets_trainer.pipeline.row_filter import rows_that_meet
from nuggets_trainer.pipeline.select_again import select_again
from nuggets_trainer.store.score_store import ScoreStore
from tests.support.command_line import json_result
from tests.support.launch import TORCHRUN, run


def score(model, tokenizer, rows, anchors, score_dir, **options):
    sets = {name: Dataset.from_list(own) for name, own in anchors.items()} if isinstance(anchors, dict) else None
    config = NuggetsConfig(**{"top_k": 3, "template": "plain", **options})
    return score_pool(
        model,
        tokenizer,
        Dataset.from_list(rows),
        sets or Dataset.from_list(anchors),
        config=config,
        score_dir=score_dir,
    )


def read(score_dir) -> dict[str, list]:
    return pq.read_table(score_dir / "scores.parquet").to_pydict()


@pytest.fixture
def condition(llama, tokenizer, pool_rows, anchor_rows, tmp_path) -> str:
    """A condition that the best three rows and half of the others fail."""
    score(llama, tokenizer, pool_rows, anchor_rows, tmp_path / "all", schedule="exact", row_signals=True)
    scores = read(tmp_path / "all")
    best = [scores["loss"][i] for i in range(len(pool_rows)) if scores["selected"][i]]
    limit = min(*best, float(np.median(scores["loss"]))) - 1e-6
    assert sum(loss < limit for loss in scores["loss"]) >= 3, "the fixture's rows must leave enough"
    return f"loss < {limit!r}"


def test_rows_that_fail_keep_their_scores_and_are_counted(
    llama, tokenizer, pool_rows, anchor_rows, tmp_path, condition
):
    everything = read(tmp_path / "all")
    scores, golden_set = score(
        llama, tokenizer, pool_rows, anchor_rows, tmp_path / "all", schedule="exact", require=condition
    )
    assert scores.num_pairs_scored == 0
    found = read(tmp_path / "all")
    limit = float(condition.split()[-1])
    meets = [loss < limit for loss in everything["loss"]]
    assert found["meets_require"] == meets and 3 <= sum(meets) < len(meets)
    for name in ("golden_score", "mean_gain", "rank", "dropped", "ifd"):
        assert found[name] == everything[name]
    by_rank = sorted((rank, i) for i, rank in enumerate(everything["rank"]) if meets[i])
    assert golden_set.indices.tolist() == [i for _, i in by_rank[:3]]
    assert golden_set.num_candidates == sum(meets)
    assert golden_set.passed_over == {"fails_require": len(meets) - sum(meets)}
    assert f"passed over {len(meets) - sum(meets)} (fails_require)" in golden_set.describe()
    run = json.loads((tmp_path / "all" / "run.json").read_text())
    assert run["config"]["require"] == condition
    assert run["golden_set"]["passed_over_fails_require"] == len(meets) - sum(meets)
    report = (tmp_path / "all" / "report.html").read_text()
    assert "Left out: it does not meet the condition `require`" in report


def test_a_fraction_is_one_of_the_rows_that_pass(llama, tokenizer, pool_rows, anchor_rows, tmp_path, condition):
    options = {"top_k": None, "top_fraction": 0.5, "require": condition}
    exact = score(llama, tokenizer, pool_rows, anchor_rows, tmp_path / "all", schedule="exact", **options)[1]
    raced = score(llama, tokenizer, pool_rows, anchor_rows, tmp_path / "race", schedule="race", **options)[1]
    meets = sum(read(tmp_path / "all")["meets_require"])
    assert len(exact) == max(1, round(meets / 2))
    assert raced.indices.tolist() == exact.indices.tolist() and raced.num_candidates == meets


def test_a_race_scores_only_rows_that_pass(llama, tokenizer, pool_rows, anchor_rows, tmp_path, condition):
    exact = score(llama, tokenizer, pool_rows, anchor_rows, tmp_path / "all", schedule="exact", require=condition)[1]
    scores, golden_set = score(
        llama, tokenizer, pool_rows, anchor_rows, tmp_path / "race", schedule="race", require=condition
    )
    assert golden_set.indices.tolist() == exact.indices.tolist()
    meets = read(tmp_path / "all")["meets_require"]
    assert [reason == "fails_require" for reason in scores.dropped] == [not met for met in meets]
    assert scores.num_pairs_scored <= sum(meets) * len(anchor_rows)
    found = read(tmp_path / "race")
    assert found["meets_require"] == meets and found["loss"] == read(tmp_path / "all")["loss"]
    assert f"fails_require {len(meets) - sum(meets)}" in scores.describe()
    cautions = [caution["title"] for caution in scores.cautions]
    assert not any("was dropped and could not be chosen" in title for title in cautions)  # it is what was asked for


def test_a_condition_on_scores_needs_every_pair(llama, tokenizer, pool_rows, anchor_rows, tmp_path):
    with pytest.raises(ValueError, match="`require`|require"):
        NuggetsConfig(require="golden_score > 0.5", schedule="race")
    assert NuggetsConfig(require="golden_score > 0.5").schedule_in_force == "exact"
    assert NuggetsConfig(require="ifd < 1").schedule_in_force == "race"
    scores, golden_set = score(llama, tokenizer, pool_rows, anchor_rows, tmp_path, require="mean_gain < 0")
    assert (golden_set.mean_gain < 0).all() and set(scores.signals) == {"repetition"}
    assert "loss" not in read(tmp_path)


def test_each_anchor_set_has_a_column(llama, tokenizer, pool_rows, anchor_rows, tmp_path):
    sets = {"one": anchor_rows[:2], "other": anchor_rows[2:]}
    everything, _ = score(llama, tokenizer, pool_rows, sets, tmp_path)
    own = everything.by_set["other"].golden_score
    condition = f"golden_score_other <= {float(np.sort(own)[-4])}"
    _, golden_set = score(llama, tokenizer, pool_rows, sets, tmp_path, require=condition)
    assert (own[golden_set.indices] <= np.sort(own)[-4]).all()
    with pytest.raises(ValueError, match="golden_score_third.*golden_score_one, golden_score_other"):
        score(llama, tokenizer, pool_rows, sets, tmp_path, require="golden_score_third > 0")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"require": "loss < 0"}, "fails_require 12.*`require='loss < 0'`"),
        ({"require": "num_tokens > 8", "top_k": 12}, "`top_k=12` is larger.*fails_require"),
        ({"require": "speed > 8"}, "'speed', which is no column.*loss_without_prompt"),
    ],
)
@pytest.mark.parametrize("schedule", ["exact", "race"])
def test_a_condition_that_leaves_too_few_is_refused_before_pairs(
    options, message, schedule, llama, tokenizer, pool_rows, anchor_rows, tmp_path, monkeypatch
):
    written: list[str] = []
    write = ScoreStore.write

    def recorded(store, candidates, anchors, values):
        written.extend(anchors)
        write(store, candidates, anchors, values)

    monkeypatch.setattr(ScoreStore, "write", recorded)
    with pytest.raises(ValueError, match=message):
        score(llama, tokenizer, pool_rows, anchor_rows, tmp_path, schedule=schedule, **options)
    assert all(name.startswith("=") for name in written)


@pytest.mark.parametrize("options", [{"coverage_weight": 0.5}, {"group_by": "source"}, {"max_similarity": 0.9}])
def test_no_row_that_fails_is_kept_by_other_options(
    options, llama, tokenizer, pool_rows, anchor_rows, tmp_path, condition
):
    rows = [{**row, "source": "ab"[i % 2]} for i, row in enumerate(pool_rows)]
    _, golden_set = score(llama, tokenizer, rows, anchor_rows, tmp_path / "all", require=condition, **options)
    found = read(tmp_path / "all")
    assert all(found["meets_require"][i] for i in golden_set.indices)
    assert golden_set.passed_over["fails_require"] == found["meets_require"].count(False)


def test_select_applies_a_condition_to_stored_columns(llama, tokenizer, pool_rows, anchor_rows, tmp_path, condition):
    chosen = select_again(tmp_path / "all", NuggetsConfig(top_k=3, require=condition))
    options = {"schedule": "exact", "require": condition}
    expected = score(llama, tokenizer, pool_rows, anchor_rows, tmp_path / "all", **options)[1]
    assert chosen.indices.tolist() == expected.indices.tolist()
    assert chosen.passed_over == expected.passed_over and chosen.num_candidates == expected.num_candidates
    # The scores of an exact run are those of all rows, so that the condition may go again.
    whole = select_again(tmp_path / "all", NuggetsConfig(top_k=3))
    assert whole.num_candidates == len(pool_rows) and whole.passed_over == {}


def test_select_says_what_to_run_where_scores_do_not_suffice(
    llama, tokenizer, pool_rows, anchor_rows, tmp_path, condition
):
    score(llama, tokenizer, pool_rows, anchor_rows, tmp_path / "plain", schedule="exact")
    with pytest.raises(ValueError, match="'ifd'.*--row_signals|--row_signals.*ifd"):
        select_again(tmp_path / "plain", NuggetsConfig(require="ifd < 1"))
    score(llama, tokenizer, pool_rows, anchor_rows, tmp_path / "race", schedule="race", require=condition)
    same = select_again(tmp_path / "race", NuggetsConfig(top_k=3, require=condition))
    assert len(same) == 3
    for require in (None, "loss < 1000"):
        with pytest.raises(ValueError, match="fails_require|did not meet"):
            select_again(tmp_path / "race", NuggetsConfig(top_k=3, require=require))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("loss < p50", [1, 1, 0, 0, 0, 0, 0]),  # three rows tie at it, and are not below it
        ("loss <= p50", [1, 1, 1, 1, 1, 0, 0]),
        ("p50 < loss", [0, 0, 0, 0, 0, 1, 0]),
        ("p0 < loss < p100", [0, 1, 1, 1, 1, 0, 0]),
        ("loss <= p20 or num_tokens >= p100", [1, 1, 0, 0, 0, 0, 0]),  # the last row has no loss
        ("num_tokens < p50 and loss <= p100", [1, 1, 1, 0, 0, 0, 0]),
        ("num_tokens < p12 >= loss", [1, 0, 0, 0, 0, 0, 0]),
        ("ica < p50 or loss < p50", [0] * 7),  # no row has a value
        ("golden_score > 0.5 and loss < p50", [0, 1, 0, 0, 0, 0, 0]),
    ],
)
def test_a_percentile_is_one_of_all_rows_with_a_value(text, expected):
    """That is, of rows that fail another part of the condition too; NaN and dropped rows are left out."""
    nan = np.nan
    columns = {
        "loss": np.array([1.0, 2.0, 3.0, 3.0, 3.0, 4.0, nan]),
        "num_tokens": np.arange(4.0, 11.0),
        "ica": np.full(7, nan),
        "golden_score": np.array([0.5, 0.9, 0.9, nan, nan, nan, nan]),
    }
    assert rows_that_meet(Requirement(text), columns).tolist() == [bool(met) for met in expected]


def test_a_percentile_in_a_run_is_that_of_the_stored_columns(llama, tokenizer, pool_rows, anchor_rows, tmp_path):
    score(llama, tokenizer, pool_rows, anchor_rows, tmp_path / "all", schedule="exact", row_signals=True)
    loss = np.array(read(tmp_path / "all")["loss"])
    condition = "loss <= p60"
    meets = (loss <= np.percentile(loss, 60)).tolist()
    raced, golden_set = score(llama, tokenizer, pool_rows, anchor_rows, tmp_path / "race", require=condition)
    assert [reason != "fails_require" for reason in raced.dropped] == meets and meets.count(True) == 7
    for name in ("all", "race"):
        chosen = select_again(tmp_path / name, NuggetsConfig(top_k=3, require=condition))
        assert chosen.indices.tolist() == golden_set.indices.tolist() and chosen.num_candidates == 7


def test_select_and_the_dataset_card_say_the_percentiles(llama, tokenizer, pool_rows, anchor_rows, tmp_path, capsys):
    condition = "loss <= p60 and num_tokens > p0"
    score(llama, tokenizer, pool_rows, anchor_rows, tmp_path / "s", require=condition)
    found = json.loads((tmp_path / "s" / "run.json").read_text())["percentiles"]
    capsys.readouterr()
    words = ["select", str(tmp_path / "s"), "--top_k", "3", "--require", condition]
    assert main(words) == 0
    values = f"(p60 of loss: {found[0]['value']:.4g}, p0 of num_tokens: {found[1]['value']:.4g})"
    assert f"condition: `{condition}` {values}" in capsys.readouterr().out
    assert main([*words, "--json"]) == 0
    assert json_result(capsys)["percentiles"] == found
    write_dataset(tmp_path / "s", Pool(Dataset.from_list(pool_rows)), tmp_path / "card")
    card = (tmp_path / "card" / "README.md").read_text()
    assert f"| require | `{condition}` (p60 of loss is {found[0]['value']:.4g}; p0 of num_tokens is " in card


@pytest.mark.parametrize("options", [{"require": "loss < p50"}, {"require": "loss < 3", "require_recall": 0.5}])
def test_a_part_of_a_pool_has_no_percentiles(options, llama, tokenizer, pool, anchors, tmp_path):
    config = NuggetsConfig(top_k=3, template="plain", **options)
    with pytest.raises(ValueError, match=r"the whole pool, but `shard` scores a part of it"):
        score_shard(llama, tokenizer, pool, anchors, config, tmp_path, shard=(0, 2))
    with pytest.raises(ValueError, match=r"must be left out of `config`.* and a batch is only a part"):
        GoldenScorer(llama, anchors, config, tokenizer=tokenizer)


@pytest.mark.slow
@pytest.mark.parametrize("schedule", ["exact", "race"])
def test_several_processes_choose_the_same_rows(schedule, tmp_path):
    load_rows("nuggets-demo/pool").select(range(60)).to_json(tmp_path / "pool.jsonl")
    load_rows("nuggets-demo/anchors").select(range(6)).to_json(tmp_path / "anchors.jsonl")
    words = ["score", "--model_name_or_path", "nuggets-demo/model", "--dataset_name", str(tmp_path / "pool.jsonl")]
    words += ["--anchors", str(tmp_path / "anchors.jsonl"), "--top_k", "8", "--schedule", schedule]
    words += ["--require", "ifd < p60 and p12 < num_tokens", "--row_signals", "true", "--score_dir"]
    assert main([*words, str(tmp_path / "one")]) == 0
    cpu = {"ACCELERATE_USE_CPU": "true"}
    run([*TORCHRUN, "2", "-m", "nuggets_trainer.cli", *words, str(tmp_path / "two")], **cpu)
    one, two = read(tmp_path / "one"), read(tmp_path / "two")
    assert 8 <= sum(filter(None, one["meets_require"])) < 60
    for name in ("selected", "meets_require", "dropped", "num_tokens", "similarity_turn"):
        assert one[name] == two[name]
    for name in ("loss", "ifd", "similarity"):
        np.testing.assert_allclose(one[name], two[name], atol=1e-5)
