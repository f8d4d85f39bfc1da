"""The bench for a GPU runs on a CPU: a step that fails or hangs costs no other, and the results become tables."""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from nuggets_trainer.demo import demo_path
from nuggets_trainer.engine.flex import flex_row
from nuggets_trainer.engine.packed import score_packed
from nuggets_trainer.scoring.pair_scorer import CALL_BATCHES
from tests.support.architectures import random_model
from tests.support.launch import ROOT, run
from tests.support.segments import random_prefix, random_segments

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
    assert "| packed | 33,000 | 0.612 |" in text and "- step ended: code 0, seconds 12\n" in f"{text}\n"


def test_what_parts_wrote_between_each_other_is_put_together(gpu):
    """The table of a step with four parts went from one model to another and back."""
    told = ["a, float32: chosen", "autocast", "b, bfloat16: chosen", "a, float32: packed", "b, bfloat16: packed"]
    lines = [{"step": "exact", "what": what, "path": "packed", "warnings": []} for what in told]
    rows = [row.split(" |")[0] for row in gpu.format_tables(lines).splitlines()[4:]]
    assert rows == [f"| {told[i]}" for i in (0, 3, 1, 2, 4)]


def test_a_step_that_hangs_is_stopped(gpu, tmp_path):
    options = SimpleNamespace(dry=True, model=None)
    gpu.run_parts("exact", 0.5, tmp_path / "results.jsonl", options)
    lines = gpu.read_results(tmp_path / "results.jsonl")
    assert [line["part"] for line in lines] == list(gpu.PARTS["exact"])
    for line in lines:
        assert line["code"] == "stopped after 0 s" and line["seconds"] < 5


def test_a_second_command_keeps_the_results_of_the_first(gpu, tmp_path, monkeypatch):
    """It emptied the file: who has ten minutes a command lost what the first one had found."""

    def ran(name, limit, results, _):
        gpu.write(results, name, "ran", limit=limit)
        return [0]

    monkeypatch.setattr(gpu, "run_parts", ran)
    place = ["--output_dir", str(tmp_path)]
    gpu.main([*place, "--steps", "env", "exact"])
    gpu.main([*place, "--steps", "exact", "real", "--seconds", "20"])
    lines = gpu.read_results(tmp_path / "results.jsonl")
    assert [line["step"] for line in lines] == ["env", "exact", "real"]
    assert lines[1]["limit"] < 20 < lines[0]["limit"]
    both = [["env", "exact", "speed-0.5b", "speed-8b"], ["attention", "real", "demo", "tests"]]
    assert [sum(gpu.STEPS[name] for name in half) for half in both] == [540, 290]


def test_the_last_lines_say_what_failed(gpu):
    """Errors stood somewhere in the tables, and whether log-probs agree was left to the reader."""
    lines = [
        {"step": "exact", "what": "heads of 64, float32: packed", "max_difference": 2e-6},
        {"step": "exact", "what": "heads of 64, float32: cached", "max_difference": float("nan")},
        {"step": "exact", "what": "compiled: whole layers, head", "max_difference": 0.03},
        {"step": "tests", "what": "pytest -m gpu", "code": 1, "last_lines": ["FAILED tests/engine/test_gpu.py"]},
        {"step": "env", "what": "step ended", "code": 0},
        {"step": "demo", "what": "left out", "seconds_left": 3},
    ]
    lines += [{"step": "exact", "what": "device", "error": "no device"}] * 4  # of four parts
    text = "\n".join(gpu.verdict(lines, ["env", "tests", "demo", "real"]))
    assert text.count("- FAILED: exact, device: no device") == 1
    assert "- FAILED: tests, pytest -m gpu: 1\n    FAILED tests/engine/test_gpu.py\n" in text
    assert "- Left out or stopped: demo, tests, real." in text
    assert "float32: 1 of 2 comparisons agree" in text and "half precision: 1 of 1 comparisons agree" in text
    assert "Every step ran to its end without an error." in gpu.verdict(lines[4:5], ["env"])[-1]


def test_without_a_device_no_further_step_starts(gpu, tmp_path, monkeypatch, capsys):
    """Each step failed with torch's own message, one after another."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    options = SimpleNamespace(step="exact", dry=False, model=None, part=None, seconds=10)
    assert gpu.run_step(options, tmp_path / "results.jsonl") == gpu.NO_DEVICE
    started = []

    def start(name, part, limit, results, _):
        started.append(name)
        gpu.run_step(options, results)
        return subprocess.Popen([sys.executable, "-c", f"raise SystemExit({gpu.NO_DEVICE})"], start_new_session=True)

    monkeypatch.setattr(gpu, "_start", start)
    assert gpu.main(["--output_dir", str(tmp_path), "--steps", "env", "real"]) == gpu.NO_DEVICE
    assert started == ["env"] and "- Left out or stopped: real." in capsys.readouterr().out
    with pytest.raises(SystemExit):
        gpu.main(["--table", str(tmp_path / "none.jsonl")])
    assert "there is no file" in capsys.readouterr().err


def test_a_step_ends_with_the_program_that_watches_it(gpu, tmp_path, monkeypatch, capsys):
    """It went on alone, and held the device."""
    started = []

    def start(*_):
        started.append(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True))
        threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGTERM)).start()
        return started[0]

    monkeypatch.setattr(gpu, "_start", start)
    before = signal.getsignal(signal.SIGTERM)
    gpu.main(["--output_dir", str(tmp_path), "--steps", "env", "real"])
    assert signal.getsignal(signal.SIGTERM) is before
    assert len(started) == 1 and started[0].poll() == -signal.SIGKILL
    assert "- Left out or stopped: env, real." in capsys.readouterr().out


def test_a_package_that_is_missing_is_a_result(gpu, tmp_path, monkeypatch):
    """The step ended with a traceback that no table showed."""
    monkeypatch.setitem(sys.modules, "gpu_steps", None)
    options = SimpleNamespace(step="env", dry=True, model=None, part=None, seconds=10)
    assert gpu.run_step(options, tmp_path / "results.jsonl") == 1
    (line,) = gpu.read_results(tmp_path / "results.jsonl")
    assert "ModuleNotFoundError" in line["error"] and line["step"] == "env"


def test_a_program_is_stopped_before_its_step_is(gpu, tmp_path):
    """What it had written was lost with the step."""
    gpu_steps = importlib.import_module("gpu_steps")
    told = []
    step = gpu_steps.Step("tests", lambda what, **figures: told.append(figures), True, None, tmp_path)
    step = replace(step, ends=time.monotonic() + gpu_steps.SECONDS_TO_TELL + 2)
    program = "import time; print('one test passed', flush=True); time.sleep(60)"
    gpu_steps._run_program(step, "tests", [sys.executable, "-c", program])
    assert told[0]["code"] == "stopped after 2 s" and told[0]["last_lines"] == ["one test passed"]


@pytest.mark.parametrize("name", ["Llama", "Mistral (sliding window)", "Qwen2", "Gemma 3", "Phi"])
def test_attention_of_variable_lengths_is_exact(gpu, name):
    varlen_row = importlib.import_module("varlen").varlen_row
    model, segments, prefix = random_model(name), random_segments(9, seed=2), random_prefix(40)
    prefixed = [(prefix, segments), ([], segments[:4]), (prefix[:9], segments[4:])]
    with torch.no_grad():
        found, expected = (score_packed(model, prefixed, 100, kernel) for kernel in (varlen_row, None))
    np.testing.assert_allclose(np.concatenate(found), np.concatenate(expected), rtol=0, atol=1e-5)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("name", ["Llama", "Gemma 2"])
def test_rows_in_the_same_tensors_are_exact(gpu, name):
    """What a CUDA graph needs; on a CPU each row runs as it is."""
    captured = importlib.import_module("captured").CapturedRows()
    model = random_model(name)
    for seed in range(2):  # the second call finds the tensors of the first
        prefixed = [(random_prefix(n), random_segments(9, seed=seed)) for n in (40, 0, 9 + seed)]
        with torch.no_grad():
            found = score_packed(model, prefixed, 128, flex_row, captured.run)
            expected = score_packed(model, prefixed, 128)
        np.testing.assert_allclose(np.concatenate(found), np.concatenate(expected), rtol=0, atol=1e-5)
    assert 1 < len(captured._rows) < 6 and captured.num_graphs == 0
    assert any(row.earlier for row in captured._rows.values())


def test_texts_need_no_datasets(gpu, monkeypatch):
    """The machine with the GPU may lack the package; speed depends on lengths alone."""
    shapes = importlib.import_module("shapes")
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "datasets" else find(name))
    work = shapes.make_workload(shapes.SHAPES["8b"], 100)
    assert work.source == "random ids" and 120 < np.mean([len(s.ids) for s in work.segments]) < 140
    assert importlib.import_module("gpu_steps").CALL_BATCHES == CALL_BATCHES


def test_an_error_is_a_result(gpu, tmp_path, monkeypatch):
    def fail(step):
        with step.guarded("first"):
            raise RuntimeError("no kernel image")
        step.tell("second", path="packed")

    monkeypatch.setattr(importlib.import_module("gpu_steps"), "steps", lambda: {"exact": fail})
    options = SimpleNamespace(step="exact", dry=True, model=None, part=None, seconds=10)
    assert gpu.run_step(options, tmp_path / "results.jsonl") == 0
    first, second = gpu.read_results(tmp_path / "results.jsonl")
    assert first["error"] == "RuntimeError: no kernel image" and "fail" in first["traceback"]
    assert second == {"step": "exact", "what": "second", "path": "packed"}


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_every_step_runs_on_a_cpu(tmp_path: Path):
    command = [sys.executable, "recipes/bench/gpu.py", "--dry", "--output_dir", str(tmp_path)]
    run([*command, "--model", str(demo_path("model"))], fresh=True, timeout=3000)
    lines = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert [line for line in lines if "error" in line] == []
    ended = [(line["step"], line["code"]) for line in lines if line["what"] == "step ended"]
    assert len(ended) == 8 - 1 + 4 and {code for _, code in ended} == {0}
    assert {name for name, _ in ended} == {line["step"] for line in lines}
    (tests,) = [line for line in lines if line["what"] == "pytest -m gpu"]
    assert "46 passed, 2 skipped" in tests["last_lines"][-1]
    chosen = [line["path"] for line in lines if line["what"].endswith("chosen")]
    assert len(chosen) == 8 and set(chosen) == {"packed"}
    for line in lines:
        if "max_difference" in line:
            tolerance = 0.1 if "bfloat16" in line["what"] or "compiled" in line["what"] else 1e-5
            assert line["max_difference"] < tolerance, line
