"""`nuggets select`: another rule over stored scores."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest

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


@pytest.mark.parametrize("rank_by", ["golden_score", "gain"])
def test_rows_are_written_with_rank_and_scores(scored, tmp_path, rank_by):
    out = tmp_path / "golden.parquet"
    options = ["--dataset_name", str(scored / "pool.jsonl"), "--output_file", str(out), "--with_scores"]
    assert main(["select", str(scored / "exact"), "--top_k", "7", "--rank_by", rank_by, *options]) == 0
    stored = pq.read_table(scored / "exact" / "scores.parquet").to_pydict()
    pool = [json.loads(line) for line in (scored / "pool.jsonl").read_text().splitlines()]
    written = pq.read_table(out).to_pylist()
    error = {"golden_score": "standard_error", "gain": "gain_error"}[rank_by]
    assert [row["rank"] for row in written] == list(range(1, 8)) and list(written[0])[-2:] == [rank_by, error]
    for row in written:
        place = row["pool_index"]
        assert {name: row[name] for name in pool[place]} == pool[place]
        assert (row[rank_by], row[error]) == (stored[rank_by][place], stored[error][place])


def test_a_column_of_a_score_s_name_is_refused(scored, tmp_path, capsys):
    pool = [json.loads(line) for line in (scored / "pool.jsonl").read_text().splitlines()]
    (tmp_path / "pool.jsonl").write_text("".join(json.dumps({**row, "rank": 1}) + "\n" for row in pool))
    options = ["--dataset_name", str(tmp_path / "pool.jsonl"), "--output_file", str(tmp_path / "golden.jsonl")]
    assert main(["select", str(scored / "exact"), *options, "--with_scores"]) == 1
    assert "adds a column 'rank', but the pool has one" in capsys.readouterr().err
    assert not (tmp_path / "golden.jsonl").exists()


def test_other_programs_get_an_entry(scored, tmp_path, capsys):
    out = tmp_path / "golden.jsonl"
    options = ["--dataset_name", str(scored / "pool.jsonl"), "--output_file", str(out)]
    assert main(["select", str(scored / "exact"), *options, "--entry_for", "llama_factory", "ms_swift"]) == 0
    shown = capsys.readouterr().out
    assert f"LLaMA-Factory: `dataset_dir: {tmp_path}`, `dataset: golden`" in shown
    assert f"--custom_dataset_info {tmp_path / 'golden.ms_swift.json'} --dataset {out}" in shown
    listed = json.loads((tmp_path / "dataset_info.json").read_text())["golden"]
    assert listed["columns"] == {"prompt": "instruction", "query": "input", "response": "output"}
    assert not (tmp_path / "golden.axolotl.yaml").exists()


def test_a_broken_list_of_datasets_is_refused_before_rows_are_written(scored, tmp_path, capsys):
    out, listed = tmp_path / "golden.jsonl", tmp_path / "dataset_info.json"
    listed.write_text('{"mine": ')
    options = ["--dataset_name", str(scored / "pool.jsonl"), "--output_file", str(out)]
    assert main(["select", str(scored / "exact"), *options, "--entry_for", "llama_factory"]) == 1
    assert f"{listed} is no JSON: Expecting value" in capsys.readouterr().err
    assert not out.exists() and listed.read_text() == '{"mine": '


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--with_scores"], "need a file of rows. Name it with --output_file"),
        (["--entry_for", "axolotl"], "need a file of rows. Name it with --output_file"),
        (["--output_file", "a.jsonl", "--dataset_name", "p", "--entry_for", "trl"], "`entry_for` must be one of"),
    ],
)
def test_options_of_the_file_are_checked_first(words, message, scored, capsys):
    assert main(["select", str(scored / "exact"), *words]) == 2
    assert message in capsys.readouterr().err


def test_select_loads_no_torch(scored):
    code = f"""
import sys
from nuggets_trainer.cli import main
code = main(["select", {str(scored / "exact")!r}, "--top_k", "7"])
assert code == 0 and "torch" not in sys.modules, sorted(sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], check=False, env=environment(), cwd=ROOT, capture_output=True)
    assert done.returncode == 0, done.stderr


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


def test_rows_of_an_earlier_version_are_chosen_once(scored, tmp_path, capsys):
    """Earlier versions scored equal rows, and did not write down which they are."""
    pool = [json.loads(line) for line in (scored / "pool.jsonl").read_text().splitlines()]
    table = pq.read_table(scored / "exact" / "scores.parquet")
    first, repeat, third = np.argsort(table["rank"].to_numpy())[:3].tolist()
    first, repeat = sorted([first, repeat])
    pool[repeat] = pool[first]
    score_dir = tmp_path / "scores"
    score_dir.mkdir()
    pq.write_table(table.replace_schema_metadata(None), score_dir / "scores.parquet")
    run = json.loads((scored / "exact" / "run.json").read_text())
    assert run.pop("overlap")
    (score_dir / "run.json").write_text(json.dumps(run))
    (tmp_path / "pool.jsonl").write_text("".join(json.dumps(row) + "\n" for row in pool))

    assert main(["select", str(score_dir), "--top_k", "2"]) == 0
    assert "the golden set may have rows twice. Name the rows with --dataset_name" in capsys.readouterr().out
    assert (
        main(["select", str(score_dir), "--top_k", "2", "--dataset_name", str(tmp_path / "pool.jsonl"), "--json"]) == 0
    )
    chosen = json_result(capsys)
    assert chosen["indices"] == [first, third]
    assert chosen["overlap"] == {"duplicates": 1, "says": "1 row repeats an earlier one word for word (left out now)"}
