"""Ray Data with real workers, one of which is killed on the way."""

from __future__ import annotations

import importlib.util
import json
import sys

import pytest

from tests.support.launch import run

SCRIPT = """
import json, os, signal, sys
from pathlib import Path

import ray

from nuggets_trainer import GoldenScorer, load_rows

PLACE = sys.argv[1]  # workers have other words there

class Mortal(GoldenScorer):
    # The first worker that gets a second batch dies in it, as on a machine that is taken away.
    calls = 0

    def __call__(self, batch):
        self.calls += 1
        if self.calls == 2:
            try:
                Path(PLACE, "killed").touch(exist_ok=False)
            except FileExistsError:
                pass
            else:
                os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(batch)

rows = load_rows("nuggets-demo/pool").select(range(40)).select_columns(["instruction", "input", "output"])
rows = rows.add_column("number", list(range(len(rows))))
anchors = load_rows("nuggets-demo/anchors").select(range(6)).to_list()
ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
scored = ray.data.from_items(rows.to_list(), override_num_blocks=8).map_batches(
    Mortal, fn_constructor_args=("nuggets-demo/model", anchors), batch_size=5, concurrency=2
)
found = sorted(scored.take_all(), key=lambda row: row["number"])
alone = GoldenScorer("nuggets-demo/model", anchors)(rows)
json.dump({
    "killed": Path(sys.argv[1], "killed").exists(),
    "numbers": [int(row["number"]) for row in found],
    "found": [float(row["golden_score"]) for row in found],
    "gains": [abs(float(row["mean_gain"]) - gain) for row, gain in zip(found, alone["mean_gain"])],
    "alone": list(alone["golden_score"]),
}, open(sys.argv[1] + "/result.json", "w"))
"""


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason='needs `pip install "ray[data]"`')
def test_scores_are_the_same_although_a_worker_of_ray_dies(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    command = [sys.executable, str(tmp_path / "script.py"), str(tmp_path)]
    run(command, timeout=1400, fresh=True, RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO="0")
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["killed"] and result["numbers"] == list(range(40))
    assert result["found"] == result["alone"] and max(result["gains"]) < 1e-5
