"""A mistake in the command line of `nuggets train` is one message before anything is scored."""

import re

import pytest

from nuggets_trainer import load_rows
from nuggets_trainer.cli import main


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    place = tmp_path_factory.mktemp("rows")
    pool = load_rows("nuggets-demo/pool").select(range(30))
    pool.to_json(place / "pool.jsonl")
    pool.select_columns(["instruction", "output"]).rename_columns({"instruction": "q", "output": "a"}).to_json(
        place / "other.jsonl"
    )
    return place


LORA = ["--use_peft", "--lora_target_modules", "q_porj"]
MISTAKES = [
    (["--report_to", "wanbd"], "`--report_to` must be .*, got 'wanbd'. Did you mean `wandb`"),
    (LORA, "`--lora_target_modules`: .*linear layers of this model are: down_proj, .*, q_proj, .*all-linear"),
    (["--eval_dataset_name", "other.jsonl"], r"`eval_dataset` has the columns \['a', 'q'\], which match no known"),
]


@pytest.mark.parametrize(("options", "message"), MISTAKES, ids=["tracker", "LoRA", "evaluation"])
def test_a_mistake_is_one_message(rows, tmp_path, capsys, monkeypatch, options, message):
    """Each was a traceback of 24 to 50 lines from transformers, PEFT or datasets."""
    monkeypatch.chdir(rows)
    model = ["--model_name_or_path", "nuggets-demo/model", "--bf16", "false", "--use_cpu", "true", "--max_steps", "1"]
    job = ["--dataset_name", "pool.jsonl", "--anchors", "nuggets-demo/anchors", "--top_k", "3"]
    assert main(["train", *model, *job, "--output_dir", str(tmp_path / "out"), *options]) == 1
    said = capsys.readouterr().err
    assert "Traceback" not in said
    assert re.search(f"nuggets train: error: .*{message}", said)
    assert not (tmp_path / "out" / "nuggets" / "scores.parquet").exists()
