"""Rows hold every piece once, in order, within the budget, and no more rows than needed."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from nuggets_trainer.engine.packing import pack

PREFIXED = st.lists(st.tuples(st.integers(0, 30), st.lists(st.integers(1, 40), max_size=12)), min_size=1, max_size=5)


@given(PREFIXED, st.integers(1, 120))
def test_rows_hold_every_piece_once_in_order(prefixed, budget):
    rows = pack(prefixed, budget)
    expected = []
    for prefix, (prefix_length, lengths) in enumerate(prefixed):
        expected += [(prefix, None, prefix_length)] if prefix_length else []
        expected += [(prefix, segment, length) for segment, length in enumerate(lengths)]
    assert [(p.prefix, p.segment, p.length) for row in rows for p in row] == expected
    for row in rows:
        assert row
        assert [p.start for p in row] == [sum(p.length for p in row[:i]) for i in range(len(row))]
        assert len(row) == 1 or sum(p.length for p in row) <= budget


@given(PREFIXED, st.integers(1, 120))
def test_evening_out_costs_no_row(prefixed, budget):
    lengths = [n for prefix_length, own in prefixed for n in ([prefix_length] if prefix_length else []) + own]
    rows, used = 0, budget + 1
    for length in lengths:
        if used + length > budget:
            rows, used = rows + 1, 0
        used += length
    assert len(pack(prefixed, budget)) == rows


def test_rows_are_about_equally_long():
    totals = [sum(p.length for p in row) for row in pack([(150, [20] * 100)], 1024)]
    assert len(totals) == 3 and max(totals) - min(totals) <= 40


def test_all_rows_but_the_last_are_full_where_asked():
    totals = [sum(p.length for p in row) for row in pack([(150, [20] * 100)], 1024, even=False)]
    assert len(totals) == 3 and min(totals[:-1]) > 1024 - 20 and totals[-1] < 200
