"""The command line and a YAML file give the same arguments; the command line wins."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from nuggets_trainer import NuggetsConfig, load_rows
from nuggets_trainer.cli import main
from nuggets_trainer.commands import plan, score, train
from tests.support.launch import ROOT, environment


def test_one_yaml_serves_plan_and_score(tmp_path):
    """What does nothing in one of them is no mistake there."""
    (tmp_path / "job.yaml").write_text("reselect: epoch\nscore_dir: s\ndataset_name: d\nmodel_name_or_path: m\n")
    argv = ["--config", str(tmp_path / "job.yaml"), "--signal_check", "false", "--group_by", "x"]
    argv += ["--group_quota", "equal"]
    for command in (plan, score):
        config = command.parse(argv)[-1]
        assert config.reselect == "no" and config.group_quota == "equal"


def test_help_names_the_config_that_sets_a_default(capsys):
    assert main(["score", "--config", "alpaca_kmeans100", "--help"]) == 0
    page = " ".join(capsys.readouterr().out.split())
    assert "[nuggets, from alpaca_kmeans100]" in page and "[huggyllama/llama-7b, from alpaca_kmeans100]" in page


def read(tmp_path, text, *argv):
    (tmp_path / "my.yaml").write_text(f"model_name_or_path: m\ndataset_name: d\nbf16: false\nuse_cpu: true\n{text}\n")
    return train.parse(["--config", str(tmp_path / "my.yaml"), *argv])


def test_yaml_booleans_are_texts_where_texts_belong(tmp_path):
    """`reselect: no` is a boolean in YAML, and the error told of a `False` that nobody had written."""
    text = "reselect: no\neval_strategy: no\nsave_strategy: off\nmodel_revision: 1e5\ndataset_config: 2024-01-01"
    with pytest.raises(ValueError, match="off is not a valid"):
        read(tmp_path, text)
    script, args, model, nuggets = read(tmp_path, text.replace("off", "no"))
    assert (nuggets.reselect, args.eval_strategy, args.save_strategy) == ("no", "no", "no")
    assert (model.model_revision, script.dataset_config) == ("1e5", "2024-01-01")
    _, args, _, nuggets = read(tmp_path, "learning_rate: 2e-4\npacking: yes\nexclude_self: no\ntop_k: 5")
    assert (args.learning_rate, args.packing, nuggets.exclude_self, nuggets.top_k) == (2e-4, True, False, 5)


def test_a_tilde_is_the_home_directory(tmp_path, monkeypatch):
    """In a config file, where no shell replaces it, `score_dir: ~/s` made a directory called `~`."""
    monkeypatch.setenv("HOME", str(tmp_path))
    text = "score_dir: ~/s\nanchors: {a: ~/a.jsonl, b: {path: ~/b.jsonl, split: test}}\neval_dataset_name: ~/e.jsonl"
    script, args, _, nuggets = read(tmp_path, text, "--output_dir=~/o", "--resume_from_checkpoint", "~/o/c")
    assert (nuggets.score_dir, script.eval_dataset_name) == (f"{tmp_path}/s", f"{tmp_path}/e.jsonl")
    assert [place.path for place in nuggets.anchor_sets.values()] == [f"{tmp_path}/a.jsonl", f"{tmp_path}/b.jsonl"]
    assert (args.output_dir, args.resume_from_checkpoint) == (f"{tmp_path}/o", f"{tmp_path}/o/c")
    assert NuggetsConfig(score_dir="~/s").score_dir == f"{tmp_path}/s"
    load_rows("nuggets-demo/anchors").select(range(2)).to_json(tmp_path / "rows.jsonl")
    assert len(load_rows("~/rows.jsonl")) == 2


def test_options_of_the_command_line_replace_those_that_they_contradict(tmp_path):
    """A number of anchors in the file is that of its own anchors, but one on the command line is of any anchors."""
    text = "top_fraction: 0.2\nanchors: a.jsonl\nnum_anchors: 50"
    nuggets = read(tmp_path, text)[-1]
    assert (nuggets.selection_rule, nuggets.anchors, nuggets.num_anchors) == (("top_fraction", 0.2), "a.jsonl", 50)
    nuggets = read(tmp_path, text, "--max_tokens", "9000", "--anchors", "b.jsonl")[-1]
    assert (nuggets.selection_rule, nuggets.anchors, nuggets.num_anchors) == (("max_tokens", 9000), "b.jsonl", None)
    nuggets = read(tmp_path, text, "--num_anchors", "auto", "--anchor_columns", "prompt=q", "completion=a")[-1]
    assert (nuggets.anchors, nuggets.num_anchors) == ("a.jsonl", "auto")
    assert nuggets.anchor_mapping.columns == {"prompt": "q", "completion": "a"}


@pytest.mark.parametrize("command", ["train", "score", "plan", "select"])
def test_the_key_env_counts_for_libraries(command, tmp_path):
    """The variables were set after the libraries had read them."""
    (tmp_path / "my.yaml").write_text(
        f"env: {{HF_HUB_OFFLINE: true, HF_HOME: '{tmp_path}/hf'}}\n"
        "model_name_or_path: m\ndataset_name: d\nscore_dir: s\nbf16: false\nuse_cpu: true\n"
    )
    code = f"""
import sys
from nuggets_trainer.commands import {command}
{command}.parse(["--config", sys.argv[1]])
import huggingface_hub.constants as constants
print(constants.HF_HUB_OFFLINE, constants.HF_HOME)
"""
    given = environment()
    for variable in ("HF_HUB_OFFLINE", "HF_HOME"):
        given.pop(variable, None)
    argv = [sys.executable, "-c", code, str(tmp_path / "my.yaml")]
    out = subprocess.run(argv, check=True, env=given, cwd=ROOT, capture_output=True, text=True).stdout
    assert out.split() == ["True", f"{tmp_path}/hf"]


def test_an_env_that_comes_too_late_is_told(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("HF_HUB_DOWNLOAD_TIMEOUT", "1")
    monkeypatch.setenv("MY_VARIABLE", "1")
    read(tmp_path, "env: {HF_HUB_DOWNLOAD_TIMEOUT: 7, MY_VARIABLE: 2}")
    assert "sets HF_HUB_DOWNLOAD_TIMEOUT, but the libraries that read this are imported already" in caplog.text
    assert (os.environ["HF_HUB_DOWNLOAD_TIMEOUT"], os.environ["MY_VARIABLE"]) == ("7", "2")


@pytest.mark.parametrize(
    ("text", "bf16"),
    [
        ("top_k: 5", None),  # a file of `nuggets score`: float32, as without a file
        ("learning_rate: 1e-3", True),  # a file of training, where TRL's default counts
        ("learning_rate: 1e-3\nfp16: true", None),
        ("learning_rate: 1e-3\nfp16: false", True),
        ("bf16: true", True),
        ("learning_rate: 1e-3\nbf16: false", False),
    ],
)
def test_a_config_of_training_brings_its_precision(text, bf16, tmp_path):
    """`bf16` and its default in TRL were passed over, so that training scored everything again."""
    (tmp_path / "my.yaml").write_text(f"model_name_or_path: m\ndataset_name: d\nscore_dir: s\n{text}\n")
    argv = ["--config", str(tmp_path / "my.yaml")]
    for command in (plan, score):
        assert command.parse(argv)[2].bf16 is bf16
    assert score.parse([*argv, "--bf16", "false"])[2].bf16 is False
    assert score.parse([*argv, "--fp16", "true"])[2].bf16 in (None, bf16)
