"""An inspection in a terminal of 80 columns, in a file and in a notebook."""

from __future__ import annotations

import io
import re
from html.parser import HTMLParser

import pytest
from datasets import Dataset
from rich.cells import cell_len

from nuggets_trainer import inspect_pool
from nuggets_trainer.inspection.text import print_text
from tests.support.hostile import HOSTILE, hostile_rows

ESCAPES = re.compile(r"\x1b\[[0-9;]*m")


class Terminal(io.StringIO):
    """A stream that is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture(scope="module")
def hostile(tokenizer):
    rows = [row for row in hostile_rows() if len(row["output"]) < 20_000]  # longer ones take a second
    return inspect_pool(tokenizer, Dataset.from_list(rows), Dataset.from_list(rows[:3]), num_rows=99)


@pytest.fixture()
def terminal(monkeypatch):
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "80")
    return Terminal()


def test_it_fits_in_80_columns_whatever_the_rows_say(hostile):
    text = str(hostile)
    assert max(map(cell_len, text.splitlines())) <= 80
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e\u2066-\u2069]", text)
    assert len(text) < 60_000  # long rows are cut
    assert "more characters" in text and str(hostile) == repr(hostile)


def test_a_notebook_gets_the_page_alone(hostile, monkeypatch, capsys):
    """Jupyter asks for the text beside the page, and rich showed it there instead of writing it into a buffer."""
    text = str(hostile)
    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
    assert repr(hostile) == text != ""
    assert capsys.readouterr().out == ""


def test_a_terminal_gets_colours_and_the_same_text(hostile, terminal):
    print_text(hostile, terminal)
    coloured = terminal.getvalue()
    assert "\x1b[1;32m" in coloured  # scored tokens
    plain = [line.rstrip() for line in ESCAPES.sub("", coloured).splitlines()]
    assert "\n".join(plain).rstrip() == str(hostile)


def test_no_color_leaves_colours_out(hostile, terminal, monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    print_text(hostile, terminal)
    assert not re.search(r"\x1b\[[0-9;]*3[0-9]m", terminal.getvalue())
    file = io.StringIO()
    print_text(hostile, file)
    assert file.getvalue() == f"{hostile}\n"


def test_line_breaks_of_a_row_are_seen(tokenizer):
    rows = Dataset.from_list([{"text": "one\n\ntwo\n"}, {"text": "three"}])
    assert "one⏎\n          │ ⏎\n          │ two⏎" in str(inspect_pool(tokenizer, rows, indices=[0]))


class Elements(HTMLParser):
    """Collects the names of elements, and all text."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()
        self.attributes: set[str] = set()
        self.text = ""

    def handle_starttag(self, tag, attributes):
        self.names.add(tag)
        self.attributes |= {name for name, _ in attributes}

    def handle_data(self, data):
        self.text += data


def test_html_shows_rows_as_text(hostile):
    page = Elements()
    page.feed(hostile._repr_html_())
    allowed = {"div", "style", "p", "strong", "table", "tr", "th", "td", "br", "mark", "span", "pre", "code"}
    assert page.names <= allowed and page.attributes <= {"class", "title"}
    assert HOSTILE["attribute"] in page.text and HOSTILE["template"] in page.text
    assert "\x1b" not in page.text and "\u202e" not in page.text
