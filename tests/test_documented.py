"""Every command, code block and option that the documentation shows is read by the program it is for."""

from __future__ import annotations

import re

import pytest

from tests import documented
from tests.documented import LANGUAGES, blocks, blocks_of, commands, pages
from tests.launch import ROOT

PAGES = [pytest.param(page, id=page.relative_to(ROOT).as_posix()) for page in pages()]


@pytest.mark.parametrize("page", PAGES)
def test_every_command_is_parsed_by_its_program(page):
    for command in commands(page):
        documented.parse(command)


def test_commands_are_found():
    found = [documented.parse(command) for page in pages() for command in commands(page)]
    programs = {program for parts in found for program, _ in parts}
    assert {"make", "nuggets score", "nuggets plan", "recipes/train.py", "recipes/compare.py"} <= programs
    assert len(found) >= 20


@pytest.mark.parametrize("page", PAGES)
def test_no_block_escapes(page):
    """A command in a block of another kind (`sh`, `console`, an indented one) would be read by nobody."""
    unknown = [f"{block.where}: {block.language}" for block in blocks(page) if block.language not in LANGUAGES]
    assert not unknown


@pytest.mark.parametrize("page", PAGES)
def test_every_option_that_the_text_names_is_one_of_a_program(page):
    assert documented.inline_options(page) <= documented.known_options()


def test_python_blocks_compile_and_what_they_import_exists():
    for block in blocks_of("python"):
        documented.check_python(block)
    assert len(blocks_of("python")) >= 3


def test_yaml_blocks_are_read_by_the_program_they_are_for(tmp_path):
    for block in blocks_of("yaml"):
        documented.check_yaml(block, tmp_path)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("nugets score", "no entry for 'nugets'"),
        (
            "nuggets score --top_j 3 --dataset_name a --model_name_or_path b --score_dir s",
            "There is no option --top_j",
        ),
        ("nuggets report s && nuggets report s --plotz", "SystemExit"),
        ("accelerate launch --nprocs 2 recipes/train.py", "SystemExit"),
        ("python recipes/follows.py --score_dirs s", "SystemExit"),
        ("python recipes/nowhere.py", "nowhere"),
        ("make demos", "the Makefile has"),
        ('pip install ".[plots]"', "the extras are"),
    ],
)
def test_a_wrong_command_is_found(text, told):
    (command,) = documented.commands_of(documented.Block(ROOT / "README.md", 1, "bash", text))
    with pytest.raises(AssertionError, match=re.escape(told)):
        documented.parse(command)


def test_a_block_is_cut_into_commands():
    text = "# a comment\nnuggets report s  # it's done\n\nnuggets select s \\\n    --top_k 3 | head -1\n"
    first, second = documented.commands_of(documented.Block(ROOT / "README.md", 10, "bash", text))
    assert (first.line, first.bare, first.words) == (12, "nuggets report s", ["nuggets", "report", "s"])
    assert second.line == 14 and second.words[:4] == ["nuggets", "select", "s", "--top_k"]


@pytest.mark.parametrize(
    "text",
    [
        "from nuggets_trainer import score_pools",
        "from nuggets_trainer import NuggetsConfig\nNuggetsConfig(top_j=3)",
        "from nuggets_trainer import SelectedSFTTrainer\nSelectedSFTTrainer(nugget_config=None)",
    ],
)
def test_a_wrong_python_block_is_found(text):
    with pytest.raises(AssertionError, match="has no"):
        documented.check_python(documented.Block(ROOT / "README.md", 1, "python", text))
