"""The slots of a golden set that changes."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nuggets_trainer.training.slots import Slots


@given(st.data())
@settings(max_examples=50, deadline=None)
def test_rows_that_stay_keep_their_slot(data):
    size = data.draw(st.integers(1, 6))
    sets = data.draw(st.lists(st.sets(st.integers(0, 9), min_size=size, max_size=size), min_size=1, max_size=5))
    slots = Slots(np.sort(list(sets[0])))
    for number, rows in enumerate(sets[1:], start=1):
        before = slots.latest.copy()
        slots.refill(list(rows), epoch=number, position=3)
        assert set(slots.latest.tolist()) == rows
        stay = np.isin(before, list(rows))
        assert (slots.latest[stay] == before[stay]).all()
    restored = Slots.from_state(json.loads(json.dumps(slots.state())))
    restored.forget_epochs_before(len(sets))
    for epoch, rows in enumerate(sets):
        assert {slots.row(epoch, 3, slot) for slot in range(size)} == rows
        assert {slots.row(epoch, 2, slot) for slot in range(size)} == sets[max(0, epoch - 1)]
    assert {restored.row(len(sets), 0, slot) for slot in range(size)} == sets[-1]
    assert len(restored.state()) == 1
    if len(sets) > 1:
        with pytest.raises(IndexError, match="are forgotten"):
            restored.row(0, 0, 0)
        with pytest.raises(ValueError, match="were refilled at"):
            restored.refill(list(sets[0]), epoch=0, position=0)


def test_another_size_does_not_fill_the_slots():
    with pytest.raises(ValueError, match="of 2 rows does not fill 3 slots"):
        Slots(np.arange(3)).refill([1, 2], 1, 0)
