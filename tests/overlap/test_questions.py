"""Questions as files and benchmarks have them."""

from __future__ import annotations

import json

import pytest
from datasets import Dataset

from nuggets_trainer.commands.score import parse
from nuggets_trainer.config import NuggetsConfig
from nuggets_trainer.config.column_mapping import read_column_mapping
from nuggets_trainer.config.places import RowPlace
from nuggets_trainer.data.loading import check_paths
from nuggets_trainer.overlap import questions
from nuggets_trainer.overlap.questions import load_questions, questions_of

TURNS = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Who?"}]
ANSWERED = [*TURNS, {"role": "assistant", "content": "Me."}, {"role": "user", "content": "Why?"}]
SHAREGPT = [{"from": "human", "value": "Who?"}, {"from": "gpt", "value": "Me."}]


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        ({"prompt": "Who?", "completion": "Me."}, ["Who?"]),
        ({"prompt": TURNS, "completion": [{"role": "assistant", "content": "Me."}]}, ["Who?"]),
        ({"messages": ANSWERED}, ["Who?", "Why?"]),
        ({"conversations": SHAREGPT}, ["Who?"]),
        ({"instruction": "Sort.", "input": "3 1", "output": "1 3"}, ["Sort.\n\n3 1"]),
        ({"instruction": "Who?", "output": "", "generator": "a"}, ["Who?"]),  # alpaca_eval.json
        ({"question_id": 81, "category": "writing", "turns": ["Who?", "Why?"]}, ["Who?", "Why?"]),  # MT-Bench
        ({"question": "Who?", "answer": "Me."}, ["Who?"]),
        ({"text": "Who? Me."}, ["Who? Me."]),
    ],
)
def test_questions_are_found_in_the_columns_that_tests_have(record, expected):
    """A test need not have answers, as a pool must."""
    assert questions_of(Dataset.from_list([record]), "it") == expected


def test_a_file_is_read_with_the_mapping_of_the_pool(tmp_path):
    file = tmp_path / "test.jsonl"
    file.write_text(json.dumps({"query": "Who?", "reply": "Me."}))
    with pytest.raises(ValueError, match=r"`decontaminate`: .* has the columns .*'query', 'reply'.*--columns prompt="):
        load_questions(RowPlace(str(file)), None)
    mapping = read_column_mapping("prompt=query completion=reply")
    assert load_questions(RowPlace(str(file)), mapping) == ["Who?"]


def test_tests_are_read_from_the_command_line(tmp_path):
    words = ["--model_name_or_path", "m", "--dataset_name", "d", "--score_dir", "s", "--deduplicate", "near"]
    config = parse([*words, "--decontaminate", "alpaca_eval", '{"path": "openai/gsm8k", "split": "test"}'])[-1]
    assert config.tests == [RowPlace("alpaca_eval"), RowPlace("openai/gsm8k", split="test")]
    assert config.deduplicate == "near"
    missing = NuggetsConfig(decontaminate=[str(tmp_path / "test.jsonl")])
    with pytest.raises(FileNotFoundError, match="`--decontaminate`: there is no file"):
        check_paths(missing, {}, {})


def test_rows_without_a_question_are_refused():
    with pytest.raises(ValueError, match="must have questions in the column 'prompt'"):
        questions_of(Dataset.from_list([{"prompt": None}, {"prompt": " "}]), "it")


def test_the_official_questions_are_known_by_their_names(shared, monkeypatch):
    directories = {"load_alpaca_eval": "alpaca_eval", "load_mt_bench": "mt_bench"}
    for name, directory in directories.items():
        load, place = getattr(questions, name), str(shared / "data" / directory)
        monkeypatch.setattr(questions, name, lambda _, *rest, load=load, place=place: load(place, *rest))
    assert len(load_questions(RowPlace("alpaca_eval"), None)) == 805
    assert len(load_questions(RowPlace("mt_bench"), None)) == 160  # two turns each
