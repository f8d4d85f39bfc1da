"""`columns`: the same tokens are scored, trained on and evaluated, under whatever names the rows have."""

from __future__ import annotations

import json

import pytest
from datasets import Dataset

from nuggets_trainer import NuggetsConfig, SelectedSFTTrainer, load_scorer, score_pool
from nuggets_trainer.cli import main
from nuggets_trainer.pipeline.rows import read_pool
from tests.support.rows import alpaca_rows
from tests.support.training import arguments

pytestmark = pytest.mark.filterwarnings("ignore")  # what TRL and torch announce of their own options is theirs

ROWS = alpaca_rows(8, seed=1)
MESSAGES = [
    {
        "turns": [
            {"who": "customer", "says": row["instruction"]},
            {"who": "agent", "says": row["output"]},
        ],
        "rules": "Be brief." if i % 2 else None,
    }
    for i, row in enumerate(ROWS)
]
STANDARD_MESSAGES = [
    {
        "messages": [
            *([{"role": "system", "content": "Be brief."}] if i % 2 else []),
            {"role": "user", "content": row["instruction"]},
            {"role": "assistant", "content": row["output"]},
        ]
    }
    for i, row in enumerate(ROWS)
]
CASES = {
    "alpaca": (
        [{"question": row["instruction"], "answer": row["output"]} for row in ROWS],
        "instruction=question output=answer",
        [{"instruction": row["instruction"], "output": row["output"]} for row in ROWS],
    ),
    "prompt and completion": (
        [{"question": row["instruction"] + " ", "answer": row["output"]} for row in ROWS],
        {"prompt": "question", "completion": "answer"},
        [{"prompt": row["instruction"] + " ", "completion": row["output"]} for row in ROWS],
    ),
    "messages": (
        MESSAGES,
        "messages=turns role=who content=says role.user=customer role.assistant=agent system=rules",
        STANDARD_MESSAGES,
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_training_reads_what_is_scored(case, model_dir, tmp_path):
    rows, columns, standard = CASES[case]
    trainers = []
    for own, option in ((rows, columns), (standard, None)):
        dataset = Dataset.from_list(own)
        trainer = SelectedSFTTrainer(
            model_dir,
            arguments(tmp_path / "out", max_length=None),
            train_dataset=dataset,
            eval_dataset=dataset.select(range(3)),
            anchor_dataset=dataset.select(range(3)),
            nuggets_config=NuggetsConfig(top_k=4, columns=option, score_dir=str(tmp_path / "scores")),
        )
        trainer.select()
        trainers.append(trainer)
    mapped, expected = trainers
    assert mapped.golden_set.indices.tolist() == expected.golden_set.indices.tolist()
    assert mapped.train_dataset["input_ids"][:] == expected.train_dataset["input_ids"][:]
    assert mapped.eval_dataset["input_ids"][:] == expected.eval_dataset["input_ids"][:]
    assert mapped.scores.num_pairs_scored > 0 and expected.scores.num_pairs_scored == 0  # found under other names


def test_scores_of_one_name_serve_another_on_the_command_line(model_dir, tmp_path, capsys):
    named, other = tmp_path / "named.jsonl", tmp_path / "other.jsonl"
    rows, columns, standard = CASES["alpaca"]
    Dataset.from_list(standard).to_json(named)
    Dataset.from_list(rows).to_json(other)
    words = ["--model_name_or_path", model_dir, "--top_k", "3", "--score_dir", str(tmp_path / "scores"), "--json"]
    words += ["--schedule", "exact", "--anchors", str(named)]
    assert main(["score", *words, "--dataset_name", str(named)]) == 0
    expected = json.loads(capsys.readouterr().out)
    assert main(["score", *words, "--dataset_name", str(other), "--columns", *columns.split()]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["indices"] == expected["indices"] and found["num_pairs_scored"] == 0 < expected["num_pairs_scored"]
    output = ["--output_file", str(tmp_path / "golden.jsonl"), "--dataset_name", str(other), "--columns"]
    assert main(["select", str(tmp_path / "scores"), "--top_k", "2", *output, *columns.split()]) == 0
    first = json.loads((tmp_path / "golden.jsonl").read_text().splitlines()[0])
    assert first == standard[expected["indices"][0]]  # under standard names, which other programs read


def test_what_does_not_go_with_columns_is_refused(model_dir, tmp_path):
    dataset = Dataset.from_list(CASES["alpaca"][0])
    config = NuggetsConfig(columns="instruction=question output=answer")
    with pytest.raises(ValueError, match="`columns` cannot be used with `formatting_func`"):
        read_pool(dataset, config, formatting_func=lambda row: row["question"])
    model, tokenizer = load_scorer(model_dir)
    pool = read_pool(dataset, config)
    assert read_pool(pool, config) is pool
    with pytest.raises(ValueError, match="match no known format"):
        score_pool(model, tokenizer, dataset, dataset, NuggetsConfig(), tmp_path)
