"""What a person sees: a live display on a terminal (a real one), plain lines elsewhere, nothing on other ranks."""

from __future__ import annotations

import logging
import re
import sys

import pexpect
import pytest

from nuggets_trainer.scoring import progress
from nuggets_trainer.scoring.progress import messages_above_bars, show_phase, tell
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


def set_up_by_nobody(monkeypatch) -> logging.Logger:
    """Return a logger below the root of a plain script, which has no handlers and shows WARNING."""
    monkeypatch.setattr(logging.root, "handlers", [])  # pytest's own are there as long as a test runs
    monkeypatch.setattr(logging.root, "level", logging.WARNING)
    monkeypatch.setattr(logging.getLogger("nuggets_trainer"), "level", logging.NOTSET)  # a command may have set it
    monkeypatch.setattr(logging.root.manager, "disable", logging.NOTSET)
    monkeypatch.setattr("transformers.utils.logging.get_verbosity", lambda: logging.WARNING)  # a job may have set it
    logging.root.manager._clear_cache()
    return logging.getLogger("nuggets_trainer.somewhere")


def test_a_line_of_the_account_is_shown_once(capsys, monkeypatch):
    plain = set_up_by_nobody(monkeypatch)
    tell(plain, "golden set: %d of %d", 3, 9)
    assert capsys.readouterr() == ("", "golden set: 3 of 9\n")
    logging.basicConfig(level=logging.INFO, format="%(name)s %(message)s")  # the user listens: logging alone
    tell(plain, "golden set: %d of %d", 3, 9)
    assert capsys.readouterr().err == "nuggets_trainer.somewhere golden set: 3 of 9\n"


@pytest.mark.parametrize("silenced", ["package", "root", "all", "transformers"])
def test_who_asks_for_silence_hears_no_account(silenced, capsys, monkeypatch):
    plain = set_up_by_nobody(monkeypatch)
    if silenced == "package":
        monkeypatch.setattr(logging.getLogger("nuggets_trainer"), "level", logging.WARNING)
    elif silenced == "root":
        monkeypatch.setattr(logging.root, "level", logging.ERROR)
    elif silenced == "all":
        monkeypatch.setattr(logging.root.manager, "disable", logging.INFO)
    else:
        monkeypatch.setattr("transformers.utils.logging.get_verbosity", lambda: logging.ERROR)
    tell(plain, "golden set")
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("handlers", [0, 1])
def test_a_message_above_a_bar_is_shown_once(handlers, capsys, monkeypatch):
    """It was shown twice where nobody had set up logging: both loggers got a handler of tqdm's."""
    plain = set_up_by_nobody(monkeypatch)
    for _ in range(handlers):
        logging.basicConfig(format="[%(message)s]")
    with messages_above_bars():
        plain.warning("a caution")
    assert capsys.readouterr().err == ["a caution\n", "[a caution]\n"][handlers]


def test_a_log_file_alone_is_no_console(capsys, tmp_path, monkeypatch):
    plain = set_up_by_nobody(monkeypatch)
    logging.basicConfig(filename=tmp_path / "log.txt", format="%(message)s")
    with messages_above_bars():
        plain.warning("a caution")
    assert capsys.readouterr().err == "" and (tmp_path / "log.txt").read_text() == "a caution\n"
    logging.root.handlers[0].close()


def test_the_time_left_goes_by_work_where_that_is_known():
    with show_phase("Scoring", "pairs", 100, shown=False) as phase:
        phase._started -= 10
        phase.state.work_left = 900.0
        phase.advance(50, work=100.0)  # half of the pairs, but a ninth of the work
        assert phase.seconds_left() == pytest.approx(80, rel=0.01)


@pytest.mark.parametrize(("done", "shown"), [(4, "0.4/s"), (50, "5/s")])
def test_a_slow_phase_shows_a_speed_above_zero(done, shown):
    with show_phase("Scoring", "pairs", 100, shown=False) as phase:
        phase._started -= 10
        phase.advance(done)
        assert f" - {shown} - " in phase.describe()
