"""The commands, code blocks and options of the documentation are valid, and its lists are complete.

tests/documentation/test_readme.py runs the commands of the README.
"""

from __future__ import annotations

import re

import pytest

from nuggets_trainer.comparison.arms import ARMS, BASE_LABEL, DEFAULT_ARMS
from tests.support import documented
from tests.support.documented import LANGUAGES, blocks, blocks_of, commands, pages
from tests.support.launch import ROOT

README = (ROOT / "README.md").read_text()
GUIDES = ROOT / "docs" / "guides"
PAGES = [pytest.param(page, id=page.relative_to(ROOT).as_posix()) for page in pages()]


@pytest.mark.parametrize("page", PAGES)
def test_every_command_is_parsed_by_its_program(page):
    for command in commands(page):
        assert documented.parse(command), command  # it raises where the program refuses the command


def test_commands_are_found():
    found = [documented.parse(command) for page in pages() for command in commands(page)]
    programs = {program for parts in found for program, _ in parts}
    assert {"make", "nuggets score", "nuggets plan", "recipes/train.py", "nuggets compare"} <= programs
    assert len(found) >= 20


def test_launch_lines_are_parsed_by_their_programs():
    scripts = sorted((ROOT / "recipes").rglob("*.py"))
    configs = sorted((ROOT / "configs").rglob("*.yaml"))
    lines = {path: documented.launch_lines(path) for path in [*scripts, *configs]}
    for command in (command for shown in lines.values() for command in shown):
        documented.parse(command)
    assert all(lines[path] for path in configs)
    assert sum(map(len, lines.values())) >= 30


@pytest.mark.parametrize("page", PAGES)
def test_every_block_has_a_tested_language(page):
    """Commands in other blocks (`sh`, `console`, indented ones) would not be tested."""
    unknown = [f"{block.where}: {block.language}" for block in blocks(page) if block.language not in LANGUAGES]
    assert not unknown


@pytest.mark.parametrize("page", PAGES)
def test_every_option_in_the_text_exists(page):
    assert documented.inline_options(page) <= documented.known_options()


def test_python_blocks_compile_and_their_imports_exist():
    for block in blocks_of("python"):
        documented.check_python(block)
    assert len(blocks_of("python")) >= 3


def test_yaml_blocks_are_read_by_their_program(tmp_path):
    for block in blocks_of("yaml"):
        documented.check_yaml(block, tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
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
def test_a_wrong_command_is_found(text, message):
    (command,) = documented.commands_of(documented.Block(ROOT / "README.md", 1, "bash", text))
    with pytest.raises(AssertionError, match=re.escape(message)):
        documented.parse(command)


def test_a_block_is_split_into_commands():
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


def test_the_command_line_guide_lists_every_script():
    recipes = (GUIDES / "command_line.md").read_text().split("\n## Recipes\n")[1]
    named = set(re.findall(r"^\| `recipes/([\w/]+)\.py` \|", recipes, flags=re.MULTILINE))
    top_level = {path.stem for path in (ROOT / "recipes").glob("*.py") if "__main__" in path.read_text()}
    assert named == {*top_level, "bench/race", "bench/gpu"}


def test_configs_are_listed():
    guide = (GUIDES / "getting_started.md").read_text()
    for path in [*(ROOT / "configs").glob("*.yaml"), *(ROOT / "configs" / "paper").glob("*.yaml")]:
        assert f"`{path.relative_to(ROOT)}`" in guide


def test_the_summary_of_the_demo_is_shown():
    guide = (GUIDES / "getting_started.md").read_text()
    for line in (
        "clean rows in the golden set",
        "held-out loss, golden set",
        "held-out loss, random set of the same size",
    ):
        assert re.search(rf"^{line} +[0-9.]+", guide, flags=re.MULTILINE)
    assert not re.search(r"\b[A-Z]+_[A-Z]+\b", README)  # no placeholder left


def test_the_comparison_shows_every_arm_at_every_size():
    section = (GUIDES / "does_it_pay.md").read_text()
    rows = [[cell.strip() for cell in line.split("|")] for line in section.splitlines() if line.startswith("| ")]
    labels = {BASE_LABEL, *(ARMS[arm].label for arm in DEFAULT_ARMS)}
    shown = [(row[1], row[2]) for row in rows if len(row) > 5 and row[2] in labels]
    assert {label for _, label in shown} == labels
    assert {fraction for fraction, _ in shown} == {"", "1%", "5%", "10%", "25%"}
    assert len(shown) == 2 + 4 * (len(DEFAULT_ARMS) - 1)  # the base model and the full pool have no size
    plot = re.search(r"!\[[^]]*\]\(([^)]+)\)", section)
    assert plot and (GUIDES / plot.group(1)).is_file()
