"""The command line: help, exit codes, JSON, messages instead of tracebacks; real processes where it counts."""

from __future__ import annotations

import json
import logging
import re
import subprocess
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest
from datasets import Dataset

from nuggets_trainer import load_rows
from nuggets_trainer.cli import main
from nuggets_trainer.commands import COMMANDS, plan, score
from tests.support.launch import ROOT, environment
from tests.support.rows import alpaca_rows

DEMO = ["--model_name_or_path", "nuggets-demo/model"]


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    """40 rows against 9 anchors, scored by the exact schedule and by the race."""
    place = tmp_path_factory.mktemp("cli")
    load_rows("nuggets-demo/pool").select(range(0, 1836, 46)).to_json(place / "pool.jsonl")
    load_rows("nuggets-demo/anchors").select(range(9)).to_json(place / "anchors.jsonl")
    options = [*DEMO, "--dataset_name", str(place / "pool.jsonl"), "--anchors", str(place / "anchors.jsonl")]
    for schedule in ("exact", "race"):
        where = ["--score_dir", str(place / schedule), "--schedule", schedule, "--top_k", "3"]
        assert main(["score", *options, *where, "--tokens_per_batch", "64"]) == 0
    return place


def result(capsys) -> dict:
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1  # one JSON object and nothing else
    return json.loads(lines[0])


def test_the_first_page_names_every_command_and_every_exit_code(capsys):
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
        ([*DEMO, "--dataset_name", "p.jsonl"], "needs --score_dir"),
    ],
)
def test_a_mistake_in_an_option_is_one_message(options, told, capsys):
    assert main(["score", *options]) == 2
    captured = capsys.readouterr()
    assert told in captured.err and "Traceback" not in captured.err


def test_a_mistyped_command_or_option_of_any_command_is_named_with_the_right_one(capsys):
    for argv, meant in (
        (["scroe"], "Did you mean `score`?"),
        (["--hlep"], "Did you mean `--help`?"),
        (["report", "s", "--json", "--output_dri", "r"], "Did you mean --output_dir?"),
        (["configs", "demo", "--jsn"], "There is no option --jsn."),
        (["plan", "--mesure_seconds", "1"], "Did you mean --measure_seconds?"),
        (["select", "s", "--output", "x.jsonl"], "Did you mean --output_file?"),  # it was "ambiguous"
    ):
        assert main(argv) == 2
        told = capsys.readouterr().err
        assert meant in told and "Traceback" not in told
    assert main(["wholly_else"]) == 2
    assert "commands:" in capsys.readouterr().err


def test_a_missing_file_is_one_message_and_debug_shows_where_it_arose(tmp_path, capsys):
    command = ["score", *DEMO, "--dataset_name", "nowhere.jsonl", "--score_dir", str(tmp_path)]
    assert main(command) == 1
    plain = capsys.readouterr().err
    assert "`--dataset_name`: there is no file 'nowhere.jsonl'" in plain and "Traceback" not in plain
    assert main(["--debug", *command]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_a_value_that_transformers_refuses_is_one_message(capsys):
    """Without a GPU, TRL's default of bfloat16 ended in a traceback through three packages."""
    command = ["train", *DEMO, "--dataset_name", "nuggets-demo/pool", "--logging_strategy", "steps"]
    assert main([*command, "--logging_steps", "0", "--output_dir", "o", "--use_cpu", "true", "--bf16", "false"]) == 2
    told = capsys.readouterr().err
    assert "requires non-zero --logging_steps" in told and "Traceback" not in told


def test_a_missing_file_is_told_before_torch_is_imported(tmp_path):
    """It was told ten seconds later."""
    code = f"""
import sys
from nuggets_trainer.cli import main
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


@pytest.mark.parametrize("command", ["plan", "score", "select", "report", "train"])
def test_the_help_of_a_command_shows_each_option_once_with_its_default(command, capsys):
    assert main([command, "--help"]) == 0
    page = capsys.readouterr().out
    assert "exit codes:" in page and "examples:" in page
    assert "(default: None)" not in page and "[default: None]" not in page
    assert "--score-dir" not in page  # one spelling of each


def test_the_help_lists_the_options_that_act(capsys):
    listed = {}
    for command in ("plan", "score", "select", "train"):
        assert main([command, "--help"]) == 0
        listed[command] = set(re.findall(r"^  --(\w+)", capsys.readouterr().out, flags=re.MULTILINE))
    training = {"reselect", "reselect_steps", "match_full_steps"}
    assert training <= listed["train"] and not training & (listed["score"] | listed["plan"] | listed["select"])
    assert "response_field" not in listed["score"]  # needs a `formatting_func`
    assert listed["score"] - listed["plan"] == {"combine_anchor_sets", "group_quota", "signal_check", "shard"}
    assert {"top_k", "anchors", "score_dir", "pool_size"} <= listed["score"]


def test_one_yaml_and_one_command_line_serve_plan_and_score(tmp_path):
    """What does nothing in one of them is no mistake there."""
    (tmp_path / "job.yaml").write_text("reselect: epoch\nscore_dir: s\ndataset_name: d\nmodel_name_or_path: m\n")
    argv = ["--config", str(tmp_path / "job.yaml"), "--signal_check", "false", "--group_by", "x"]
    argv += ["--group_quota", "equal"]
    for command in (plan, score):
        config = command.parse(argv)[-1]
        assert config.reselect == "no" and config.group_quota == "equal"


def test_the_help_says_which_defaults_a_config_has_set(capsys):
    assert main(["score", "--config", "alpaca_kmeans100", "--help"]) == 0
    page = " ".join(capsys.readouterr().out.split())
    assert "[nuggets, from alpaca_kmeans100]" in page and "[huggyllama/llama-7b, from alpaca_kmeans100]" in page


def test_select_applies_another_rule_without_a_model(scored, capsys):
    out = scored / "golden.jsonl"
    options = ["--dataset_name", str(scored / "pool.jsonl"), "--output_file", str(out), "--json"]
    assert main(["select", str(scored / "exact"), "--top_k", "7", *options]) == 0
    chosen = result(capsys)
    rank = pq.read_table(scored / "exact" / "scores.parquet")["rank"].to_numpy()
    assert chosen["indices"] == np.argsort(rank)[:7].tolist() and chosen["rule"] == {"top_k": 7}
    pool = [json.loads(line) for line in (scored / "pool.jsonl").read_text().splitlines()]
    assert [json.loads(line) for line in out.read_text().splitlines()] == [pool[i] for i in chosen["indices"]]


def test_cautions_are_told_at_the_end_of_a_run_and_are_in_the_json(scored, tmp_path, capsys, caplog):
    """They were in report.html alone, which nobody had opened."""
    options = [*DEMO, "--dataset_name", str(scored / "pool.jsonl"), "--anchors", str(scored / "anchors.jsonl")]
    options += ["--score_dir", str(tmp_path / "s"), "--schedule", "exact", "--top_k", "3"]
    caplog.set_level(logging.INFO, "nuggets_trainer")
    assert main(["score", *options]) == 0
    told = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert re.fullmatch("Caution: [0-9]+ rows tie at the cut.", told[0])
    assert told[-1] == f"What that means, and what to do: {tmp_path / 's' / 'report.html'}"
    results = [line for line in capsys.readouterr().out.splitlines() if line.startswith(("scored ", "golden set: "))]
    assert len(results) == 2 and not any(line in caplog.text for line in results)  # each line once
    assert main(["score", *options, "--json"]) == 0
    of_score = result(capsys)
    assert main(["report", str(tmp_path / "s"), "--json"]) == 0
    of_report = result(capsys)
    assert of_score["cautions"] == of_report["cautions"]
    assert "golden set: 3 of 40" in caplog.text  # beside the JSON, for people
    assert {"warn", "note"} == {caution["level"] for caution in of_report["cautions"]}
    counts = [value for name, value in of_score.items() if name.startswith(("num_", "ties_", "golden_set_size"))]
    assert len(counts) >= 8 and all(isinstance(count, int) for count in counts)  # 3, and not 3.0


def test_select_loads_no_torch(scored):
    code = f"""
import sys
from nuggets_trainer.cli import main
code = main(["select", {str(scored / "exact")!r}, "--top_k", "7"])
assert code == 0 and "torch" not in sys.modules, sorted(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True, env=environment(), cwd=ROOT, capture_output=True)


def test_select_takes_a_smaller_set_of_a_race_and_refuses_one_that_it_left_open(scored, capsys):
    bounds = pq.read_table(scored / "race" / "scores.parquet")["upper_bound"].drop_null()
    assert len(bounds)  # the race did eliminate rows
    assert main(["select", str(scored / "race"), "--top_k", "2", "--json"]) == 0
    assert main(["select", str(scored / "exact"), "--top_k", "2", "--json"]) == 0
    raced, exact = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert raced["indices"] == exact["indices"]
    assert main(["select", str(scored / "race"), "--top_fraction", "1"]) == 1
    assert "`top_fraction=1` cannot be told" in capsys.readouterr().err


def test_select_refuses_rows_that_were_not_scored(scored, tmp_path, capsys):
    pool = load_rows(str(scored / "pool.jsonl"))
    pool.select(range(len(pool) - 1)).to_json(tmp_path / "fewer.jsonl")
    pool.select(range(len(pool))[::-1]).to_json(tmp_path / "other.jsonl")
    for name, told in (("fewer", "39 rows, but 40 were scored"), ("other", "in another order")):
        assert main(["select", str(scored / "exact"), "--dataset_name", str(tmp_path / f"{name}.jsonl")]) == 1
        assert told in capsys.readouterr().err


def test_plan_prints_one_object_and_the_run_finds_what_it_scored(tmp_path, capsys):
    Dataset.from_list(alpaca_rows(30, seed=1)).to_json(tmp_path / "pool.jsonl")
    Dataset.from_list(alpaca_rows(6, seed=2)).to_json(tmp_path / "anchors.jsonl")
    options = [*DEMO, "--dataset_name", str(tmp_path / "pool.jsonl"), "--anchors", str(tmp_path / "anchors.jsonl")]
    options += ["--score_dir", str(tmp_path / "s"), "--schedule", "exact", "--tokens_per_batch", "16", "--json"]
    assert main(["plan", *options, "--measure_seconds", "0.001", "--price_per_hour", "2"]) == 0
    plan = result(capsys)
    low, expected, high = plan["seconds"].values()
    assert plan["num_pairs"] == 180 and low <= expected <= high
    assert plan["cost"] == pytest.approx(expected / 1800)
    assert 0 < plan["tokens_left"]["expected"] < plan["tokens"]
    assert not (tmp_path / "s" / "scores.parquet").exists()
    assert main(["score", *options]) == 0
    assert 0 < result(capsys)["num_pairs_scored"] < 180


@pytest.mark.parametrize("schedule", ["race", "exact"])
def test_plan_on_a_finished_store_says_so_and_what_is_next(schedule, scored, capsys):
    options = [*DEMO, "--dataset_name", str(scored / "pool.jsonl"), "--anchors", str(scored / "anchors.jsonl")]
    options += ["--score_dir", str(scored / schedule), "--schedule", schedule, "--top_k", "3"]
    assert main(["plan", *options, "--tokens_per_batch", "64"]) == 0
    told = capsys.readouterr().out
    assert "nothing: " in told and "`nuggets score`" in told and "tokens per second" not in told
    assert "cheaper" not in told and " scored now" not in told


def test_plan_knows_the_anchors_that_a_run_has_chosen_and_lets_others_stand_in_before(scored, tmp_path, capsys):
    """Two plans in a row, and one after the run: what the plans stored themselves says nothing of the run."""
    options = [*DEMO, "--dataset_name", str(scored / "pool.jsonl"), "--num_anchors", "5", "--json"]
    options += ["--score_dir", str(tmp_path / "s"), "--schedule", "exact"]
    for _ in range(2):
        assert main(["plan", *options]) == 0
        plan = result(capsys)
        # Stand-ins are drawn anew: the second plan may draw some that the first has stored.
        assert plan["stand_in_anchors"] and not plan["finished"] and plan["num_pairs_scored"] > 0
        assert plan["tokens_left"]["expected"] == pytest.approx(plan["tokens"])  # none of it is of use
    assert main(["score", *options]) == 0
    capsys.readouterr()
    assert main(["plan", *options]) == 0
    plan = result(capsys)
    assert plan["finished"] and not plan["stand_in_anchors"] and plan["num_pairs_scored"] == 0


def test_a_plan_of_a_sample_counts_what_is_left_of_the_pool(scored, tmp_path, capsys, monkeypatch):
    """The sample was scored to the end while it was measured, and the plan said that nothing was left."""
    monkeypatch.setattr("nuggets_trainer.pipeline.plan_pool.MOST_ROWS", 10)
    options = [*DEMO, "--dataset_name", str(scored / "pool.jsonl"), "--anchors", str(scored / "anchors.jsonl")]
    options += ["--score_dir", str(tmp_path / "s"), "--schedule", "exact", "--json"]
    assert main(["plan", *options]) == 0
    plan = result(capsys)
    assert plan["num_pairs_scored"] == 90 and plan["num_pairs"] == 360 and not plan["finished"]
    assert plan["tokens_left"]["expected"] == pytest.approx(0.75 * plan["tokens"])
    assert main(["score", *options]) == 0
    assert result(capsys)["num_pairs_scored"] == 270
    assert main(["plan", *options]) == 0
    assert result(capsys)["finished"]


def test_the_shipped_configs_are_found_by_name(capsys):
    assert main(["configs"]) == 0
    listed = capsys.readouterr().out
    for path in (ROOT / "configs").rglob("*.yaml"):
        assert path.relative_to(ROOT / "configs").with_suffix("").as_posix() in listed
    entries = re.split(r"\n(?=\S)", listed.strip())
    assert len(entries) >= 10 and all(entry.endswith((".", "?")) for entry in entries)  # whole sentences
    assert main(["configs", "accelerate/fsdp2"]) == 0
    assert capsys.readouterr().out.strip().endswith("configs/accelerate/fsdp2.yaml")


def test_a_reader_that_has_read_enough_is_no_error():
    """`nuggets configs | head -3` told of a broken pipe."""
    command = f"{sys.executable} -m nuggets_trainer.cli configs | true; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, check=False, timeout=100, env=environment(), cwd=ROOT
    )
    assert (done.stdout, done.stderr) == ("0\n", "")
