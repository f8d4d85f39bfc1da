"""A plan counts the signals of the rows, and the rows that meet a condition."""

from __future__ import annotations

import re

from datasets import Dataset

from nuggets_trainer import NuggetsConfig, plan_pool, score_pool
from nuggets_trainer.planning import plan_pool as planning
from nuggets_trainer.planning import signal_costs
from nuggets_trainer.wording import byte_size
from tests.support.rows import alpaca_rows


def test_a_plan_tells_what_signals_take_and_a_condition_keeps(llama, tokenizer, tmp_path, monkeypatch):
    """It ignored both: a race scores no pair of the rows that fail."""
    rows = alpaca_rows(12, seed=8)
    for i in range(3):
        rows[i] = {**rows[i], "output": "We like red, blue and green. " * 4}
    arguments = llama, tokenizer, Dataset.from_list(rows), Dataset.from_list(alpaca_rows(3, seed=9))
    seconds = {"measure_seconds": 0.1, "score_dir": tmp_path}

    def notes(**options):
        plan = plan_pool(*arguments, config=NuggetsConfig(template="plain", top_k=2, **options), **seconds)
        *of_signals, of_duplicates = plan.notes
        assert of_duplicates == "duplicates: 0 rows repeat an earlier one, 0 near-duplicates"
        return tuple(of_signals)

    assert notes() == ()
    assert notes(schedule="exact", require="repetition < 0.3") == ("75% of 12 random rows meet `repetition < 0.3`",)
    monkeypatch.setattr(planning, "SIGNAL_ROWS", 8)
    both = "repetition < 0.3 and num_tokens > 0"
    for num_measured in (8, 4):  # an earlier plan has stored the others
        (note,) = notes(schedule="race", require=both)
        assert re.match(rf"the signals of each row take about .* more; \d+% of {num_measured} random rows meet", note)
        assert note.endswith("`, and a race scores only the pairs of such rows")
    note, why = notes(row_signals=True, require="golden_score > 0.1")
    assert note.endswith("more")
    assert why == "every pair is scored, because with `require` the golden set depends on all of them"
    (why,) = notes(group_by="input", max_rows_per_prompt=1)
    assert "because with `group_by` and `max_rows_per_prompt` the golden set depends on all" in why
    monkeypatch.setattr(signal_costs, "BYTES_WORTH_A_NOTE", 100)
    (note,) = notes(row_signals=True)
    assert note.endswith(
        f"more; the cosines for `similarity_turn` take about {byte_size(5.5 * 12 * 3)} in `score_dir`"
    )
    (note,) = notes(require=both)  # which does not want them
    assert "cosines" not in note


def test_a_second_plan_measures_ica_on_rows_without_it(llama, tokenizer, tmp_path, monkeypatch):
    """Where the other signals were stored for all rows, it took rows that it had measured before, for no time."""
    monkeypatch.setattr(signal_costs, "SIGNAL_ROWS", 5)
    rows, anchors = Dataset.from_list(alpaca_rows(12, seed=8)), Dataset.from_list(alpaca_rows(3, seed=9))
    place = {"score_dir": tmp_path}
    config = {"template": "plain", "top_k": 2}
    score_pool(llama, tokenizer, rows, anchors, NuggetsConfig(rank_by="similarity", **config), **place)
    found = []
    for _ in range(3):
        plan = plan_pool(llama, tokenizer, rows, anchors, NuggetsConfig(rank_by="ica", **config), **place)
        found.append((plan.cost.num_known, plan.cost.num_rows))
    assert found == [(0, 5), (5, 5), (10, 2)]
