"""Processes of a launcher are one world, or they are told how to become one."""

from __future__ import annotations

import pytest
from accelerate import PartialState

from nuggets_trainer.ranks import Ranks


def test_processes_that_do_not_know_of_each_other_are_refused(monkeypatch):
    """Under torchrun on a CPU, each process scored the whole pool and wrote the same files."""
    assert PartialState().num_processes == 1 and Ranks().world == 1
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert Ranks().world == 1  # of some clusters, for machines
    monkeypatch.setenv("LOCAL_RANK", "0")
    with pytest.raises(ValueError, match="The launcher started 2 processes.*`--use_cpu true`"):
        Ranks()
