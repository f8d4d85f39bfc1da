"""Rows ranked by gains in a whole job: every rule, several sets, quotas, coverage, and selecting again."""

from __future__ import annotations

import json
import shutil
from collections import Counter

import numpy as np
import pyarrow.parquet as pq
import pytest
from datasets import Dataset

from nuggets_trainer import NuggetsConfig, Pool, score_pool, select_again
from nuggets_trainer.cli import main
from nuggets_trainer.golden.gains import anchor_scale, gain_pilot
from nuggets_trainer.golden.ranking import rank_candidates
from nuggets_trainer.golden.scores import golden_scores
from nuggets_trainer.store.read_results import read_scores
from nuggets_trainer.store.results import describe_results, set_means
from tests.support.documented import blocks_of
from tests.support.launch import ROOT
from tests.support.rows import alpaca_rows

GAINS = ("gain", "mean_gain")
ROWS = [{**row, "source": "web" if i % 3 else "book"} for i, row in enumerate(alpaca_rows(70, seed=21))]
ROWS += ROWS[5:8]  # equal rows
ANCHORS = Dataset.from_list(alpaca_rows(9, seed=22))


def scored(model, tokenizer, score_dir, anchors=ANCHORS, rows=ROWS, **options):
    config = NuggetsConfig(template="plain", tokens_per_batch=160, deduplicate="no", **options)
    return score_pool(model, tokenizer, Dataset.from_list(rows), anchors, config, score_dir)


@pytest.fixture(scope="module")
def exact(llama, tokenizer, tmp_path_factory):
    """A directory in which every pair is stored, and what scoring it gave."""
    score_dir = tmp_path_factory.mktemp("exact")
    return score_dir, *scored(llama, tokenizer, score_dir, schedule="exact", top_k=5)


def test_gains_are_those_of_the_pilot_and_the_stored_pairs(exact):
    score_dir, scores, _ = exact
    one_shot = np.array(pq.read_table(score_dir / "pairs.parquet")["one_shot"].to_pylist(), dtype=np.float32)
    pilot = gain_pilot(Pool(Dataset.from_list(ROWS)).read_keys()[0])
    assert len(pilot) == 64 < len(ROWS)
    scale = anchor_scale(scores.anchors.zero_shot, one_shot[pilot])
    by_hand = golden_scores(scores.anchors.zero_shot, one_shot, scale)
    stored = read_scores(score_dir)
    for name in ("gain", "gain_error", "mean_gain", "mean_gain_error"):
        np.testing.assert_array_equal(getattr(scores, name), getattr(by_hand, name))
        np.testing.assert_array_equal(getattr(stored, name), getattr(by_hand, name))
    anchors = pq.read_table(score_dir / "anchors.parquet")
    np.testing.assert_array_equal(anchors["gain_mean"], scale.mean)
    np.testing.assert_array_equal(anchors["gain_deviation"], scale.deviation)
    assert scores.gain[5:8].tolist() == scores.gain[70:].tolist()
    of_all = golden_scores(scores.anchors.zero_shot, one_shot)
    assert not np.array_equal(of_all.gain, scores.gain)


def test_the_lines_of_the_reference_run(exact, tmp_path, monkeypatch):
    score_dir, scores, _ = exact
    shutil.copytree(score_dir, tmp_path / "scores")
    monkeypatch.chdir(tmp_path)
    names = {}
    reference = ROOT / "docs" / "reference"
    shown = [*blocks_of("python", reference / "files.md")[:1], *blocks_of("python", reference / "python.md")[:2]]
    for block in shown:
        exec(block.text, names)
    assert names["verdict"] == scores.verdict and names["agreement"].num_rows == len(ROWS)
    assert names["half"].num_anchors == 5
    np.testing.assert_allclose(names["golden_scores"], scores.golden_score, rtol=1e-12)
    np.testing.assert_allclose(names["gain"], scores.gain, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("rank_by", GAINS)
@pytest.mark.parametrize("rule", [{"top_k": 7}, {"top_fraction": 0.2}, {"threshold": -0.001}, {}], ids=str)
def test_selecting_again_gives_the_golden_set_of_scoring(exact, llama, tokenizer, rank_by, rule):
    score_dir, scores, _ = exact
    chosen = select_again(score_dir, NuggetsConfig(rank_by=rank_by, **rule))
    _, expected = scored(llama, tokenizer, score_dir, schedule="exact", rank_by=rank_by, **rule)  # all pairs are there
    for name, value in vars(expected).items():
        np.testing.assert_array_equal(value, getattr(chosen, name))
    assert chosen.indices.tolist() == rank_candidates(scores, rank_by)[: len(chosen)].tolist()
    assert len(chosen) > 0 and chosen.indices.tolist() != rank_candidates(scores)[: len(chosen)].tolist()
    run, table = json.loads((score_dir / "run.json").read_text()), pq.read_table(score_dir / "scores.parquet")
    assert run["rank_by"] == run["config"]["rank_by"] == rank_by
    rank = np.array(table["rank"].to_pylist())
    assert np.argsort(rank).tolist() == rank_candidates(scores, rank_by).tolist()


def test_a_race_by_golden_scores_leaves_no_gains_and_says_what_to_run(llama, tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr("nuggets_trainer.scoring.race_run.WAVE_BATCHES", 4)  # else it is over before anyone is out
    scores, _ = scored(llama, tokenizer, tmp_path, top_k=3)
    assert scores.num_eliminated > 0 and np.isnan(scores.gain).all()
    anchors = pq.read_table(tmp_path / "anchors.parquet")
    assert anchors["gain_mean"].null_count == anchors["gain_deviation"].null_count == len(ANCHORS)
    for rank_by in GAINS:
        with pytest.raises(ValueError, match=f"`rank_by={rank_by}` needs .*a race stopped rows.*--rank_by {rank_by}"):
            select_again(tmp_path, NuggetsConfig(rank_by=rank_by, top_k=3))
    again, golden_set = scored(llama, tokenizer, tmp_path, schedule="exact", top_k=3, rank_by="gain")
    assert 0 < again.num_pairs_scored < again.num_anchors.sum() and again.num_eliminated == 0
    assert (
        select_again(tmp_path, NuggetsConfig(rank_by="gain", top_k=3)).indices.tolist() == golden_set.indices.tolist()
    )


def test_a_race_that_scores_the_pilot_finds_the_gains_of_scoring_everything(llama, tokenizer, tmp_path, monkeypatch):
    """From 4,096 rows on, the pilots of the race and of the gains are the same rows."""
    monkeypatch.setattr("nuggets_trainer.golden.gains.FEWEST_PILOT_ROWS", 1)
    monkeypatch.setattr("nuggets_trainer.scoring.race_run.WAVE_BATCHES", 4)
    raced, _ = scored(llama, tokenizer, tmp_path, top_k=3)
    complete = np.isnan(raced.upper_bound)
    assert 0 < complete.sum() < len(ROWS)
    exact, _ = scored(llama, tokenizer, tmp_path, top_k=3, schedule="exact")
    for name in ("gain", "gain_error", "mean_gain_error"):
        np.testing.assert_array_equal(getattr(raced, name)[complete], getattr(exact, name)[complete])
        assert np.isnan(getattr(raced, name)[~complete]).all() and not np.isnan(getattr(exact, name)).any()


def test_files_of_an_earlier_version_have_mean_gains_alone(exact, tmp_path):
    score_dir, scores, _ = exact
    table = pq.read_table(score_dir / "scores.parquet").drop_columns(["mean_gain_error", "gain", "gain_error"])
    pq.write_table(table, tmp_path / "scores.parquet")
    chosen = select_again(tmp_path, NuggetsConfig(rank_by="mean_gain", top_k=4))
    assert chosen.indices.tolist() == rank_candidates(scores, "mean_gain")[:4].tolist()
    assert "(standard error at the cut unknown)" in chosen.describe()
    with pytest.raises(ValueError, match="an earlier version of nuggets_trainer wrote the file. Run the command"):
        select_again(tmp_path, NuggetsConfig(rank_by="gain", top_k=4))


@pytest.mark.parametrize("how", ["mean", "worst"])
def test_gains_of_several_sets_are_those_of_each_combined(how, llama, tokenizer, tmp_path):
    sets = {name: Pool(Dataset.from_list(alpaca_rows(n, seed=n)), "anchors") for name, n in (("math", 3), ("chat", 6))}
    both = {"top_k": 5, "combine_anchor_sets": how, "rank_by": "gain"}
    scores, golden_set = scored(llama, tokenizer, tmp_path / "both", sets, ROWS[:20], **both)
    alone = {}
    for name, anchors in sets.items():
        alone[name], _ = scored(llama, tokenizer, tmp_path / name, anchors, ROWS[:20], top_k=5, schedule="exact")
        np.testing.assert_array_equal(scores.by_set[name].gain, alone[name].gain)  # each set has its own scale
    for name in ("gain_mean", "gain_deviation"):
        expected = np.concatenate([getattr(alone[own].anchors, name) for own in sets])
        np.testing.assert_array_equal(getattr(scores.anchors, name), expected)
    gains = np.array([alone[name].gain for name in sets])
    by_hand = gains.mean(axis=0) if how == "mean" else gains.min(axis=0)
    np.testing.assert_array_equal(scores.gain, by_hand)
    assert golden_set.gain.tolist() == np.sort(by_hand)[::-1][:5].tolist()
    means = set_means(scores, golden_set)
    assert means["math"]["kept"] == alone["math"].gain[golden_set.indices].mean()
    assert any(line.startswith("mean standardised gain of") for line in describe_results(scores, golden_set))


def test_quotas_coverage_and_distance_take_the_rows_by_gain(exact, llama, tokenizer):
    score_dir, scores, _ = exact
    options = {"top_k": 8, "rank_by": "gain"}
    _, quota = scored(llama, tokenizer, score_dir, **options, group_by="source", group_quota="equal")
    order = rank_candidates(scores, "gain").tolist()
    for source in ("web", "book"):
        best = [i for i in order if ROWS[i]["source"] == source][:4]
        assert [i for i in quota.indices if ROWS[i]["source"] == source] == best
    assert quota.groups["web"]["kept"] == 4 and quota.cut == quota.gain[-1]
    _, distant = scored(llama, tokenizer, score_dir, **options, max_similarity=0.8)
    places = [order.index(i) for i in distant.indices]
    assert places == sorted(places) and places[0] == 0 and distant.passed_over["near_duplicate"] > 0
    _, covering = scored(llama, tokenizer, score_dir, **options, coverage_weight=0.9)
    assert covering.spread["coverage"] >= covering.spread["ranking_coverage"] and covering.rank_by == "gain"
    assert Counter(covering.indices.tolist()).most_common(1)[0][1] == 1


def test_the_command_line_ranks_by_gains(exact, llama, tokenizer, capsys):
    score_dir, scores, _ = exact
    scored(llama, tokenizer, score_dir, schedule="exact", top_k=5)  # over what other tests left there
    assert main(["select", str(score_dir), "--top_k", "3", "--rank_by", "gain", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["rank_by"] == "gain" and result["indices"] == rank_candidates(scores, "gain")[:3].tolist()
    assert result["gain_cut"] == scores.gain[result["indices"][-1]] and "golden_score_cut" not in result
    assert main(["select", str(score_dir), "--top_k", "3", "--rank_by", "mean_gain"]) == 0
    assert "mean gain" in (told := capsys.readouterr().out) and "nats per token" in told
