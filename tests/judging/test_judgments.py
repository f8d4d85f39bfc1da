"""Known judgments give the known scores, win rates and intervals; the judge is a fake with prepared replies."""

from __future__ import annotations

import dataclasses
import json
import re
from collections import Counter

import numpy as np
import pytest

from nuggets_trainer.evaluation.questions import (
    JUDGE_PROMPT_NAMES,
    MT_BENCH_CATEGORIES,
    MtBenchQuestion,
    load_mt_bench,
)
from nuggets_trainer.judging.intervals import clustered_mean, mean_of
from nuggets_trainer.judging.judge import Endpoint, Judge
from nuggets_trainer.judging.mt_bench import judge_single, judgment_path, parse_score, scores_of, single_matches
from nuggets_trainer.judging.pairwise import judge_pairs, mt_bench_games, pairwise_result, winner
from nuggets_trainer.judging.paper import PAPER_ROWS, collect_paper_table, write_paper_table
from tests.support.fake_judge import PROMPTS, fake_judge, prompt_of

pytest.importorskip("openai", reason="needs the extra `eval`")

QUESTIONS = [
    MtBenchQuestion(81 + i, category, (f"q{i}", f"r{i}"), ("ref1", "ref2") if category == "math" else None)
    for i, category in enumerate(["writing", "writing", "math", "math"])
]
ANSWERS = {question.question_id: (f"a{i} {{x}}", f"b{i}") for i, question in enumerate(QUESTIONS)}


def judge_of(server, directory) -> Judge:
    return Judge(Endpoint(server.base_url, concurrency=2), directory)


def test_the_test_has_all_wanted_judge_prompts():
    assert PROMPTS.keys() == set(JUDGE_PROMPT_NAMES)


def test_matches_follow_the_official_runner():
    """Reference answers for math, the whole conversation for the second turn; braces in answers are left alone."""
    matches = single_matches(QUESTIONS, ANSWERS, PROMPTS)
    assert [(match.question_id, match.turn, match.prompt_name) for match in matches[::3]] == [
        (81, 1, "single-v1"),
        (84, 1, "single-math-v1"),
        (83, 2, "single-math-v1-multi-turn"),
    ]
    assert matches[0].user_prompt == "S|q0|a0 {x}" and matches[3].user_prompt == "SM|q3|ref1|a3 {x}"
    assert matches[4].user_prompt == "S2|q0|a0 {x}|r0|b0" and matches[6].user_prompt.startswith("SM2|q2|ref1|a2 {x}")
    missing = [dataclasses.replace(QUESTIONS[2], references=None)]
    with pytest.raises(ValueError, match=r"Question 83 \(math\) needs a reference answer"):
        single_matches(missing, ANSWERS, PROMPTS)


def test_known_judgments_give_the_known_scores(tmp_path):
    given = {"S|q0": "[[8]]", "S|q1": "[[6.5]]", "SM|q2": "[[4]]", "SM|q3": "I cannot rate this."}
    given |= {"S2|q0": "Rating: [[10]] or [[1]]", "S2|q1": "[3]", "SM2|q2": "[[4]]", "SM2|q3": "[[2]]"}
    with fake_judge(lambda request: given[prompt_of(request).rsplit("|a", 1)[0].split("|ref")[0]]) as server:
        path = judgment_path(tmp_path, "org/judge", "single")
        matches = single_matches(QUESTIONS, ANSWERS, PROMPTS)
        records = judge_single(judge_of(server, tmp_path / "replies"), "org/judge", "mine", matches, path)
        before = path.read_bytes()
        other = judge_single(judge_of(server, tmp_path / "replies"), "org/judge", "other", matches, path)
        judge_single(judge_of(server, tmp_path / "replies"), "org/judge", "mine", matches, path)
    assert len(server.requests) == 8  # the same answers under another name are not paid again
    assert path.name == "org_judge_single.jsonl" and path.read_bytes().endswith(before)
    written = [json.loads(line) for line in path.read_text().splitlines()]
    assert written == other + records
    fields = {"question_id", "model", "judge", "user_prompt", "judgment", "score", "turn", "tstamp"}
    assert all(set(record) == fields for record in written)
    assert records[0]["judge"] == ["org/judge", "single-v1"] and records[3]["score"] == -1

    scores = scores_of(records, QUESTIONS)
    assert (scores.unparsable, scores.judgments) == (1, 8)
    assert scores.overall.value == pytest.approx((8 + 6.5 + 4 + 10 + 3 + 4 + 2) / 7)
    assert scores.turns[1] == mean_of([8, 6.5, 4]) and scores.turns[2].value == pytest.approx(19 / 4)
    assert scores.categories["math"].value == pytest.approx(10 / 3) and scores.categories["math"].count == 2
    assert scores.overall.standard_error > 0


def test_scores_are_read_as_the_official_runner_reads_them():
    texts = ["[[7]]", "[[7.5]]", "[7]", "[[10.]] and [[1]]", "seven", "[[ 7 ]]", "[[07]]", "[[-3]]"]
    assert [parse_score(text) for text in texts] == [7, 7.5, 7, 10.0, -1, -1, 7.0, -1]


def test_known_verdicts_give_the_known_win_rate(tmp_path):
    """q0: won in both orders; q1: the first place wins; q2: tie, then lost; q3: not to be read in one order."""
    rivals = {key: (f"z{first[1:]}", "y") for key, (first, _) in ANSWERS.items()}
    games = [game for game in mt_bench_games(QUESTIONS, (ANSWERS, rivals), PROMPTS) if game.turn == 1]
    assert len(games) == 4

    def answer(request):
        prompt = prompt_of(request)
        question, ours_first = prompt.split("|")[1], "|a" in prompt.split("|z")[0]
        if question == "q0":
            return "[[A]]" if ours_first else "[[B]]"
        if question == "q1":
            return "[[A]]"
        if question == "q2":
            return "[[C]]" if ours_first else "[[A]]"
        return "[[A]]" if ours_first else "who knows"

    with fake_judge(answer) as server:
        path = tmp_path / "pairs.jsonl"
        records = judge_pairs(judge_of(server, tmp_path / "replies"), "judge", ("mine", "theirs"), games, path)
    assert len(server.requests) == 8
    assert [(record["g1_winner"], record["g2_winner"]) for record in records] == [
        ("model_1", "model_1"),
        ("model_1", "model_2"),
        ("tie", "model_2"),
        ("model_1", "error"),
    ]
    assert set(records[0]) >= {"question_id", "model_1", "model_2", "judge", "turn", "g2_user_prompt", "g2_judgment"}
    assert records[2]["g1_user_prompt"] == "PM|q2|ref1|a2 {x}|z2 {x}"
    result = pairwise_result(records)
    assert dataclasses.astuple(result.win_rate) == pytest.approx(dataclasses.astuple(mean_of([100.0, 50.0, 25.0])))
    counts = (result.wins, result.ties, result.losses, result.contradictions, result.unparsable, result.games)
    assert counts == (1, 1, 1, 1, 1, 4)


def test_a_second_turn_shows_both_conversations():
    rivals = dict.fromkeys(ANSWERS, ("z", "y"))
    game = [game for game in mt_bench_games(QUESTIONS, (ANSWERS, rivals), PROMPTS) if game.turn == 2][2]
    assert game.user_prompt(0) == "PM2|q2|r2|ref1|ref2|a2 {x}|b2|z|y"
    assert game.user_prompt(1) == "PM2|q2|r2|ref1|ref2|z|y|a2 {x}|b2"


def test_a_judge_that_prefers_a_place_helps_nobody():
    record = {"question_id": 1, "g1_winner": winner("[[A]]", 0), "g2_winner": winner("[[A]]", 1)}
    assert pairwise_result([record, {**record, "question_id": 2}]).win_rate.value == 50.0


def test_equal_clusters_have_the_error_of_their_means():
    """Two turns for each question: as if each question had the mean of its turns."""
    values = {1: (2.0, 4.0), 2: (5.0, 9.0), 3: (1.0, 1.0)}
    clustered = clustered_mean((key, value) for key, pair in values.items() for value in pair)
    assert dataclasses.astuple(clustered) == pytest.approx(dataclasses.astuple(mean_of([3.0, 7.0, 1.0])))
    naive = mean_of([value for pair in values.values() for value in pair])
    assert clustered.value == naive.value and clustered.standard_error > naive.standard_error


def test_one_cluster_gives_the_mean_of_its_values():
    """It gave the first of them: of an MT-Bench trial with one question the score of the first turn."""
    mean = clustered_mean([("q", 4.0), ("q", 8.0)])
    assert mean.value == 6.0 and np.isnan(mean.standard_error) and mean.count == 1 and str(mean) == "6.00"
    assert str(clustered_mean([])) == ""


def test_intervals_cover_the_truth_as_often_as_they_say():
    """2,000 draws of 40 questions with two correlated turns and some unreadable: 95% within 2 points."""
    generator = np.random.default_rng(0)
    covered = 0
    for _ in range(2000):
        level = generator.normal(5, 1.5, 40)
        items = [
            (q, level[q] + generator.normal(0, 0.5)) for q in range(40) for _ in (1, 2) if generator.random() > 0.1
        ]
        mean = clustered_mean(items)
        covered += mean.low < 5 < mean.high
    assert abs(covered / 2000 - 0.95) < 0.02


def judged(output_dir, name, win_rate, scores, file="generation.json") -> None:
    """Write what judging a run leaves."""
    folder = output_dir / name / "alpaca_eval" / "v1-gpt-4"
    folder.mkdir(parents=True)
    (output_dir / name / file).write_text('{"settings": {}}')
    metrics = {"win_rate": win_rate, "standard_error": 1.5, "n_total": 805}
    (folder / "result.json").write_text(json.dumps({"metrics": metrics, "setting": "v1"}))
    path = judgment_path(output_dir, "gpt-4", "single")
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        for i, score in enumerate(scores):
            file.write(json.dumps({"question_id": 81 + i // 2, "model": name, "score": score}) + "\n")


def test_the_table_has_the_paper_numbers_and_ours(tmp_path):
    judged(tmp_path, "alpaca-full", 25.0, [4, 5, 6, -1])
    judged(tmp_path, "alpaca-kmeans100-above-0.8.seed1", 30.0, [5, 5])
    judged(tmp_path, "alpaca-kmeans100-above-0.8.seed2", 34.0, [6, 6])
    judged(tmp_path, "mine", 10.0, [], file="run.json")  # its name in version 0.1
    table = collect_paper_table(tmp_path, "v1", "gpt-4", "gpt-4")
    rows = {entry.row.key: entry for entry in table}
    assert [entry.row for entry in table[:-1]] == list(PAPER_ROWS) and table[-1].row.key == "mine"
    full = rows["alpaca-full"]
    assert full.alpaca_eval.low == pytest.approx(25 - 1.963 * 1.5, abs=0.01)  # the questions' interval
    assert full.mt_bench.value == pytest.approx(5.0) and full.row.mt_bench == 4.83
    seeds = rows["alpaca-kmeans100-above-0.8"]
    assert seeds.alpaca_eval == mean_of([30.0, 34.0]) and seeds.mt_bench == mean_of([5.0, 6.0])  # the runs' interval
    assert rows["alpaca-kmeans100-above-0.85"].runs == () and rows["alpaca-kmeans100-above-0.85"].alpaca_eval is None
    text = write_paper_table(table, "v1", "gpt-4", "gpt-4")
    assert "| > 0.85, 100 k-means anchors | 566 | 25.25 |  |  |  |  |" in text
    assert "| Alpaca, full | 52,002 | 25.43 | 25.00 [22.06, 27.94] | 4.83 | 5.00 [" in text
    assert full.mt_bench_categories.keys() == {"writing"} and full.mt_bench_categories["writing"].value == 5.0
    assert "| Alpaca, full | paper | 8.5 | 5.8 | 3.3 | 1.0 | 2.0 | 4.5 | 6.5 | 7.1 |" in text
    assert "| Alpaca, full | here | 5.00 [" in text
    others = {entry.row.key: entry for entry in collect_paper_table(tmp_path, "v1", "another", "another")}
    other = others["alpaca-full"]  # judges are not mixed
    assert other.runs and other.alpaca_eval is None and other.mt_bench is None and not other.mt_bench_categories


def test_all_published_win_rates_are_in_the_table():
    """29 cells of the figures: 8, 7 and 6 cuts of Alpaca under three anchor sets, 8 of Alpaca-GPT4; 9 were there."""
    by_kind = Counter()
    for row in PAPER_ROWS:
        if row.alpaca_eval is not None and row.rows:  # the base model has no rows
            by_kind[re.sub(r"-(above|below).*", "", row.key)] += 1
    assert by_kind == {
        "alpaca-full": 1, "alpaca-kmeans100": 7, "alpaca-random100": 7, "alpaca-random1000": 6, "alpaca-gpt4": 7,
        "alpaca-gpt4-full": 1,
    }  # fmt: skip
    assert by_kind.total() == 29 and len({row.key for row in PAPER_ROWS}) == len(PAPER_ROWS)
    by_category = [row for row in PAPER_ROWS if row.mt_bench is not None]
    assert len(by_category) == 6
    # The mean of the categories is the overall score, to the digits that are given; in one row the paper's is not.
    off = {}
    for row in by_category:
        mean = float(np.mean(row.mt_bench_categories))
        if mean != pytest.approx(row.mt_bench, abs=0.06):
            off[row.key] = (round(mean, 2), row.mt_bench)
    assert off == {"alpaca-random1000-above-0.85": (4.75, 4.87)}


def test_categories_are_those_of_the_questions(shared):
    [path] = (shared / "data").rglob("question.jsonl")
    questions = load_mt_bench(str(path.parent))
    assert tuple(dict.fromkeys(question.category for question in questions)) == MT_BENCH_CATEGORIES
    for place, question in enumerate(questions):
        assert question.category == MT_BENCH_CATEGORIES[place // 10]
