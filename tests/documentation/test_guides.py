"""The tables of the guides list everything that the code has: drop reasons, cautions, columns, the fingerprint."""

from __future__ import annotations

import ast
import json
import re

import pyarrow.parquet as pq
import pytest

from nuggets_trainer import NuggetsConfig, Pool, load_rows, load_scorer, score_pool
from nuggets_trainer.commands import COMMANDS, EXIT_CODES
from nuggets_trainer.golden.limits import FAILS_REQUIRE, NO_SIGNAL, UNWANTED
from nuggets_trainer.prompts import shown
from nuggets_trainer.report.verdicts import REASONS
from nuggets_trainer.training.training_set import UNTRAINABLE
from tests.support.launch import ROOT

PACKAGE = ROOT / "nuggets_trainer"
YOUR_DATA, REPORT, COMMAND_LINE, RESUMING = (
    (ROOT / "docs" / "guides" / f"{name}.md").read_text()
    for name in ("your_data", "reading_the_report", "command_line", "resuming")
)
FILES = (ROOT / "docs" / "reference" / "files.md").read_text()


def section(page: str, heading: str) -> str:
    """Return the text below a heading, up to the next heading of any level."""
    return re.split(r"^#+ ", page.split(f" {heading}\n", 1)[1], maxsplit=1, flags=re.MULTILINE)[0]


def first_cells(text: str) -> list[str]:
    """Return the first cell of each table row, without the table heads."""
    cells = re.findall(r"^\| (.*?) \|", text, flags=re.MULTILINE)
    return [cell for place, cell in enumerate(cells) if "---" not in cells[place : place + 2]]


def code_in(cells: list[str]) -> set[str]:
    return {name for cell in cells for name in re.findall(r"`([^`]+)`", cell)}


def reasons_in_the_code() -> set[str]:
    """Return the reasons of all `UnusableRowError`s, and those that are set without one."""
    found = {UNTRAINABLE, FAILS_REQUIRE, NO_SIGNAL, *UNWANTED, "non_finite_log_prob", "no_scored_anchor"}
    for path in PACKAGE.rglob("*.py"):
        text = path.read_text()
        for name in re.findall(r"UnusableRowError\(([A-Z_]+)\)", text):
            found.add(getattr(shown, name))
        for written in re.findall(r'UnusableRowError\((f?"[^"]+")\)', text):
            parts = ("prompt", "completion") if "{part}" in written else ("",)
            found |= {ast.literal_eval(written.removeprefix("f").replace("{part}", part)) for part in parts}
    return found


def test_every_drop_reason_is_explained():
    reasons = reasons_in_the_code()
    assert len(reasons) > 15
    assert set(REASONS) <= reasons
    assert code_in(first_cells(section(YOUR_DATA, "What is dropped"))) == reasons


def cautions_in_the_code() -> list[tuple[str, str]]:
    """Return, for each caution, the function that makes it and the longest constant part of its title."""
    found = []
    for node in ast.walk(ast.parse((PACKAGE / "report" / "cautions.py").read_text())):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("_warn", "_note", "level"):
            title = node.args[0]
            pieces = title.values if isinstance(title, ast.JoinedStr) else [title]
            texts = [str(piece.value).strip(" :") for piece in pieces if isinstance(piece, ast.Constant)]
            found.append((ast.unparse(node.func), max(texts, key=len)))
    return found


def test_every_caution_is_explained_with_its_level():
    cells, cautions = first_cells(section(REPORT, "Cautions")), cautions_in_the_code()
    assert len(cells) == len(cautions) >= 16
    for made_by, title in cautions:
        either = r"\(a warning above (20|5)%, else a note\)"
        level = {"_warn": r"\(warning\)", "_note": r"\(note\)", "level": either}[made_by]
        assert [cell for cell in cells if title in cell and re.search(f"{level}$", cell)], (title, level)


def test_every_command_and_exit_code_is_explained():
    commands = {f"nuggets {name}" for name in COMMANDS}
    assert commands == {name for name in code_in(first_cells(COMMAND_LINE)) if name.startswith("nuggets ")}
    for code, meaning in re.findall(r"^  (\d+) +(.*)$", EXIT_CODES, flags=re.MULTILINE):
        assert f"| {code} | {meaning} |" in COMMAND_LINE


@pytest.fixture(scope="module")
def score_dir(tmp_path_factory):
    """Score a few rows with two anchor sets and a measured condition, so that every column and key exists."""
    directory = tmp_path_factory.mktemp("scores")
    pool, anchors = load_rows("nuggets-demo/pool").select(range(12)), load_rows("nuggets-demo/anchors")
    signals = {"signal_check": True, "ica": True, "row_signals": True}
    score_pool(
        *load_scorer("nuggets-demo/model"),
        Pool(pool),
        {"a": Pool(anchors.select(range(2))), "b": Pool(anchors.select(range(2, 4)))},
        config=NuggetsConfig(top_k=3, require="num_tokens >= p0", require_recall=0.5, **signals),
        score_dir=directory,
    )
    return directory


@pytest.mark.parametrize("name", ["scores.parquet", "anchors.parquet", "pairs.parquet"])
def test_every_column_is_listed_in_its_place(name, score_dir):
    listed = [cell.strip("`") for cell in first_cells(section(FILES, name))]
    columns = pq.read_schema(score_dir / name).names
    if name == "scores.parquet":
        columns = [re.sub("^golden_score_[ab]$", "golden_score_<set>", column) for column in columns]
    assert listed == list(dict.fromkeys(columns))


def test_every_file_is_listed_with_its_keys(score_dir):
    names = {f"`{path.name}`" for path in score_dir.iterdir() if path.is_file()}
    assert len(names) == 8 and all(name in FILES for name in names)
    run = json.loads((score_dir / "run.json").read_text())
    listed = code_in(first_cells(section(FILES, "run.json, rows.parquet")))
    rows = set(pq.read_schema(score_dir / "rows.parquet").names)
    assert listed == {*run, *rows}
    check = json.loads((score_dir / "signal_check.json").read_text())
    listed = code_in([section(FILES, "signal_check.json")])
    assert {*check, *check["corruptions"][0]} <= listed


def test_every_field_of_the_fingerprint_is_listed(score_dir):
    table, _ = section(RESUMING, "What makes scores invalid").split("If a field differs")
    listed = code_in(first_cells(table))
    fields = json.loads(next(score_dir.glob("*/manifest.json")).read_text())["fields"]
    assert len(fields) >= 9
    # The fields of reselection, of a loss on assistant turns, of tokenizers that differ from most, and of GPUs.
    assert listed - {*fields} == {
        *("adapter_sha256", "training_chat_template_sha256", "assistant_tokens"),
        *("split_special_tokens", "tokenizer_files_sha256", "logits"),
    }
    assert {*fields} <= listed
