"""A race for gains as jobs of the command line: on two ranks, and killed and started again."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from nuggets_trainer import load_rows
from nuggets_trainer.racing.recall import indifference_of
from tests.support.launch import BIN, TORCHRUN, at_pace, run, start

FILES = ("scores.parquet", "pairs.parquet", "anchors.parquet")


def command(folder: Path, score_dir: str, launcher: list[str], *flags: str) -> list[str]:
    options = ["--model_name_or_path", "nuggets-demo/model", "--dataset_name", str(folder / "pool.jsonl")]
    options += ["--anchors", str(folder / "anchors.jsonl"), "--score_dir", str(folder / score_dir)]
    options += ["--rank_by", "gain", "--top_k", "8", "--tokens_per_batch", "64", "--signal_check", "false"]
    return [*launcher, str(BIN / "nuggets"), "score", *options, *flags]


@pytest.mark.slow
def test_two_ranks_and_killed_jobs_give_the_files_of_one(tmp_path):
    load_rows("nuggets-demo/pool").select(range(160)).to_json(tmp_path / "pool.jsonl")
    load_rows("nuggets-demo/anchors").select(range(12)).to_json(tmp_path / "anchors.jsonl")
    python = [sys.executable]
    run(command(tmp_path, "whole", python))
    run(command(tmp_path, "two", [*TORCHRUN, "2"]), ACCELERATE_USE_CPU="true")
    for calls in (3, 9):  # SIGKILL in the middle of scoring, once in the pilot and once behind it
        process = start(command(tmp_path, "killed", [sys.executable, *at_pace(0, calls=calls)]))
        while "at_pace waits for its end" not in process.stdout.readline():
            assert process.poll() is None
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()
        assert not (tmp_path / "killed" / "scores.parquet").exists()
    output = run(command(tmp_path, "killed", python))
    for name in ("two", "killed"):
        for file in FILES:
            assert (tmp_path / name / file).read_bytes() == (tmp_path / "whole" / file).read_bytes(), (name, file)

    table = pq.read_table(tmp_path / "whole" / "scores.parquet")
    num_stopped = 160 - table["upper_bound"].null_count
    assert num_stopped > 20 and f"{num_stopped} stopped before their last anchor" in output
    run(command(tmp_path, "exact", python, "--schedule", "exact"))
    exact = pq.read_table(tmp_path / "exact" / "scores.parquet")
    gain, error = exact["gain"].to_numpy(), exact["gain_error"].to_numpy()
    # The best rows have gains that differ by less than anybody can tell. The race does not separate them.
    as_good = gain >= np.sort(gain)[-8] - indifference_of(gain, error, ("top_k", 8), 8 / 160)
    selected = table["selected"].to_numpy()
    assert selected.sum() == 8 and as_good[selected].mean() >= 0.9 and as_good.mean() < 0.5
