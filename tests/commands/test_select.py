"""`nuggets select`: another rule over stored scores."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pyarrow.parquet as pq

from nuggets_trainer import load_rows
from nuggets_trainer.cli import main
from tests.support.command_line import json_result
from tests.support.launch import ROOT, environment


def test_select_applies_another_rule_without_a_model(scored, tmp_path, capsys):
    out = tmp_path / "golden.jsonl"
    options = ["--dataset_name", str(scored / "pool.jsonl"), "--output_file", str(out), "--json"]
    assert main(["select", str(scored / "exact"), "--top_k", "7", *options]) == 0
    chosen = json_result(capsys)
    rank = pq.read_table(scored / "exact" / "scores.parquet")["rank"].to_numpy()
    assert chosen["indices"] == np.argsort(rank)[:7].tolist() and chosen["rule"] == {"top_k": 7}
    pool = [json.loads(line) for line in (scored / "pool.jsonl").read_text().splitlines()]
    assert [json.loads(line) for line in out.read_text().splitlines()] == [pool[i] for i in chosen["indices"]]


def test_select_loads_no_torch(scored):
    code = f"""
import sys
from nuggets_trainer.cli import main
code = main(["select", {str(scored / "exact")!r}, "--top_k", "7"])
assert code == 0 and "torch" not in sys.modules, sorted(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True, env=environment(), cwd=ROOT, capture_output=True)


def test_select_takes_from_a_race_what_it_has_decided(scored, capsys):
    bounds = pq.read_table(scored / "race" / "scores.parquet")["upper_bound"].drop_null()
    assert len(bounds)  # the race did eliminate rows
    assert main(["select", str(scored / "race"), "--top_k", "2", "--json"]) == 0
    assert main(["select", str(scored / "exact"), "--top_k", "2", "--json"]) == 0
    raced, exact = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert raced["indices"] == exact["indices"]
    assert main(["select", str(scored / "race"), "--top_fraction", "1"]) == 1
    assert "The scores do not decide `top_fraction=1`" in capsys.readouterr().err


def test_select_refuses_rows_that_were_not_scored(scored, tmp_path, capsys):
    pool = load_rows(str(scored / "pool.jsonl"))
    pool.select(range(len(pool) - 1)).to_json(tmp_path / "fewer.jsonl")
    pool.select(range(len(pool))[::-1]).to_json(tmp_path / "other.jsonl")
    for name, told in (("fewer", "39 rows, but 40 were scored"), ("other", "not the same ones in the same order")):
        assert main(["select", str(scored / "exact"), "--dataset_name", str(tmp_path / f"{name}.jsonl")]) == 1
        assert told in capsys.readouterr().err
