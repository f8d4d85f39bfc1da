"""The log has one page per subject, with the newest entry first, and an index of all pages."""

from __future__ import annotations

import re

import pytest

from tests.support.launch import ROOT

LOG = ROOT / "docs" / "log"
PAGES = sorted(path for path in LOG.glob("*.md") if path.stem != "index")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_log_entries_are_dated_newest_first(page):
    headings = re.findall(r"^## (.*)$", page.read_text(), flags=re.MULTILINE)
    dates = [heading.split(": ")[0] for heading in headings]
    assert dates
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\d", date) for date in dates), dates
    assert dates == sorted(dates, reverse=True)


def test_the_index_lists_every_page_of_the_log():
    index = (LOG / "index.md").read_text()
    listed = re.findall(r"^\| \[.*\]\((\w+)\.md\) \|", index, flags=re.MULTILINE)
    assert sorted(listed) == [page.stem for page in PAGES]
