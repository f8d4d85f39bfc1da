"""A pool that was scored by the command line."""

from __future__ import annotations

import pytest

from nuggets_trainer import load_rows
from nuggets_trainer.cli import main
from tests.support.command_line import DEMO


@pytest.fixture(scope="session")
def scored(tmp_path_factory):
    """40 rows against 9 anchors, scored by the exact schedule and by the race."""
    place = tmp_path_factory.mktemp("cli")
    load_rows("nuggets-demo/pool").select(range(0, 1836, 46)).to_json(place / "pool.jsonl")
    load_rows("nuggets-demo/anchors").select(range(9)).to_json(place / "anchors.jsonl")
    options = [*DEMO, "--dataset_name", str(place / "pool.jsonl"), "--anchors", str(place / "anchors.jsonl")]
    for schedule in ("exact", "race"):
        where = ["--score_dir", str(place / schedule), "--schedule", schedule, "--top_k", "3"]
        assert main(["score", *options, *where, "--tokens_per_batch", "64"]) == 0
    return place
