"""A recipe ends as a command does: a user's mistake is one message, a defect has its traceback."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.support.documented import recipe
from tests.support.launch import ROOT, environment

RECIPES = sorted(path.stem for path in (ROOT / "recipes").glob("*.py"))


# Its check arises in the script itself, outside of the package, as those of control.py and follows.py do.
SCRIPT = """
import sys
from nuggets_trainer.cli import run_program

def run(word):
    if word == "defect":
        {}["missing"]
    raise ValueError("`num_rows` must be 1, got 2.")

sys.exit(run_program(sys.argv[0], tuple, run))
"""


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_ends_by_the_shared_function(name):
    text = (ROOT / "recipes" / f"{name}.py").read_text()
    assert "    sys.exit(run_program(sys.argv[0], parse, " in text.split('if __name__ == "__main__":')[1]


def test_a_mistake_is_one_message_and_a_defect_is_not(monkeypatch, capsys):
    """Each ended in a traceback, where `nuggets` prints one line for the same mistake."""
    from nuggets_trainer.cli import run_program

    control, wrong = recipe("control"), ["--bf16", "false", "--top_frction", "1"]
    assert run_program("recipes/control.py", control.parse, control.run, wrong) == 2
    told = capsys.readouterr().err
    assert told.startswith("recipes/control.py: error: There is no option --top_frction") and told.count("\n") == 2
    assert "`recipes/control.py --help` lists the options; NUGGETS_DEBUG=1 shows where it arose." in told
    monkeypatch.setenv("NUGGETS_DEBUG", "1")
    assert run_program("recipes/control.py", control.parse, control.run, wrong) == 1
    assert "Traceback" in capsys.readouterr().err
    monkeypatch.delenv("NUGGETS_DEBUG")
    assert run_program("recipes/control.py", lambda _: ({},), lambda found: found["missing"], []) == 1
    assert "KeyError" in capsys.readouterr().err


@pytest.mark.parametrize("word", ["mistake", "defect"])
def test_the_own_checks_of_a_recipe_are_messages(word, tmp_path):
    (tmp_path / "own.py").write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, "own.py", word],
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
        env={**environment(), "PYTHONPATH": str(ROOT)},
        cwd=tmp_path,
    )
    is_message = done.stderr.startswith("own.py: error: `num_rows` must be 1, got 2.\n")
    assert (done.returncode, is_message, "Traceback" in done.stderr) == (1, word == "mistake", word == "defect")
