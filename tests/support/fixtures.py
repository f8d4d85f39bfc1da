"""Real parts for the tests: tiny models of two families, the demo's tokenizer, real models where they are at hand."""

from __future__ import annotations

import gc
import os
from pathlib import Path

import pytest
import torch
from datasets import Dataset, disable_progress_bars
from transformers import AutoTokenizer

from nuggets_trainer.demo import demo_path
from nuggets_trainer.engine import packed
from tests.support.launch import SHARED
from tests.support.models import tiny_model
from tests.support.remembered import remember
from tests.support.rows import alpaca_rows

torch.set_num_threads(1)
disable_progress_bars()
remember()
os.fsync = lambda _: None  # only a power failure can tell; the jobs that tests launch have the real one


def pytest_collection_finish() -> None:
    """Exempt all that is imported from the collection of garbage, of which `Trainer.train` asks again and again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def shared() -> Path:
    """Real data and models beside the project; tests that use them skip without."""
    if not (SHARED / "models").is_dir():
        pytest.skip("needs ../shared (real data and models), which is not part of the project")
    return SHARED


@pytest.fixture(scope="session")
def tokenizer():
    return AutoTokenizer.from_pretrained(demo_path("model"))


@pytest.fixture(scope="session")
def llama(tokenizer):
    return tiny_model("llama", len(tokenizer))


@pytest.fixture()
def pool_rows() -> list[dict[str, str]]:
    return alpaca_rows(12, seed=1)


@pytest.fixture()
def anchor_rows() -> list[dict[str, str]]:
    return alpaca_rows(5, seed=2)


@pytest.fixture()
def pool(pool_rows) -> Dataset:
    return Dataset.from_list(pool_rows)


@pytest.fixture()
def anchors(anchor_rows) -> Dataset:
    return Dataset.from_list(anchor_rows)


@pytest.fixture
def rows_run(monkeypatch):
    """Tokens of each forward pass on the packed path, as they are run."""
    lengths: list[int] = []
    run_row = packed.pass_row

    def recorded(model, row, *arguments):
        lengths.append(row.length)
        return run_row(model, row, *arguments)

    monkeypatch.setattr(packed, "pass_row", recorded)
    return lengths
