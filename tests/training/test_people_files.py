"""Files as people have them: what `nuggets inspect` says of each, what is scored and what is trained on agree."""

from __future__ import annotations

import re

import pytest
from trl import SFTConfig

from nuggets_trainer.inspection.render import MAX_LENGTH_OF_TRL, MERGED_SEAM
from nuggets_trainer.prompts.shown import NOT_SHOWN
from tests.support.launch import ROOT
from tests.support.people_files import FILES, PeopleFile
from tests.support.people_table import line, look_at, trained_on

pytestmark = pytest.mark.filterwarnings("ignore")  # what TRL and torch announce of their own options is theirs

PAGE = (ROOT / "docs" / "guides" / "files_people_have.md").read_text()
REFUSED = {"raw.txt", "wrapped.json", "latin.jsonl", "unicode.csv", "header.csv", "nothing.jsonl"}
MERGED = {"export.csv": [2]}  # a space at the end of a prompt


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_what_is_scored_is_what_is_trained_on(file: PeopleFile, tmp_path):
    """Token for token, by the real preparation of the trainer; the page has the line of the table."""
    outcome = look_at(file, tmp_path)
    assert line(file, outcome) in PAGE.splitlines(), "run python -m tests.support.people_table, and mend the page"
    assert bool(outcome.error) == (file.name in REFUSED)
    if outcome.prepared is None or outcome.found is None:
        return
    # The trainer prepares what it can read; a row that the template does not show is dropped when it is scored.
    readable = [view for view in outcome.found.rows if view.dropped in (None, NOT_SHOWN)]
    assert len(readable) == len(outcome.prepared) > 0
    views = [view for view in readable if view.dropped is None]
    merged = [view.index for view in views if MERGED_SEAM in view.remarks]
    assert merged == MERGED.get(file.name, [])
    for view, prepared in zip(readable, outcome.prepared, strict=True):
        if view.dropped is not None:
            continue
        is_same = list(view.token_ids) == prepared["input_ids"] and list(view.trained_on) == trained_on(prepared)
        assert is_same != (view.index in merged), view.index
        assert set(view.scored) <= set(view.trained_on)
        shown = "".join(span.text for span in view.spans if span.kind == "scored")
        assert shown  # an anchor is scored behind each row


def test_the_page_has_no_other_files():
    named = re.findall(r"^\| `([\w.]+)`:", PAGE, flags=re.MULTILINE)
    assert named == [file.name for file in FILES] and len(named) >= 25


def test_the_length_that_training_cuts_at_is_trls():
    assert SFTConfig.__dataclass_fields__["max_length"].default == MAX_LENGTH_OF_TRL


def test_numbers_become_text_for_scoring_and_training(tmp_path):
    """All rows of such a file were dropped, because a number is no text."""
    (file,) = [file for file in FILES if file.name == "numbers.jsonl"]
    outcome = look_at(file, tmp_path)
    assert [row.dropped for row in outcome.found.rows] == [None, None]
    assert [span.text for row in outcome.found.rows for span in row.spans if span.kind == "answer"] == [
        " 42</s>",
        " -2</s>",
    ]
