"""`nuggets`: exit codes, and messages instead of tracebacks; real processes where it counts."""

from __future__ import annotations

import subprocess
import sys

import pytest

from nuggets_trainer.cli import main
from nuggets_trainer.commands import COMMANDS
from tests.support.command_line import DEMO
from tests.support.launch import ROOT, environment


def test_the_first_page_names_commands_and_exit_codes(capsys):
    assert main(["--help"]) == 0
    page = capsys.readouterr().out
    assert all(f"  {name} " in page for name in COMMANDS)
    assert all(f"  {code} " in page for code in (0, 1, 2, 130, 143))


@pytest.mark.parametrize("argv", [[], ["scoer"], ["score", "--top_k", "x"], ["select"], ["score"]])
def test_a_wrong_command_line_ends_with_code_2(argv, capsys):
    assert main(argv) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and "Traceback" not in captured.err and captured.err


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--top_frction", "0.1"], "Did you mean --top_fraction"),
        (["--reselect", "epoch"], "There is no option --reselect"),  # of training alone
        (["--top_fraction", "2"], "`top_fraction` must be in"),
        (["--config", "nowhere.yaml"], "no config file 'nowhere.yaml'"),
        (DEMO, "needs --dataset_name"),
        ([*DEMO, "--num_processes", "x"], "`num_processes` must be a whole number of at least 1, got 'x'"),
        ([*DEMO, "--num_processes"], "num-processes: expected one argument"),
        ([*DEMO, "--accelerate_config", "fspd2"], "`accelerate_config` must be a file or the name of a config"),
    ],
)
def test_a_mistake_in_an_option_is_one_message(options, told, capsys):
    assert main(["score", *options]) == 2
    captured = capsys.readouterr()
    assert told in captured.err and "Traceback" not in captured.err


def test_a_mistyped_word_is_named_with_the_right_one(capsys):
    for argv, meant in (
        (["scroe"], "Did you mean `score`?"),
        (["--hlep"], "Did you mean `--help`?"),
        (["report", "s", "--json", "--output_dri", "r"], "Did you mean --output_dir?"),
        (["configs", "demo", "--jsn"], "There is no option --jsn."),
        (["plan", "--mesure_seconds", "1"], "Did you mean --measure_seconds?"),
        (["select", "s", "--output", "x.jsonl"], "Did you mean --output_file?"),  # it was "ambiguous"
        (["score", "pool.jsonl", "--model", "m"], "Did you mean --model_name_or_path?"),  # it was --scorer_model
    ):
        assert main(argv) == 2
        told = capsys.readouterr().err
        assert meant in told and "Traceback" not in told
    assert main(["wholly_else"]) == 2
    assert "commands:" in capsys.readouterr().err


def test_debug_shows_where_an_error_arose(tmp_path, capsys):
    command = ["score", *DEMO, "--dataset_name", "nowhere.jsonl", "--score_dir", str(tmp_path)]
    assert main(command) == 1
    plain = capsys.readouterr().err
    assert "`--dataset_name`: there is no file 'nowhere.jsonl'" in plain and "Traceback" not in plain
    assert main(["--debug", *command]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_a_value_that_trl_refuses_is_one_message(capsys):
    """Without a GPU, TRL's default of bfloat16 ended in a traceback through three packages."""
    command = ["train", *DEMO, "--dataset_name", "nuggets-demo/pool", "--logging_strategy", "steps"]
    assert main([*command, "--logging_steps", "0", "--output_dir", "o", "--use_cpu", "true", "--bf16", "false"]) == 2
    told = capsys.readouterr().err
    assert "requires non-zero --logging_steps" in told and "Traceback" not in told


def test_training_without_a_gpu_names_the_option(capsys, monkeypatch):
    """It was a traceback that told of `use_cpu`, with which training would go on in bfloat16."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert main(["train", *DEMO, "--dataset_name", "nuggets-demo/pool", "--output_dir", "o"]) == 2
    told = capsys.readouterr().err
    assert "No GPU was found" in told and "Add `--bf16 false`" in told and "Traceback" not in told


def test_help_and_missing_files_do_not_wait_for_torch(tmp_path):
    """They were told seconds later. Only the pages of train and compare need torch, for the options of SFTConfig."""
    code = f"""
import sys
from nuggets_trainer.cli import main
for command in {sorted({*COMMANDS} - {"train", "compare"})!r}:
    assert main([command, "--help"]) == 0 and "torch" not in sys.modules, command
code = main(["score", *{DEMO!r}, "--dataset_name", "nuggets-demo/pool", "--anchors", "no.jsonl", "--score_dir", "s"])
assert code == 1 and "torch" not in sys.modules, sorted(sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, env=environment(), cwd=ROOT, capture_output=True)
    assert b"`--anchors`: there is no file 'no.jsonl'" in done.stderr


def test_a_defect_shows_its_traceback(monkeypatch, capsys):
    from nuggets_trainer.commands import configs

    monkeypatch.setattr(configs, "run", lambda name: {}["missing"])
    assert main(["configs"]) == 1
    assert "KeyError" in capsys.readouterr().err


def test_a_reader_that_has_read_enough_is_no_error():
    """`nuggets configs | head -3` told of a broken pipe."""
    command = f"{sys.executable} -m nuggets_trainer.cli configs | true; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, check=False, timeout=100, env=environment(), cwd=ROOT
    )
    assert (done.stdout, done.stderr) == ("0\n", "")
