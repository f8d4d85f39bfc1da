"""The benches that simulate a large store, a report and a race run, here on few candidates."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tests.support.documented import recipe
from tests.support.launch import run

BENCH = Path("recipes/bench")


def test_the_store_bench_finds_all_pairs(tmp_path, capsys):
    recipe("store", BENCH).main(40, 4, tmp_path)
    output = capsys.readouterr().out
    assert "0 pairs missing" in output and "golden set: 1 of 40 candidates" in output
    assert not list(tmp_path.iterdir())


def test_the_report_bench_keeps_the_page(tmp_path):
    page = tmp_path / "page.html"
    options = ["--candidates", "40", "--anchors", "4", "--directory", str(tmp_path), "--keep", str(page)]
    assert "write the report" in run([sys.executable, "recipes/bench/report.py", *options])
    assert "<html" in page.read_text()


@pytest.mark.parametrize("law", ["P", "H"])
def test_the_race_bench_finds_the_exact_golden_set(law, capsys):
    options = ["--law", law, "--num_candidates", "200", "--num_anchors", "20", "--num_seeds", "1", "--json"]
    rows = recipe("race", BENCH).main(options)
    assert [row["top"] for row in rows] == [0.01, 0.05, 0.1]
    assert all(row["identical"] and row["at_least"] < row["tokens"] <= 1.5 for row in rows)
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == rows
