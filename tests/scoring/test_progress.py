"""What a person sees: a live display on a terminal (a real one), plain lines elsewhere, nothing on other ranks."""

from __future__ import annotations

import logging
import re
import sys

import pexpect
import pytest

from nuggets_trainer.pipeline.plan import Plan
from nuggets_trainer.scoring import progress
from nuggets_trainer.scoring.progress import show_phase
from nuggets_trainer.scoring.timing import Measurement, Workload, speed_of
from tests.support.launch import ROOT, environment

SHOWN = """
import time
from nuggets_trainer.commands.output import log_to_stderr
from nuggets_trainer.scoring.progress import logger, show_phase
log_to_stderr()
with show_phase("Scoring", "pairs", 30) as phase:
    phase.state.eliminated, phase.state.best, phase.state.cut = 7, 0.93, 0.81
    for _ in range(30):
        time.sleep(0.05)
        phase.advance()
    logger.info("a message meanwhile")
print("the end")
"""


def test_a_terminal_shows_one_live_line_and_messages_above_it():
    process = pexpect.spawn(
        sys.executable, ["-c", SHOWN], env={**environment(), "TERM": "xterm"}, cwd=str(ROOT), dimensions=(24, 150)
    )
    process.expect(r"Scoring.*of 30 pairs - \d+/s - \d s left - 7 eliminated - best 0.93 - cut 0.81", timeout=60)
    process.expect("a message meanwhile", timeout=60)
    process.expect("the end", timeout=60)
    process.expect(pexpect.EOF, timeout=60)
    process.close()
    assert process.exitstatus == 0


def test_without_a_terminal_there_is_a_plain_line_now_and_then(monkeypatch, caplog, capsys):
    monkeypatch.setattr(progress, "FIRST_LINE_SECONDS", 0.0)
    caplog.set_level(logging.INFO, "nuggets_trainer")
    with show_phase("Scoring", "pairs", 30) as phase:
        for _ in range(30):
            phase.advance()
    # The next in a minute; and the last one, which stands in the log from then on, says how it ended.
    assert [record.getMessage() for record in caplog.records] == [
        "Scoring: 1 of 30 pairs",
        "Scoring: 30 of 30 pairs - took 0 s",
    ]
    assert capsys.readouterr().err == ""


def test_a_phase_that_is_over_at_once_leaves_no_line(caplog):
    caplog.set_level(logging.INFO, "nuggets_trainer")
    with show_phase("Scoring", "pairs", 1) as phase:
        phase.advance()
    assert not caplog.records


def test_a_notebook_shows_a_bar_whose_last_state_stays():
    """In a real kernel, without ipywidgets: the bar is text that changes in place."""
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    pytest.importorskip("ipykernel")
    code = SHOWN.replace("from nuggets_trainer.commands.output import log_to_stderr\nfrom", "from")
    code = code.replace("log_to_stderr()\n", "")
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
    resources = {"metadata": {"path": str(ROOT)}}
    nbclient.NotebookClient(notebook, timeout=60, kernel_name="python3", resources=resources).execute()
    texts = dict.fromkeys(("stdout", "stderr"), "")
    for output in notebook.cells[0].outputs:
        texts[output.name] += output.text
    assert texts["stdout"] == "the end\n"
    changes = re.findall(r"Scoring: (\d+) of 30 pairs - ", texts["stderr"])
    assert 3 <= len(changes) <= 12
    assert re.search(
        r"Scoring: 30 of 30 pairs - \d+/s - took \d s - 7 eliminated - best 0.93 - cut 0.81 \|.*\|\s*$",
        texts["stderr"],
    )


def test_other_ranks_are_quiet(monkeypatch, caplog):
    monkeypatch.setattr(progress, "FIRST_LINE_SECONDS", 0.0)
    caplog.set_level(logging.INFO, "nuggets_trainer")
    with show_phase("Scoring", "pairs", 30, shown=False) as phase:
        phase.advance()
    assert not caplog.records


def test_the_time_left_goes_by_work_where_that_is_known():
    with show_phase("Scoring", "pairs", 100, shown=False) as phase:
        phase._started -= 10
        phase.state.work_left = 900.0
        phase.advance(50, work=100.0)  # half of the pairs, but a ninth of the work
        assert phase.seconds_left() == pytest.approx(80, rel=0.01)


def test_a_steady_speed_is_found_and_an_unsteady_one_widens_the_bounds():
    steady, unsteady = [(100, 1.0)] * 6, [(100, 0.5), (100, 1.5)] * 3
    assert speed_of(steady) == (100.0, 0.1)
    assert speed_of(unsteady)[1] > 0.3


def planned(work, tokens_left, setup_seconds, finished=False):
    measured = Measurement(work, tokens_left, 1e4, 1000.0, 0.1, 0.8, setup_seconds, finished)
    dropped = {"too_long": 10}
    return Plan(1010, dropped, measured, None, "exact", True, False, "cpu", 1, 10**9, 10**8, 50, price_per_hour=3.6)


def test_a_plan_lists_no_option_that_saves_nothing():
    """Where setting up takes most of the time, a quarter of the anchors was to be "cheaper" in as many seconds."""
    work = Workload(1000, 100, 100_000, 0, 1e6)
    assert len(planned(work, (1e6, 1e6, 1e6), 20.0).cheaper()) == 4
    assert len(planned(work, (6e4, 6e4, 6e4), 300.0).cheaper()) == 3  # half of the anchors would save 30 s of 360
    # Another scorer finds nothing in the store: a tenth of all is what is left of this one's pairs.
    stored = Workload(1000, 100, 100_000, 90_000, 1e5)
    assert not any("scorer_model" in o["option"] for o in planned(stored, (1e5, 1e5, 1e5), 20.0).cheaper())
    assert planned(work, (1e4, 1e4, 1e4), 300.0).cheaper() == []


def test_a_plan_of_what_is_all_scored_says_so():
    """It told of 0 tokens per second, and of options that were cheaper than nothing."""
    text = planned(Workload(1000, 100, 100_000, 99_950, 1e4), (0.0, 0.0, 0.0), 20.0, finished=True).describe()
    assert "99,950 of them stored or left out before, 50 scored now to measure" in text
    assert "nothing: every pair is scored and stored" in text and "`nuggets score`" in text
    for word in ("speed", "time ", "cheaper", "tokens "):
        assert f"\n{word}" not in text


def test_a_plan_says_what_fewer_anchors_cost():
    work = Workload(1000, 100, 100_000, 0, 1e6)
    plan = planned(work, (5e5, 1e6, 1e6), setup_seconds=20.0)
    assert plan.seconds[1] == 1020 and plan.to_dict()["cost"] == pytest.approx(1.02)
    half = next(option for option in plan.cheaper() if option["option"] == "50 anchors")
    assert half["seconds"] == 520 and "0.057 instead of 0.040" in half["gives_up"]
    text = plan.describe()
    assert "1,010 rows, 10 cannot be scored (too_long 10)" in text and "--schedule race" in text
