"""A job that is killed again and again ends as one that was not: same command, no manual step.

Kills are SIGKILL to all processes at random moments of a job, from its start to its end: imports, scoring, writing the
store, selection, training, checkpoints. What CI runs of it is in test_job.py; here it is three kills and a hundred
(`-m slow`).
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from nuggets_trainer import load_rows
from tests.support.launch import BIN, TORCHRUN, at_pace, run, start

RESULTS = ("scores.parquet", "pairs.parquet", "anchors.parquet")
CPU = {"ACCELERATE_USE_CPU": "true"}
NUM_PAIRS = 160 * 8
PACE = at_pace(0)
SMALL_BATCHES = ("--tokens_per_batch", "64")  # with the default one call of the engine scores all pairs of a rank


def score_command(rows: Path, output_dir: Path, num_ranks: int, pace=PACE) -> list[str]:
    return [
        *(*TORCHRUN, str(num_ranks), *pace, str(BIN / "nuggets"), "score", *SMALL_BATCHES),
        *("--model_name_or_path", "nuggets-demo/model", "--dataset_name", str(rows / "pool.jsonl")),
        *("--anchors", str(rows / "anchors.jsonl"), "--top_k", "12", "--schedule", "exact"),
        *("--score_dir", str(output_dir / "nuggets")),
    ]


def train_command(rows: Path, output_dir: Path, num_ranks: int) -> list[str]:
    return [
        *(*TORCHRUN, str(num_ranks), *PACE, "recipes/train.py", *SMALL_BATCHES),
        *("--use_cpu", "--bf16", "false", "--report_to", "none"),
        *("--model_name_or_path", "nuggets-demo/model", "--dataset_name", str(rows / "pool.jsonl")),
        *("--anchors", str(rows / "anchors.jsonl"), "--top_k", "12", "--schedule", "exact"),
        *("--output_dir", str(output_dir), "--use_peft", "--num_train_epochs", "4"),
        *("--per_device_train_batch_size", "2", "--save_strategy", "steps", "--save_steps", "2"),
    ]


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    path = tmp_path_factory.mktemp("rows")
    load_rows("nuggets-demo/pool").select(range(160)).to_json(path / "pool.jsonl")
    load_rows("nuggets-demo/anchors").select(range(8)).to_json(path / "anchors.jsonl")
    return path


class Killer:
    """Runs jobs to their end through kills, until there were enough.

    Args:
        rows: pool and anchors.
        directory: for the jobs.
        num_kills: when to stop killing.
    """

    def __init__(self, rows: Path, directory: Path, num_kills: int) -> None:
        self._rows, self._directory, self._left = rows, directory, num_kills
        self._random = random.Random(num_kills)
        self.num_jobs = self.num_kills = self.num_pairs_twice = 0

    def reference(self, command, num_ranks: int) -> tuple[Path, float]:
        output_dir = self._directory / f"whole-{command.__name__}-{num_ranks}"
        started = time.monotonic()
        run(command(self._rows, output_dir, num_ranks), **CPU)
        return output_dir, time.monotonic() - started

    def run_killed(self, command, choose_ranks, seconds: float) -> Path:
        """Start the same command until it ends by itself; kill it at a random moment of its expected time."""
        self.num_jobs += 1
        output_dir = self._directory / f"killed-{self.num_jobs}"
        while True:
            process = start(command(self._rows, output_dir, choose_ranks()), **CPU)
            wait = self._random.uniform(0.2, 1.0) * seconds if self._left else 500
            try:
                output, _ = process.communicate(timeout=wait)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                _kill_workers(output_dir)  # they hold the other end of the pipe
                process.communicate()
                self.num_kills += 1
                self._left -= 1
                continue
            assert process.returncode == 0, output[-4000:]
            return output_dir

    @property
    def is_done(self) -> bool:
        return self._left <= 0


def _kill_workers(output_dir: Path) -> None:
    """Torchrun starts its workers in sessions of their own, which a signal to its group does not reach."""
    subprocess.run(["pkill", "-KILL", "-f", str(output_dir)], check=False)
    while subprocess.run(["pgrep", "-f", str(output_dir)], stdout=subprocess.DEVNULL, check=False).returncode == 0:
        time.sleep(0.05)


def assert_same_files(found: Path, expected: Path, names) -> None:
    for name in names:
        assert (found / name).read_bytes() == (expected / name).read_bytes(), (found, name)


def pairs_twice(output_dir: Path) -> int:
    """Pairs that the store holds more than once: work that was repeated though it was stored."""
    tables = [pq.read_table(part) for part in output_dir.glob("nuggets/*/parts/*.parquet")]
    pairs = [pair for t in tables for pair in zip(t["candidate"].to_pylist(), t["anchor"].to_pylist(), strict=True)]
    assert len(set(pairs)) >= NUM_PAIRS
    return len(pairs) - len(set(pairs))


@pytest.mark.slow
@pytest.mark.parametrize("num_kills", [3, pytest.param(100, marks=pytest.mark.timeout(7200))])
def test_a_killed_job_ends_as_one_that_was_not(num_kills, rows, tmp_path):
    killer = Killer(rows, tmp_path, num_kills)
    most = 2 if num_kills < 10 else 3
    scored, scoring_seconds = killer.reference(score_command, 1)
    trained = {n: killer.reference(train_command, n) for n in range(1, most + 1)}
    while not killer.is_done:
        # Scoring goes on with any number of ranks; training is the same on the same number alone.
        output_dir = killer.run_killed(score_command, lambda: killer.num_kills % most + 1, scoring_seconds)
        assert_same_files(output_dir / "nuggets", scored / "nuggets", RESULTS)
        assert pairs_twice(output_dir) == 0
        num_ranks = 1 + killer.num_jobs // 2 % most
        whole, seconds = trained[num_ranks]
        output_dir = killer.run_killed(train_command, lambda n=num_ranks: n, seconds)
        assert_same_files(output_dir / "nuggets", scored / "nuggets", RESULTS)
        assert_same_files(output_dir, whole, ["adapter_model.safetensors"])
        assert pairs_twice(output_dir) == 0
    print(f"{killer.num_kills} kills over {killer.num_jobs} jobs: every result byte-equal, no stored pair repeated")


@pytest.mark.slow
def test_a_killed_job_resumes_on_fewer_ranks(rows, tmp_path):
    run(score_command(rows, tmp_path / "whole", 1), **CPU)
    for num_ranks in (1, 3):
        output_dir = tmp_path / f"killed-{num_ranks}"
        process = start(score_command(rows, output_dir, 4, at_pace(0, calls=num_ranks)), **CPU)
        while len(list(output_dir.glob("nuggets/*/parts/*.parquet"))) < 1 + 4 * num_ranks:  # the first is zero-shot
            assert process.poll() is None, process.communicate()[0][-4000:]
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGKILL)
        _kill_workers(output_dir)
        process.communicate()
        stored = sum(pq.read_metadata(part).num_rows for part in output_dir.glob("nuggets/*/parts/*.parquet"))
        assert 8 < stored < NUM_PAIRS + 8 and not (output_dir / "nuggets" / "scores.parquet").exists()
        output = run(score_command(rows, output_dir, num_ranks), **CPU)
        assert f"({NUM_PAIRS + 8 - stored:,} pairs computed by this run)" in output
        assert_same_files(output_dir / "nuggets", tmp_path / "whole" / "nuggets", RESULTS)
        assert pairs_twice(output_dir) == 0
