"""The bench measures what it says: the same numbers from every engine, exactly the useful tokens in the floor."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.support.documented import recipe
from tests.support.launch import ROOT, run

TOLERANCE = 1e-5  # nats per token


@pytest.fixture
def recipes(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "recipes" / "bench"))


def test_all_engines_agree_and_the_figures_are_complete(tmp_path: Path):
    file = tmp_path / "bench.json"
    output = run(
        [
            sys.executable,
            "recipes/bench/engine.py",
            "--shapes",
            "tiny",
            "--rounds",
            "1",
            "--json",
            str(file),
        ],
        fresh=True,  # it measures its memory
    )
    report = json.loads(file.read_text())
    (shape,) = report["shapes"]
    assert shape["shape"] == "tiny"
    assert shape["num_anchors"] == 4
    assert list(shape["engines"]) == ["reference", "cached", "packed", "floor"]
    for name, figures in shape["engines"].items():
        assert name in output
        assert figures["pairs_per_second"] > 0
        assert figures["useful_tokens_per_second"] == pytest.approx(
            figures["pairs_per_second"] * shape["useful_tokens"] / 4
        )
        assert figures["peak_memory_mib"] >= 0
        if name == "floor":
            assert figures["max_difference"] is None
        else:
            assert figures["max_difference"] < TOLERANCE
    # It holds float32 logits and their log-softmax, 4 x 200 x 512 each: less was read where freed heap was reused.
    assert shape["engines"]["reference"]["peak_memory_mib"] > 2 * 4 * 200 * 512 * 4 / 2**20
    assert shape["engines"]["reference"]["ratio_to_reference"] == 1
    assert shape["engines"]["floor"]["share_of_floor"] == 1


def test_the_rendering_bench_compares_both_ways(capsys):
    figures = recipe("rendering", ROOT / "recipes" / "bench").main(["--num_rows", "120", "--num_workers", "1"])
    assert figures["identical"]
    assert 0 < figures["cpu_ms_feeding"] < figures["cpu_ms_here"]
    assert 4 * figures["tokens_per_row"] < figures["bytes_per_row"] < 4 * figures["tokens_per_row"] + 400
    assert "identical: yes" in capsys.readouterr().out


@pytest.mark.usefixtures("recipes")
def test_the_naive_result_depends_on_the_candidate():
    # Otherwise engines that lose the prefix would agree with it.
    from reference import naive_log_probs
    from shapes import SHAPES, Workload, build_model, make_workload

    shape = SHAPES["tiny"]
    work, model = make_workload(shape, 4), build_model(shape, "cpu")
    without = Workload(work.prefix_ids[:1], work.segments, work.source)
    assert np.abs(naive_log_probs(model, work) - naive_log_probs(model, without)).min() > 10 * TOLERANCE


@pytest.mark.usefixtures("recipes")
def test_the_demo_stands_in_for_missing_texts(monkeypatch, tmp_path: Path):
    import shapes

    monkeypatch.setattr(shapes, "ANCHORS", tmp_path / "missing.jsonl")
    shape = shapes.SHAPES["tiny"]
    work = shapes.make_workload(shape, 4)
    assert "demo" in work.source
    assert len(work.prefix_ids) == shape.candidate_tokens
    assert max(i for s in work.segments for i in s.ids) < shape.sizes["vocab_size"]
    lengths = [len(s.ids) for s in work.segments]
    assert lengths == sorted(lengths)
    assert 32 <= lengths[0] < lengths[-1] == 200


@pytest.mark.usefixtures("recipes")
def test_hoisting_moves_tokens_and_loses_none():
    from shapes import SHAPES, make_workload

    work = make_workload(SHAPES["tiny"], 4)
    hoisted = work.hoisted()
    moved = len(hoisted.prefix_ids) - len(work.prefix_ids)
    assert moved > 0
    assert hoisted.useful_tokens == work.useful_tokens - moved * (len(work.segments) - 1)
    for before, after in zip(work.segments, hoisted.segments, strict=True):
        assert work.prefix_ids + before.ids == hoisted.prefix_ids + after.ids
        assert before.num_completion_tokens == after.num_completion_tokens


@pytest.mark.usefixtures("recipes")
@pytest.mark.parametrize("total", [1, 255, 1023, 1024, 1025, 1026, 1027, 2310, 13_001])
@pytest.mark.parametrize(("rows", "width"), [(4, 256), (4, 128), (32, 256)])
def test_the_floor_is_made_of_exactly_the_useful_tokens(total: int, rows: int, width: int):
    from reference import dense_blocks

    blocks = list(dense_blocks(total, rows, width))
    assert sum(r * w for r, w in blocks) == total
    assert all(r <= rows and (w <= width or r == 1) for r, w in blocks)


def test_the_cost_of_row_signals_is_a_share_of_the_exact_schedule(recipes, capsys):
    shares = importlib.import_module("row_signals").main(["--num_candidates", "3"])
    assert set(shares) == {"these rows", "a further row", "whole pool"} and shares["these rows"] > 0
    assert "3 rows x 27 anchors: exact schedule" in capsys.readouterr().out
