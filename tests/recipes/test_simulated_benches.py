"""The benches that simulate a large store, a report and a race run, here on few candidates."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from nuggets_trainer.store.score_store import ScoreStore
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


def test_the_gain_race_bench_finds_what_was_asked(capsys):
    small = ["--num_candidates", "150", "--num_anchors", "12", "--num_seeds", "1", "--top_fractions", "0.1", "--json"]
    bench, rows = recipe("gain_race", BENCH), []
    for law in bench.LAWS:
        rows += bench.main(["--law", law, "--num_unseen", "2", *small])
    assert all(row["tokens"] < 1.05 and row["pilot"] < row["tokens"] and row["unseen"] > 0.5 for row in rows)
    assert sum(row["as_good"] for row in rows) / len(rows) >= 0.75  # what `race_recall` promises
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == rows
    # A tenth of the tokens has room for seven rows, too few to tell.
    (by_tokens,) = bench.main([*small, "--by_tokens", "--top_fractions", "0.3"])
    assert by_tokens["as_good"] >= 0.75 and by_tokens["tokens"] < 1


def test_the_gain_race_bench_reads_a_store(tmp_path, capsys):
    """Rows that are not complete yet are left out; more are drawn from the others."""
    store = ScoreStore(tmp_path, {"model": "any"})
    anchors = [f"anchor{j}" for j in range(12)]
    store.write([None] * 12, anchors, np.zeros(12))
    gains = np.random.default_rng(0).normal(size=(70, 12))
    store.write(np.repeat([f"row{i:03}" for i in range(66)], 12).tolist(), anchors * 66, gains[:66].ravel())
    store.write(["row066"] * 5, anchors[:5], gains[66, :5])
    bench = recipe("gain_race", BENCH)
    columns = [anchors.index(name) for name in sorted(anchors)]
    np.testing.assert_allclose(bench.read_store(tmp_path), gains[:66, columns], rtol=1e-6)
    bench.main(["--score_dir", str(tmp_path), "--enlarge", "120", "--num_seeds", "1", "--top_fractions", "0.1"])
    assert "means over 1 seeds, asked 0.75" in capsys.readouterr().out


@pytest.mark.parametrize("law", ["P", "H"])
def test_the_race_bench_finds_the_exact_golden_set(law, capsys):
    options = ["--law", law, "--num_candidates", "200", "--num_anchors", "20", "--num_seeds", "1", "--json"]
    rows = recipe("race", BENCH).main(options)
    assert [row["top"] for row in rows] == [0.01, 0.05, 0.1]
    assert all(row["identical"] and row["at_least"] < row["tokens"] <= 1.5 for row in rows)
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == rows


def test_the_pool_bench_finds_what_it_plants(tmp_path, capsys):
    figures = recipe("pool", BENCH).main(["--num_rows", "400", "--num_words", "60", "--directory", str(tmp_path)])
    assert figures["duplicates"] >= 4 and figures["near"] >= 3 and figures["contaminated"] == 4
    assert 0 < figures["hash"] < figures["render"] and "bytes a prefix token" in capsys.readouterr().out
