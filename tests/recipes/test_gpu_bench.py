"""The bench for a GPU runs on a CPU: a step that fails or hangs costs no other, and the results become tables."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from nuggets_trainer.demo import demo_path
from tests.support.launch import ROOT, run

BENCH = ROOT / "recipes" / "bench"


@pytest.fixture
def gpu(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCH))
    return importlib.import_module("gpu")


def test_results_become_tables(gpu, tmp_path, capsys):
    results = tmp_path / "results.jsonl"
    gpu.write(results, "env", "versions", torch="2.11.0")
    gpu.write(results, "exact", "heads of 64", max_difference=2.5e-6, same_bits_again=True)
    gpu.write(results, "speed-8b", "packed", tokens_per_second=33_000.4, share_of_peak=0.612)
    gpu.write(results, "speed-8b", "step ended", code=0, seconds=12.0)
    with results.open("a") as file:
        file.write('{"step": "speed-8b", "wh')  # killed while it wrote
    capsys.readouterr()
    assert gpu.main(["--table", str(results)]) == 0
    text = capsys.readouterr().out
    assert "### env\n\n- versions: torch 2.11.0\n" in text
    assert "| what | max difference |\n| --- | --- |\n| heads of 64 | 2.5e-06 |" in text
    assert "- heads of 64: same_bits_again True" in text
    assert "| packed | 33,000 | 0.612 |" in text and "- step ended: code 0" in text


def test_a_step_that_hangs_is_stopped(gpu, tmp_path):
    options = SimpleNamespace(dry=True, model=None)
    gpu.run_process("exact", 0.5, tmp_path / "results.jsonl", options)
    (line,) = gpu.read_results(tmp_path / "results.jsonl")
    assert line["code"] == "stopped after 0 s" and line["seconds"] < 5


def test_an_error_is_a_result(gpu, tmp_path, monkeypatch):
    def fail(step):
        with step.guarded("first"):
            raise RuntimeError("no kernel image")
        step.tell("second", path="packed")

    monkeypatch.setattr(importlib.import_module("gpu_steps"), "steps", lambda: {"exact": fail})
    assert gpu.run_step("exact", tmp_path / "results.jsonl", True, None) == 0
    first, second = gpu.read_results(tmp_path / "results.jsonl")
    assert first["error"] == "RuntimeError: no kernel image" and "fail" in first["traceback"]
    assert second == {"step": "exact", "what": "second", "path": "packed"}


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_every_step_runs_on_a_cpu(tmp_path: Path):
    command = [sys.executable, "recipes/bench/gpu.py", "--dry", "--output_dir", str(tmp_path), "--seconds", "3000"]
    run([*command, "--model", str(demo_path("model"))], fresh=True, timeout=3000)
    lines = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert [line for line in lines if "error" in line] == []
    ended = {line["step"]: line["code"] for line in lines if line["what"] == "step ended"}
    assert ended == dict.fromkeys(("env", "exact", "speed-0.5b", "speed-8b", "real", "demo", "tests"), 0)
    chosen = [line["path"] for line in lines if line["what"].endswith("chosen")]
    assert len(chosen) == 7 and set(chosen) == {"packed"}
    for line in lines:
        if "max_difference" in line:
            tolerance = 0.1 if "bfloat16" in line["what"] or "compiled" in line["what"] else 1e-5
            assert line["max_difference"] < tolerance, line
