"""`max_tokens`: the best rows until the next one would pass the budget, in a run, after it, in a plan and on paper."""

from __future__ import annotations

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
from datasets import Dataset

from nuggets_trainer import NuggetsConfig, plan_pool, score_pool, select_again
from nuggets_trainer.data.pool import Pool
from nuggets_trainer.golden.diversity import Diversity
from nuggets_trainer.golden.ranking import most_within, rank_candidates
from nuggets_trainer.golden.selection import select_golden_set
from nuggets_trainer.prompts.templates import make_template
from nuggets_trainer.report.cards import selection_section
from nuggets_trainer.report.makeup import what_is_kept
from tests.support.rows import alpaca_rows

ROWS = alpaca_rows(70, seed=21)
POOL, ANCHORS = Dataset.from_list(ROWS), Dataset.from_list(alpaca_rows(9, seed=22))


def scored(model, tokenizer, score_dir, **options):
    config = NuggetsConfig(**{"template": "plain", "tokens_per_batch": 160, **options})
    return score_pool(model, tokenizer, POOL, ANCHORS, config, score_dir)


def longest_prefix(order, tokens, budget) -> list[int]:
    kept = []
    for i in order.tolist():
        if sum(tokens[kept]) + tokens[i] > budget:
            return kept
        kept.append(i)
    return kept


@pytest.fixture(scope="module")
def exact(llama, tokenizer, tmp_path_factory):
    """A directory in which every pair is stored, the scores, and the tokens of each row, counted by hand."""
    score_dir = tmp_path_factory.mktemp("exact")
    scores, _ = scored(llama, tokenizer, score_dir, schedule="exact", max_tokens=400)
    template = make_template("plain", tokenizer, Pool(POOL))
    tokens = np.array([len(template.zero_shot(row).ids) for row in Pool(POOL)], dtype=np.float64)
    return score_dir, scores, tokens


@pytest.mark.parametrize("budget", [200, 400, 401, 100_000])
def test_the_best_rows_fill_the_budget(exact, llama, tokenizer, budget):
    score_dir, scores, tokens = exact
    np.testing.assert_array_equal(pq.read_table(score_dir / "scores.parquet")["total_tokens"], tokens)
    expected = longest_prefix(rank_candidates(scores), tokens, budget)
    _, golden_set = scored(llama, tokenizer, score_dir, schedule="exact", max_tokens=budget)
    again = select_again(score_dir, NuggetsConfig(max_tokens=budget))
    for chosen in (golden_set, again):
        assert chosen.indices.tolist() == expected and chosen.rule == ("max_tokens", budget)
        assert chosen.num_tokens == tokens[expected].sum() <= budget
        assert f"(max_tokens={budget:,}: {chosen.num_tokens:,} tokens)" in chosen.describe()
    assert len(expected) < len(ROWS) or budget == 100_000


@pytest.mark.parametrize("rank_by", ["golden_score", "gain"])
def test_a_race_tells_apart_the_most_rows_that_fit(exact, llama, tokenizer, tmp_path, monkeypatch, rank_by):
    monkeypatch.setattr("nuggets_trainer.scoring.race_run.WAVE_BATCHES", 4)  # else it is over before anyone is out
    score_dir, _, tokens = exact
    _, expected = scored(llama, tokenizer, score_dir, schedule="exact", max_tokens=200, rank_by=rank_by)
    scores, raced = scored(llama, tokenizer, tmp_path, max_tokens=200, rank_by=rank_by, race_recall=0.999)
    assert raced.indices.tolist() == expected.indices.tolist()
    assert scores.num_eliminated > 0
    again = select_again(tmp_path, NuggetsConfig(max_tokens=200, rank_by=rank_by))
    assert again.indices.tolist() == expected.indices.tolist()
    if rank_by == "golden_score":
        ranked = rank_candidates(scores)[: most_within(tokens, 200)]
        assert not np.isnan(scores.golden_score[ranked]).any() and len(ranked) > len(raced)


def test_a_race_does_not_decide_a_larger_budget(exact, llama, tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr("nuggets_trainer.scoring.race_run.WAVE_BATCHES", 4)
    scored(llama, tokenizer, tmp_path, max_tokens=100)
    assert select_again(tmp_path, NuggetsConfig(max_tokens=90)).num_tokens <= 90
    for budget, why in ((900, "could still reach"), (2000, r"has room for more than the \d+ rows")):
        with pytest.raises(ValueError, match=rf"{why}.*--max_tokens {budget}` in place of `--max_tokens 100"):
            select_again(tmp_path, NuggetsConfig(max_tokens=budget))


def test_scores_without_the_count_say_what_to_run(llama, tokenizer, tmp_path):
    scored(llama, tokenizer, tmp_path, top_k=5)
    with pytest.raises(ValueError, match=r"`max_tokens=300` needs .*total_tokens.* with `max_tokens=300`: it counts"):
        select_again(tmp_path, NuggetsConfig(max_tokens=300))


def test_a_budget_without_room_for_the_longest_row_is_refused_before_scoring(llama, tokenizer, tmp_path, exact):
    _, _, tokens = exact
    longest = int(tokens.max())
    with pytest.raises(ValueError, match=f'row {tokens.argmax()} has {longest} tokens.*`require="total_tokens <= '):
        scored(llama, tokenizer, tmp_path, max_tokens=longest - 1)
    assert not (tmp_path / "scores.parquet").exists()
    limit = int(np.median(tokens))
    _, golden_set = scored(
        llama, tokenizer, tmp_path, max_tokens=longest - 1, require=f"total_tokens <= {limit}", schedule="exact"
    )
    assert len(golden_set) > 0 and tokens[golden_set.indices].max() <= limit


def test_near_duplicates_do_not_use_the_budget(exact):
    _, scores, tokens = exact
    order = rank_candidates(scores)
    embeddings = np.eye(len(ROWS), dtype=np.float32)
    embeddings[order[1]] = embeddings[order[0]]
    diversity = Diversity(embeddings=embeddings, max_similarity=0.9)
    chosen = select_golden_set(scores, ("max_tokens", 200), diversity=diversity, total_tokens=tokens)
    assert chosen.indices.tolist() == longest_prefix(np.delete(order, 1), tokens, 200)
    assert chosen.passed_over == {"near_duplicate": 1}


def test_what_fills_places_is_refused():
    with pytest.raises(ValueError, match="needs a fixed number of rows, but `max_tokens=.*Use `top_k`"):
        NuggetsConfig(max_tokens=1000, coverage_weight=0.5)
    with pytest.raises(ValueError, match="Expected one selection rule, got `top_k=3` and `max_tokens=1000`"):
        NuggetsConfig(max_tokens=1000, top_k=3)


def test_a_plan_says_how_many_rows_fit(exact, llama, tokenizer, tmp_path):
    _, _, tokens = exact
    plan = plan_pool(
        llama,
        tokenizer,
        POOL,
        ANCHORS,
        NuggetsConfig(template="plain", max_tokens=200),
        tmp_path,
        measure_seconds=0.01,
    )
    most = most_within(tokens, 200)
    assert plan.to_dict()["rows_in_budget"] == {"expected": int(200 / tokens.mean()), "most": most}
    assert f"max_tokens=200 has room for about {int(200 / tokens.mean())} of 70 candidates" in plan.describe()


def test_report_and_card_say_budget_and_tokens(exact, llama, tokenizer):
    score_dir, _, _ = exact
    scores, golden_set = scored(llama, tokenizer, score_dir, schedule="exact", max_tokens=200)
    run = json.loads((score_dir / "run.json").read_text())
    used = golden_set.num_tokens
    assert what_is_kept(run) == f"The golden set is the best rows that 200 tokens have room for ({used} are used)"
    assert what_is_kept(run) in (score_dir / "report.html").read_text()
    card = selection_section(golden_set, NuggetsConfig(max_tokens=200), scores)
    assert f"max_tokens=200 ({used} tokens kept)" in card


def test_rows_ranked_by_a_signal_fill_the_budget_too(exact, llama, tokenizer, tmp_path):
    _, _, tokens = exact
    scores, golden_set = scored(llama, tokenizer, tmp_path, rank_by="loss", max_tokens=200)
    order = np.lexsort((np.arange(len(ROWS)), scores.signals["loss"]))
    assert golden_set.indices.tolist() == longest_prefix(order, tokens, 200) and golden_set.num_tokens <= 200
    again = select_again(tmp_path, NuggetsConfig(rank_by="loss", max_tokens=150))
    assert again.indices.tolist() == longest_prefix(order, tokens, 150)
    config = NuggetsConfig(template="plain", rank_by="loss", max_tokens=200)
    plan = plan_pool(llama, tokenizer, POOL, ANCHORS, config, tmp_path)
    assert plan.to_dict()["rows_in_budget"]["most"] == most_within(tokens, 200) and "at most" in plan.describe()


def test_a_condition_that_no_row_meets_is_named(llama, tokenizer, tmp_path):
    with pytest.raises(ValueError, match="The rows must meet `require='total_tokens < 1'`"):
        scored(llama, tokenizer, tmp_path, max_tokens=200, require="total_tokens < 1")
