"""Coverage, quotas, near-duplicates and several anchor sets in a whole job; and what of it is refused."""

from __future__ import annotations

import json
import logging
import re
from collections import Counter

import numpy as np
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, DatasetDict
from trl import SFTConfig

from nuggets_trainer import NuggetsConfig, Pool, SelectedSFTTrainer, score_pool
from nuggets_trainer.cli import main
from nuggets_trainer.config.places import RowPlace
from nuggets_trainer.golden.scores import GoldenScores, combined_scores
from nuggets_trainer.pipeline.rows import read_anchors
from nuggets_trainer.store.results import describe_results, set_means
from tests.support.rows import alpaca_rows


@pytest.fixture
def rows() -> Dataset:
    return Dataset.from_list(
        [{**row, "source": "web" if i % 4 else "book"} for i, row in enumerate(alpaca_rows(24, seed=5))]
    )


@pytest.fixture
def sets() -> dict[str, Pool]:
    return {name: Pool(Dataset.from_list(alpaca_rows(n, seed=n)), "anchors") for name, n in (("math", 3), ("chat", 6))}


def score(model, tokenizer, rows, anchors, score_dir, **options):
    return score_pool(model, tokenizer, Pool(rows), anchors, config=NuggetsConfig(**options), score_dir=score_dir)


@pytest.mark.parametrize("how", ["mean", "worst"])
def test_several_sets_are_scored_as_each_alone_and_then_combined(how, llama, tokenizer, rows, sets, tmp_path, caplog):
    caplog.set_level(logging.INFO, "nuggets_trainer")
    scores, golden_set = score(llama, tokenizer, rows, sets, tmp_path / "both", top_k=5, combine_anchor_sets=how)
    alone = {
        name: score(llama, tokenizer, rows, anchors, tmp_path / name, top_k=5, schedule="exact")[0]
        for name, anchors in sets.items()
    }
    for name, expected in alone.items():
        for field in ("golden_score", "standard_error", "mean_gain", "num_anchors"):
            np.testing.assert_array_equal(getattr(scores.by_set[name], field), getattr(expected, field))
    by_hand = np.array([alone[name].golden_score for name in sets])
    by_hand = by_hand.mean(axis=0) if how == "mean" else by_hand.min(axis=0)
    np.testing.assert_array_equal(scores.golden_score, by_hand)
    assert (golden_set.golden_score == np.sort(by_hand)[::-1][:5]).all()
    assert len(set(by_hand)) > 3  # there is something to tell apart
    table = pq.read_table(tmp_path / "both" / "scores.parquet")
    assert table["golden_score_math"].to_pylist() == alone["math"].golden_score.tolist()
    anchors = pq.read_table(tmp_path / "both" / "anchors.parquet")
    assert Counter(anchors["anchor_set"].to_pylist()) == {"math": 3, "chat": 6}
    assert "golden_score_math" not in pq.read_table(tmp_path / "math" / "scores.parquet").column_names
    means = set_means(scores, golden_set)
    for name, expected in alone.items():
        of_kept = expected.golden_score[golden_set.indices].mean()
        assert means[name] == {"kept": of_kept, "candidates": pytest.approx(expected.golden_score.mean())}
    assert f"math {means['math']['kept']:.3f} ({means['math']['candidates']:.3f})" in caplog.text
    report = json.loads((tmp_path / "both" / "report.json").read_text())
    for entry in report["sets"]:
        assert {"kept": entry["mean_kept"], "candidates": entry["mean_candidates"]} == pytest.approx(
            means[entry["name"]]
        )
    assert [(entry["name"], entry["num_anchors"]) for entry in report["sets"]] == [("math", 3), ("chat", 6)]
    assert "By anchor set" in (tmp_path / "both" / "report.html").read_text()
    assert "By anchor set" not in (tmp_path / "math" / "report.html").read_text()


def test_a_set_of_more_anchors_weighs_no_more():
    """Pooled, the larger set would have five sixths of the say."""
    one = []
    for p, m in ((0.2, 2), (0.8, 10)):
        one.append(GoldenScores(*(np.array([x]) for x in (p, 0.1, p - 0.5, m, 0.1, 2 * p, 0.3))))
    mean, worst = combined_scores(one, "mean"), combined_scores(one, "worst")
    assert mean.golden_score[0] == 0.5 and mean.num_anchors[0] == 12
    assert mean.standard_error[0] == pytest.approx(np.sqrt(0.02) / 2)
    assert mean.gain[0] == 1.0 and mean.gain_error[0] == pytest.approx(np.sqrt(0.18) / 2)
    assert (worst.golden_score[0], worst.standard_error[0], worst.mean_gain[0]) == (0.2, 0.1, -0.3)
    assert (worst.gain[0], worst.gain_error[0], worst.mean_gain_error[0]) == (0.4, 0.3, 0.1)


def test_without_a_scored_anchor_in_one_set_there_is_no_score():
    nan = np.full(1, np.nan)
    halves = [GoldenScores(nan, nan, nan, np.array([0]), nan, nan, nan), GoldenScores(*[np.ones(1)] * 7)]
    for how in ("mean", "worst"):
        assert np.isnan(combined_scores(halves, how).golden_score[0])


def test_a_row_that_is_all_of_a_set_is_dropped_with_its_reason(llama, tokenizer, rows, sets, tmp_path):
    own = {"own": Pool(rows.select([7]), "anchors"), **sets}
    scores, golden_set = score(llama, tokenizer, rows, own, tmp_path, top_k=5)
    assert scores.dropped[7] == "no_scored_anchor" and scores.dropped.count(None) == 23
    assert golden_set.num_candidates == 23


def test_coverage_quotas_and_distance_change_the_golden_set_and_nothing_that_is_stored(
    llama, tokenizer, rows, sets, tmp_path, caplog
):
    caplog.set_level(logging.INFO, "nuggets_trainer")
    anchors = sets["chat"]
    _, ranking = score(llama, tokenizer, rows, anchors, tmp_path, top_k=8, schedule="exact")
    found, reports = {}, {}
    for name, options in {
        "coverage": {"coverage_weight": 0.9},
        "quota": {"group_by": "source", "group_quota": "equal"},
        "distance": {"max_similarity": 0.8},
    }.items():
        scores, found[name] = score(llama, tokenizer, rows, anchors, tmp_path, top_k=8, **options)
        reports[name] = json.loads((tmp_path / "report.json").read_text())
        assert scores.num_pairs_scored == 0  # every pair was there
        assert set(found[name].indices) != set(ranking.indices), name
    assert Counter(np.array(rows["source"])[found["quota"].indices]) == {"web": 4, "book": 4}
    counts = {"web": {"candidates": 18, "kept": 4}, "book": {"candidates": 6, "kept": 4}}
    assert found["quota"].groups == counts and found["coverage"].groups == {}
    assert "kept by group: web 4 of 18, book 4 of 6" in caplog.text
    assert {name: report["what_is_kept"] for name, report in reports.items()} == {
        "coverage": "The golden set is the best 8 rows, chosen by coverage of the anchors",
        "quota": "The golden set is the best 8 rows, within quotas by source",
        "distance": "The golden set is the best 8 rows, without near-duplicates",
    }
    assert reports["quota"]["groups"] == {
        "column": "source",
        "rows": [{"name": name, **of_group} for name, of_group in counts.items()],
        "num_more": 0,
    }
    for name, golden_set in found.items():
        assert golden_set.num_unlike_ranking == len(set(ranking.indices) - set(golden_set.indices)) > 0, name
    assert ranking.num_unlike_ranking is None
    assert found["coverage"].spread["coverage"] > found["coverage"].spread["ranking_coverage"]
    assert found["distance"].passed_over["near_duplicate"] > 0


def test_of_many_groups_the_largest_are_shown_and_no_name_acts_on_a_terminal(llama, tokenizer, sets, tmp_path):
    names = ["\x1b[31mred\u202e and a name as long as a sentence of some length", *(f"source {i}" for i in range(34))]
    rows = [{**row, "source": names[max(0, i - 3)]} for i, row in enumerate(alpaca_rows(38, seed=5))]
    scores, golden_set = score(
        llama, tokenizer, Dataset.from_list(rows), sets["chat"], tmp_path, top_k=10, group_by="source"
    )
    assert len(golden_set.groups) == 35
    (line,) = [line for line in describe_results(scores, golden_set) if line.startswith("kept by group: ")]
    assert line.isprintable() and line.endswith(" of 1, and 25 smaller groups") and line.count(" of ") == 10
    assert re.match(r"kept by group: \[31mred and a name as long as a\.\.\. \d of 4, source \d+ [01] of 1, ", line)
    groups = json.loads((tmp_path / "report.json").read_text())["groups"]
    assert len(groups["rows"]) == 30 and groups["num_more"] == 5
    page = (tmp_path / "report.html").read_text()
    assert "5 smaller groups are not shown." in page and "\x1b" not in page and "\u202e" not in page


def test_coverage_that_changes_nothing_says_so(llama, tokenizer, rows, sets, tmp_path):
    """It chose the ranking's rows without a word."""
    scores, golden_set = score(llama, tokenizer, rows, sets["chat"], tmp_path, top_fraction=1.0, coverage_weight=0.5)
    assert len(golden_set) == len(rows) and golden_set.num_unlike_ranking == 0
    assert "coverage changed nothing: they are the rows of the ranking" in golden_set.describe()
    assert "Coverage changed nothing" in [caution["title"] for caution in scores.cautions]


def test_a_row_that_cannot_be_rendered_alone_is_no_near_duplicate(llama, tokenizer, rows, sets, tmp_path):
    """Under `nuggets` an anchor is cut at 200 tokens, and a long candidate has no completion left then."""
    longer = rows.to_list()
    longer[3]["instruction"] = "Say " + "red " * 210
    longer = Dataset.from_list(longer)
    options = {"template": "nuggets", "top_k": 20, "max_similarity": 0.9}
    scores, golden_set = score(llama, tokenizer, longer, sets["chat"], tmp_path, **options)
    assert scores.dropped[3] is None and golden_set.passed_over["near_duplicate"] > 0


def test_schedule_auto_scores_every_pair_where_the_set_depends_on_it():
    assert NuggetsConfig().schedule_in_force == "race"
    for options in (
        {"coverage_weight": 0.5},
        {"group_by": "x"},
        {"max_similarity": 0.9},
        {"anchors": {"a": "a", "b": "b"}},
    ):
        assert NuggetsConfig(**options).schedule_in_force == "exact"
        with pytest.raises(ValueError, match="A race leaves out pairs, but with .*Leave `schedule` at `auto`"):
            NuggetsConfig(**options, schedule="race")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"coverage_weight": 0}, r"`coverage_weight` must be in \(0, 1\], got 0"),
        ({"coverage_weight": 1.5}, "`coverage_weight` must be in"),
        ({"max_similarity": 1.0}, r"`max_similarity` must be in \[-1, 1\), got 1.0: it is a cosine"),
        ({"group_quota": "equal"}, "`group_quota='equal'` needs groups.*Name the column with `group_by`"),
        ({"combine_anchor_sets": "worst", "anchors": "a.jsonl"}, "`combine_anchor_sets='worst'` needs several anchor"),
        (
            {"combine_anchor_sets": "worst", "anchors": {"a": "a"}},
            "`combine_anchor_sets='worst'` needs several anchor",
        ),
        ({"group_quota": "fair"}, "`group_quota` must be one of proportional, equal, got 'fair'"),
        ({"combine_anchor_sets": "max"}, "`combine_anchor_sets` must be one of mean, worst"),
        ({"coverage_weight": 0.5, "threshold": 0.5}, "`coverage_weight` chooses which rows fill .*`threshold=0.5`"),
        ({"group_by": "x", "threshold": 0.5}, "`group_by` chooses which rows fill"),
        ({"anchors": {"": "a", "b": "b"}}, "Each of several anchor sets needs a name"),
    ],
)
def test_values_that_make_no_sense_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        NuggetsConfig(**options)


def test_anchor_sets_come_as_a_mapping_or_as_json():
    sets = {"math": "m.jsonl", "chat": "c.jsonl"}
    places = {name: RowPlace(path) for name, path in sets.items()}
    assert NuggetsConfig(anchors=sets).anchor_sets == NuggetsConfig(anchors=json.dumps(sets)).anchor_sets == places
    assert NuggetsConfig(anchors={"math": "m.jsonl"}).anchor_sets == {"": RowPlace("m.jsonl")}
    for wrong in ({}, {"a": 1, "b": "x"}, "{broken", {"path": ""}, {"path": "m", "split": 3}, {"a": {"split": "x"}}):
        with pytest.raises(TypeError, match="`anchors` must be a non-empty string, a mapping"):
            NuggetsConfig(anchors=wrong)


def test_anchors_name_a_configuration_and_a_split():
    """A split other than `train` could not be named at all; the words are those of `load_dataset`."""
    place = {"path": "openai/gsm8k", "name": "main", "split": "test"}
    one = {"": RowPlace("openai/gsm8k", "main", "test")}
    assert NuggetsConfig(anchors=place).anchor_sets == NuggetsConfig(anchors=json.dumps(place)).anchor_sets == one
    sets = NuggetsConfig(anchors={"math": place, "chat": "c.jsonl"}).anchor_sets
    assert sets == {"math": RowPlace("openai/gsm8k", "main", "test"), "chat": RowPlace("c.jsonl")}


def test_anchors_of_another_split_are_read(tmp_path, rows):
    directory = tmp_path / "rows"
    directory.mkdir()
    rows.select([0]).to_json(directory / "train.jsonl")
    rows.select([1, 2, 3]).to_json(directory / "validation.jsonl")
    pool = Pool(rows)
    config = NuggetsConfig(anchors=json.dumps({"path": str(directory), "split": "validation"}))
    (anchors,) = read_anchors(None, config, pool).values()
    assert [row.key for row in map(anchors.__getitem__, range(3))] == [pool[i].key for i in (1, 2, 3)]


def trainer_of(rows, tmp_path, anchors=None, **options):
    return SelectedSFTTrainer(
        model="nuggets_trainer/demo/model",
        args=SFTConfig(output_dir=str(tmp_path), use_cpu=True, bf16=False, report_to="none", max_steps=1),
        train_dataset=rows,
        anchor_dataset=anchors,
        nuggets_config=NuggetsConfig(**options),
    )


def test_the_trainer_takes_a_dict_of_anchor_datasets(rows, tmp_path):
    sets = {name: Dataset.from_list(alpaca_rows(3, seed=seed)) for seed, name in enumerate(("math", "chat"))}
    trainer = trainer_of(rows, tmp_path, sets, top_k=4)
    trainer.train()
    assert list(trainer.scores.by_set) == ["math", "chat"] and len(trainer.golden_set) == 4
    saved = json.loads((tmp_path / "nuggets_selection.json").read_text())
    assert saved["settings"]["anchors"].startswith("given, math sha256 ")
    with pytest.raises(ValueError, match="A race leaves out pairs, but with several anchor sets"):
        trainer_of(rows, tmp_path / "race", sets, schedule="race")
    for one in (sets["math"], None):
        with pytest.raises(
            ValueError, match="`combine_anchor_sets='worst'` needs several anchor sets, but only one was given"
        ):
            trainer_of(rows, tmp_path / "one", one, combine_anchor_sets="worst")
    with pytest.raises(TypeError, match="`anchors` must be one split, got DatasetDict"):
        trainer_of(rows, tmp_path / "splits", DatasetDict(sets))


def test_a_trainer_refuses_before_any_work_what_it_could_not_keep(rows, tmp_path):
    with pytest.raises(ValueError, match="`group_by='origin'` is not a column of `train_dataset`.*'source'"):
        trainer_of(rows, tmp_path, group_by="origin")
    with pytest.raises(
        ValueError, match="`max_similarity=0.9` leaves open how many rows are kept, but with `reselect`"
    ):
        trainer_of(rows, tmp_path, max_similarity=0.9, reselect="epoch")


def test_the_command_line_takes_sets_as_json(rows, tmp_path, capsys):
    rows.to_json(tmp_path / "pool.jsonl")
    for seed, name in enumerate(("math", "chat")):
        Dataset.from_list(alpaca_rows(3, seed=seed)).to_json(tmp_path / f"{name}.jsonl")
    sets = json.dumps({name: str(tmp_path / f"{name}.jsonl") for name in ("math", "chat")})
    options = ("--model_name_or_path", "nuggets-demo/model", "--dataset_name", str(tmp_path / "pool.jsonl"))
    chosen = ("--anchors", sets, "--top_k", "6", "--group_by", "source", "--coverage_weight", "0.5")
    assert main(["score", *options, *chosen, "--score_dir", str(tmp_path / "s")]) == 0
    output = capsys.readouterr().out
    assert "scored 24 candidates x 6 anchors" in output and "golden set: 6 of 24 candidates (top_k=6)" in output
    assert "by coverage" in output
    # What was chosen otherwise than by a ranking is not cut again as one.
    assert main(["select", str(tmp_path / "s"), "--top_k", "3"]) == 1
    told = capsys.readouterr().err
    assert "was chosen with `coverage_weight` and `group_by`, which is not asked for now" in told


def test_exact_duplicates_are_near_duplicates(llama, tokenizer, sets, tmp_path):
    """Some of them passed `max_similarity=0.9999999`, because a cosine of equal embeddings came out just below 1."""
    different = alpaca_rows(16, seed=7)
    spaced = [{**row, "instruction": f" {row['instruction']}\n"} for row in different]  # stripped, so the same rows
    rows = Dataset.from_list([*different, *spaced, *different])
    limits = {"top_fraction": 1.0, "max_similarity": 0.9999999, "deduplicate": "no"}
    _, golden_set = score(llama, tokenizer, rows, sets["chat"], tmp_path, **limits)
    assert golden_set.passed_over == {"near_duplicate": 32}
    assert sorted(i % 16 for i in golden_set.indices) == list(range(16))


def test_a_repeated_anchor_counts_once(llama, tokenizer, rows, sets, tmp_path, caplog):
    once = sets["chat"].dataset
    twice = Dataset.from_list([once[0], *once, once[3]])
    expected, _ = score(llama, tokenizer, rows, Pool(once, "anchors"), tmp_path / "once", top_k=5)
    found, _ = score(llama, tokenizer, rows, {"": Pool(twice, "anchors")}, tmp_path / "twice", top_k=5)
    np.testing.assert_array_equal(found.golden_score, expected.golden_score)
    assert found.anchors.dropped == [None, "repeated_anchor", *[None] * 5, "repeated_anchor"]
    assert "2 anchors are listed twice" in caplog.text and "row 1 equals row 0, row 7 equals row 4" in caplog.text
    both = {"one": Pool(once, "anchors"), "two": Pool(twice, "anchors")}
    found, _ = score(llama, tokenizer, rows, both, tmp_path / "both", top_k=5)
    np.testing.assert_array_equal(found.by_set["two"].golden_score, expected.golden_score)
    assert "row 1 equals row 0 in `two`" in caplog.text


def test_random_anchors_are_different_rows(llama, tokenizer, tmp_path):
    different = alpaca_rows(6, seed=8)
    rows = Dataset.from_list([*different, *different, *different])
    scores, _ = score(
        llama, tokenizer, rows, None, tmp_path, top_k=2, num_anchors=6, anchor_selection="random", signal_check=False
    )
    assert sorted(scores.anchors.pool_index) == list(range(6)) and not any(scores.anchors.dropped)
