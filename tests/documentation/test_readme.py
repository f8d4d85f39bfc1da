"""The commands and Python blocks of the README run as they are written, in their order, as a newcomer would run them.

They run in every test run. The commands of the guides, and a real clone in its own environment, run with `-m slow`.
tests/support/newcomer.py replaces the hub and adds options that keep commands small. Its `NOT_RUN` lists the commands
that are not run, each with its reason. `make test` and the linters cannot run inside the tests, so .ci/run must call
them.
"""

from __future__ import annotations

import ast
import sys
from collections import Counter

import pytest
import trl

from tests.support import documented, newcomer
from tests.support.documented import blocks_of, commands, pages
from tests.support.launch import ROOT, run

README = ROOT / "README.md"
GUIDES = [page for page in pages() if page != README]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Return a newcomer's clone, which all tests of this file share."""
    root = newcomer.clone(tmp_path_factory.mktemp("newcomer"))
    newcomer.furnish(root)
    return root


def run_page(page, root) -> list[str]:
    """Run the commands of a page in their order, and return the names of their programs."""
    shown = [command for command in commands(page) if newcomer.why_not(command.text) is None]
    for command in shown:
        newcomer.execute(command, root)
    return [program for command in shown for program, _ in documented.parse(command)]


def run_python(page, root, monkeypatch) -> None:
    """Run the Python blocks of a page, each with the names that earlier blocks have made."""
    monkeypatch.chdir(root)
    monkeypatch.setattr(trl, "SFTConfig", newcomer.SmallSFTConfig)
    monkeypatch.setattr("trl.trainer.sft_trainer.SFTConfig", newcomer.SmallSFTConfig)  # where no `args` are given
    names = {"__name__": "__main__"}
    for block in blocks_of("python", page):
        newcomer.execute_python(block, names)


def test_the_commands_of_the_readme_run_in_their_order(root):
    ran = run_page(README, root)
    assert ran[:3] == ["nuggets inspect", "nuggets plan", "nuggets train"]
    assert ran[3:] == ["nuggets score", "nuggets select", "nuggets report", "nuggets compare"]


def test_the_python_blocks_of_the_readme_run(root, monkeypatch):
    assert blocks_of("python", README)
    run_python(README, root, monkeypatch)


@pytest.fixture(scope="module")
def root_after_readme(root):
    run_page(README, root)
    return root


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("page", [pytest.param(page, id=page.stem) for page in GUIDES if commands(page)])
def test_the_commands_of_a_guide_run_in_their_order(page, root_after_readme):
    run_page(page, root_after_readme)


@pytest.mark.slow
@pytest.mark.parametrize("page", [pytest.param(page, id=page.stem) for page in GUIDES if blocks_of("python", page)])
def test_the_python_blocks_of_a_guide_run(page, root_after_readme, monkeypatch):
    run_python(page, root_after_readme, monkeypatch)


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_a_fresh_clone_needs_nothing_but_the_readme(tmp_path):
    """The first command makes an environment and installs torch (some minutes), then the first steps run in full."""
    root = tmp_path / "nuggets_trainer"
    run(["git", "clone", "--quiet", str(ROOT), str(root)])
    shown_blocks = [block.text for block in blocks_of("bash", README)]
    assert any(text.startswith("make demo") for text in shown_blocks)
    own = {"cwd": root, "timeout": 2400, "PYTHON": sys.executable, "PYTHONPATH": ""}
    shown = run(["make", "demo"], **own)
    for line in ("clean rows in the golden set", "held-out loss, golden set"):
        assert line in shown
    steps = next(text for text in shown_blocks if "nuggets-demo/pool" in text)  # needs no network
    assert "`source .venv/bin/activate`" in README.read_text()
    shown = run(["bash", "-euxo", "pipefail", "-c", f"source .venv/bin/activate\n{steps}"], **own)
    assert f"{root}/.venv/bin" in run(["bash", "-c", "source .venv/bin/activate; type nuggets"], **own)
    assert len((root / "golden50.jsonl").read_text().splitlines()) == 50
    assert (root / "scores" / "report.html").is_file()


def test_what_is_not_run_is_shown_and_has_a_reason():
    shown = [command.text for page in pages() for command in commands(page)]
    shown += [ast.unparse(statement) for block in blocks_of("python") for statement in ast.parse(block.text).body]
    reasons = Counter(map(newcomer.why_not, shown))
    assert set(reasons) - {None} == set(newcomer.NOT_RUN.values())  # no entry that nothing needs
    assert reasons[None] > 10


def test_ci_runs_what_cannot_run_inside_the_tests():
    script = (ROOT / ".ci" / "run").read_text()
    assert {"make test", "make lint"} <= set(script.splitlines())
