"""The official questions and files of answers: accepted as official tools do, refused with what is wrong."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from nuggets_trainer.evaluation.answer_files import (
    mt_bench_answer_path,
    read_alpaca_outputs,
    read_mt_bench_answers,
    write_alpaca_outputs,
    write_mt_bench_answers,
)
from nuggets_trainer.evaluation.questions import (
    MtBenchQuestion,
    load_alpaca_eval,
    load_judge_prompts,
    load_mt_bench,
)
from nuggets_trainer.evaluation.run_names import claim_name, run_names

ROWS = [{"dataset": "d", "instruction": f"instruction {i}", "output": "theirs", "generator": "g"} for i in range(5)]
QUESTIONS = [MtBenchQuestion(81 + i, "writing", (f"first {i}", f"second {i}")) for i in range(4)]


def write_outputs(path: Path, change=None) -> Path:
    write_alpaca_outputs(path, ROWS, [f"answer {i}" for i in range(5)], "mine")
    records = json.loads(path.read_text())
    if change is not None:
        records = change(records) or records
        path.write_text(json.dumps(records))
    return path


def test_the_official_questions_are_recognized(shared):
    first, second = (load_alpaca_eval(str(shared / "data/alpaca_eval"), setting) for setting in ("v1", "v2"))
    assert len(first) == len(second) == 805
    assert {row["generator"] for row in first} == {"text_davinci_003"}
    assert {row["generator"] for row in second} == {"gpt4_1106_preview"}
    questions = load_mt_bench(str(shared / "data/mt_bench"), references=True)
    assert [question.question_id for question in questions] == list(range(81, 161))
    assert sum(question.references is not None for question in questions) == 30
    assert not any(question.references for question in load_mt_bench(str(shared / "data/mt_bench")))


@pytest.mark.parametrize("change", ["drop", "swap", "alter"])
def test_alpaca_questions_that_are_not_official_are_refused(shared, tmp_path, change):
    rows = json.loads((shared / "data/alpaca_eval/alpaca_eval.json").read_text())
    if change == "drop":
        rows.pop()
    elif change == "swap":
        rows[3], rows[4] = rows[4], rows[3]
    else:
        rows[17]["instruction"] += " "
    (tmp_path / "alpaca_eval.json").write_text(json.dumps(rows))
    with pytest.raises(ValueError, match="805 rows, got 804" if change == "drop" else "byte for byte.*hf download"):
        load_alpaca_eval(str(tmp_path), "v1")


def test_altered_mt_bench_questions_are_refused(shared, tmp_path):
    shutil.copyfile(shared / "data/mt_bench/question.jsonl", tmp_path / "question.jsonl")
    load_mt_bench(str(tmp_path))
    text = (tmp_path / "question.jsonl").read_text()
    (tmp_path / "question.jsonl").write_text(text.replace("limerick", "sonnet"))
    with pytest.raises(ValueError, match="must hold MT-Bench's official questions.*curl"):
        load_mt_bench(str(tmp_path))
    (tmp_path / "question.jsonl").write_text("".join(text.splitlines(keepends=True)[:79]))
    with pytest.raises(ValueError, match="80 questions.*got 79"):
        load_mt_bench(str(tmp_path))


def test_missing_official_files_say_where_they_are(tmp_path):
    for load, wanted in (
        (lambda: load_alpaca_eval(str(tmp_path), "v2"), "hf download tatsu-lab/alpaca_eval alpaca_eval_gpt4_baseline"),
        (lambda: load_alpaca_eval(None, "v1"), "cannot be downloaded from the hub.*`alpaca_eval_dir`"),
        (lambda: load_mt_bench(str(tmp_path)), "curl -L .*FastChat"),
        (lambda: load_mt_bench(None), "cannot be downloaded from the hub.*`mt_bench_dir`"),
        (lambda: load_judge_prompts(None, str(tmp_path)), "`judge_prompts`: curl -LO .*judge_prompts.jsonl"),
        (lambda: load_judge_prompts(str(tmp_path / "x.jsonl"), None), "x.jsonl.*curl"),
    ):
        with pytest.raises(FileNotFoundError, match=wanted):
            load()
    (tmp_path / "judge_prompts.jsonl").write_text(
        '{"name": "single-v1", "system_prompt": "", "prompt_template": ""}\n'
    )
    with pytest.raises(ValueError, match="must have a judge prompt 'single-math-v1'"):
        load_judge_prompts(None, str(tmp_path))


def test_alpaca_outputs_have_instructions_and_answers(tmp_path):
    records = read_alpaca_outputs(write_outputs(tmp_path / "model_outputs.json"), ROWS, "mine")
    assert [record["instruction"] for record in records] == [row["instruction"] for row in ROWS]
    assert [record["output"] for record in records] == [f"answer {i}" for i in range(5)]
    assert {tuple(record) for record in records} == {("dataset", "instruction", "output", "generator")}


def alter(field: str, value):
    def change(records):
        records[2][field] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda records: records[:-1], "must have AlpacaEval's 5 rows .*, got 4"),
        (lambda records: [*records, records[0]], "got 6"),
        (
            lambda records: [records[1], records[0], *records[2:]],
            "row 0: the instruction must be 'instruction 0', byte for byte",
        ),
        (alter("instruction", "instruction 2 "), "row 2: .* must be 'instruction 2', .*got 'instruction 2 '"),
        (alter("output", None), "row 2: `output` must be the answer as text, got None"),
        (alter("generator", "other"), r"`generator` must be 'mine' in all rows, got \['mine', 'other'\]"),
    ],
)
def test_wrong_alpaca_outputs_are_refused(tmp_path, change, message):
    """The official tool warns at most, and counts by position: its win rate would be wrong."""
    path = write_outputs(tmp_path / "model_outputs.json", change)
    with pytest.raises(ValueError, match=message):
        read_alpaca_outputs(path, ROWS, "mine")


def test_mt_bench_answers_pass_the_documented_checks(tmp_path):
    """What FastChat's `load_model_answers` and `check_data` do: by file name, one line per question, all ids there."""
    path = mt_bench_answer_path(tmp_path, "mine")
    answers = [(f"a {i}\u2028b", f"c {i}") for i in range(4)]
    write_mt_bench_answers(path, QUESTIONS, answers, "mine")
    loaded = {(record := json.loads(line))["question_id"]: record for line in path.read_text().splitlines()}
    assert list(loaded) == [81, 82, 83, 84]
    for record, answer in zip(loaded.values(), answers, strict=True):
        assert set(record) == {"question_id", "answer_id", "model_id", "choices", "tstamp"}
        assert record["model_id"] == path.stem and record["choices"] == [{"index": 0, "turns": list(answer)}]
    assert len({record["answer_id"] for record in loaded.values()}) == 4
    assert read_mt_bench_answers(path, QUESTIONS) == dict(zip(loaded, answers, strict=True))
    before = path.read_bytes()
    write_mt_bench_answers(path, QUESTIONS, answers, "mine")
    assert path.read_bytes() == before


def test_wrong_mt_bench_answers_are_refused(tmp_path):
    path = mt_bench_answer_path(tmp_path, "mine")
    with pytest.raises(FileNotFoundError, match="Make the answers first"):
        read_mt_bench_answers(path, QUESTIONS)
    write_mt_bench_answers(path, QUESTIONS[:3], [("a", "b")] * 3, "mine")
    with pytest.raises(ValueError, match="all 4 questions, but 1 have no answer. The first one is question 84"):
        read_mt_bench_answers(path, QUESTIONS)
    path.rename(path.with_name("other.jsonl"))
    with pytest.raises(ValueError, match="by the model 'other', got 2 by 'mine'"):
        read_mt_bench_answers(path.with_name("other.jsonl"), QUESTIONS[:3])
    path.write_text("{}\n{\n")
    with pytest.raises(ValueError, match="line 2 is not JSON"):
        read_mt_bench_answers(path, QUESTIONS)


@pytest.mark.parametrize("content", ['{"config": {}, "counts": {}}', "3", "{"])
def test_a_directory_of_scores_takes_answers_too(content, tmp_path):
    """Its run.json was read as that of answers, and its missing settings were a KeyError."""
    (tmp_path / "scored").mkdir()
    (tmp_path / "scored" / "run.json").write_text(content)
    assert run_names(tmp_path) == []
    directory = claim_name(tmp_path, "scored", "model", {"seed": 0}, set())
    assert run_names(tmp_path) == ["scored"] and (directory / "run.json").read_text() == content


def test_a_name_stands_for_one_set_of_answers(tmp_path):
    settings = {"weights_sha256": "aa", "seed": 0}
    directory = claim_name(tmp_path, "run-1", "model", settings, set())
    assert claim_name(tmp_path, "run-1", "moved/model", settings, set()) == directory
    with pytest.raises(
        ValueError, match=re.escape("stands for other answers") + ".*weights_sha256 was 'aa' and is now 'bb'"
    ):
        claim_name(tmp_path, "run-1", "model", {**settings, "weights_sha256": "bb"}, set())
    (directory / "generation.json").rename(directory / "run.json")  # its name in version 0.1
    assert claim_name(tmp_path, "run-1", "model", settings, set()) == directory
    assert not (directory / "generation.json").exists()
    for name in ("a/b", "", "mt_bench", "..", "-x"):
        with pytest.raises(ValueError, match="`name` must consist of letters"):
            claim_name(tmp_path, name, "model", settings, set())
    with pytest.raises(ValueError, match="is on AlpacaEval's leaderboard"):
        claim_name(tmp_path, "gpt4", "model", settings, {"gpt4"})
    write_mt_bench_answers(mt_bench_answer_path(tmp_path, "theirs"), QUESTIONS, [("a", "b")] * 4, "theirs")
    with pytest.raises(ValueError, match="were not made here"):
        claim_name(tmp_path, "theirs", "model", settings, set())
