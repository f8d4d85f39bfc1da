"""`nuggets inspect`: what will be read, from the command line, without weights."""

from __future__ import annotations

import json
import shutil
import sys

import pytest

from nuggets_trainer.cli import main
from nuggets_trainer.commands.inspect import make_inspect_parser
from nuggets_trainer.demo import demo_path
from tests.support.command_line import DEMO, json_result

ROWS = [{"question": f"What is {word}?", "answer": f"A {word}."} for word in ("red", "blue", "green")]


@pytest.fixture()
def rows(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return str(path)


def test_a_file_alone_is_enough(rows, monkeypatch, capsys):
    """It needs no model, so it does not load the code for models, and with it transformers and TRL (seconds)."""
    for module in ("engine.loading", "engine.model", "training.rows"):
        monkeypatch.setitem(sys.modules, f"nuggets_trainer.{module}", None)
    assert main(["inspect", rows]) == 0
    shown = capsys.readouterr().out
    assert "--columns instruction=question output=answer" in shown and "candidate │ What is red?" in shown
    assert f"{rows}: 3 rows"[:60] in shown.replace("\n", "")


def test_no_weights_are_needed(rows, tmp_path, capsys):
    """A directory with the config and the tokenizer of a model is enough."""
    model = tmp_path / "model"
    shutil.copytree(demo_path("model"), model, ignore=shutil.ignore_patterns("*.safetensors"))
    words = ["--model_name_or_path", str(model), "--anchors", "nuggets-demo/anchors", "--indices", "2", "--json"]
    assert main(["inspect", rows, *words]) == 0
    found = json_result(capsys)
    assert found["context"] == 512 and found["anchors"]["num_anchors"] == 27
    assert [row["index"] for row in found["rows"]] == [2] and found["rows"][0]["anchor"] == 0
    assert found["format"]["columns_to_give"] == ["instruction=question", "output=answer"]


def test_the_options_of_a_run_are_taken(rows, tmp_path, capsys):
    config = tmp_path / "my.yaml"
    config.write_text(
        f"dataset_name: {rows}\ncolumns: {{prompt: question, completion: answer}}\ntop_k: 2\nbf16: true\n"
    )
    assert main(["inspect", "--config", str(config), *DEMO, "--score_dir", str(tmp_path / "s"), "--json"]) == 0
    found = json_result(capsys)
    assert found["format"]["name"] == "prompt_completion" and found["template"]["name"] == "plain"
    assert not (tmp_path / "s").exists()


def test_what_a_run_would_fail_with_is_said_last(tmp_path, capsys):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"a": "one", "b": "two"}\n')
    assert main(["inspect", str(path)]) == 1
    out, error = capsys.readouterr()
    assert "a (text), not read: one" in out and "match no known format" in error
    assert "`nuggets inspect` shows what each column holds" in error
    path.write_text('{"instruction": "one", "output": ""}\n')
    assert main(["inspect", str(path)]) == 1
    assert "all 1 were dropped (empty_completion 1)" in capsys.readouterr().err


def test_wrong_command_lines_are_refused(rows, capsys):
    assert main(["inspect"]) == 2
    assert "`nuggets inspect pool.jsonl`" in capsys.readouterr().err
    assert main(["inspect", rows, "--num_rows", "0"]) == 2
    assert main(["inspect", rows, "--indices", "3"]) == 1
    assert "`indices` must be row numbers from 0 to 2, got 3" in capsys.readouterr().err


def test_the_help_lists_what_acts():
    shown = make_inspect_parser().format_help()
    assert "--columns" in shown and "--indices" in shown and "--chat_template_path" in shown
    assert "--top_k" not in shown and "--load_in_4bit" not in shown and "--score_dir" not in shown
