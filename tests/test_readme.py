"""A newcomer with the README alone: its commands, as they are written and in their order, then its Python blocks.

The README comes first and runs in every test run; the pages below docs/ run with `-m slow`. What runs is told in
tests/newcomer.py, with what stands in for a hub and what is added to keep it small. Not run are the commands in
`NOT_RUN`: `make test` and the linters cannot run inside the tests, so it is asserted that .ci/run calls them.
"""

from __future__ import annotations

from collections import Counter

import pytest
import trl

from tests import newcomer
from tests.documented import blocks_of, commands, pages
from tests.launch import ROOT

README = ROOT / "README.md"
GUIDES = [page for page in pages() if page != README]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    root = newcomer.clone(tmp_path_factory.mktemp("newcomer"))
    newcomer.furnish(root)
    return root


def run_page(page, root) -> int:
    """Run the commands of a page in their order; return how many ran."""
    shown = [command for command in commands(page) if newcomer.why_not(command) is None]
    for command in shown:
        newcomer.execute(command, root)
    return len(shown)


def test_the_commands_of_the_readme_run_in_their_order(place):
    assert run_page(README, place) >= 5


@pytest.mark.parametrize("number", range(len(blocks_of("python", README))))
def test_the_python_blocks_of_the_readme_run(number, place, monkeypatch):
    monkeypatch.chdir(place)
    monkeypatch.setattr(trl, "SFTConfig", newcomer.SmallSFTConfig)
    newcomer.execute_python(blocks_of("python", README)[number], {})


@pytest.mark.slow
@pytest.mark.parametrize("page", [pytest.param(page, id=page.stem) for page in GUIDES if commands(page)])
def test_the_commands_of_a_guide_run_in_their_order(page, tmp_path):
    root = newcomer.clone(tmp_path)
    newcomer.furnish(root)
    run_page(page, root)


def test_what_is_not_run_is_shown_and_has_a_reason():
    reasons = Counter(newcomer.why_not(command) for page in pages() for command in commands(page))
    assert set(reasons) - {None} == set(newcomer.NOT_RUN.values())  # no entry that nothing needs
    assert reasons[None] > 10


def test_ci_runs_what_cannot_run_inside_the_tests():
    script = (ROOT / ".ci" / "run").read_text()
    assert {"make test", "make lint"} <= set(script.splitlines())
