"""Figures -> one HTML page that needs nothing else: no network, no fonts, no scripts but its own. Knows no files.

Every text goes through the template's escaping; the page's policy (CSP) lets no script run but the one it was made
with, no style but its own, and nothing be fetched. Characters that would act on their surroundings (controls,
directions) are shown by name.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import re
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup, escape

from nuggets_trainer.report import charts
from nuggets_trainer.report.verdicts import REASONS
from nuggets_trainer.wording import decimal, duration, visible

ASSETS = Path(__file__).parent / "assets"
TEXT_BUDGET = 1_200_000  # characters of all texts on a page
TEXT_LENGTHS = (2000, 1000, 500, 250, 100)
HEADING = 160


def render_page(figures: dict[str, Any]) -> str:
    """Return the page.

    Args:
        figures: from `read_figures`.
    """
    style, script = (Markup((ASSETS / name).read_text()) for name in ("report.css", "report.js"))
    return _template().render(
        **figures,
        style=style,
        script=script,
        policy=f"default-src 'none'; style-src '{_digest(style)}'; script-src '{_digest(script)}'",
        text_length=text_length(figures["rows"] + figures["anchors"]),
        charts=charts,
        reasons=REASONS,
        signal=signal_rows(figures["signal_check"]),
        statuses=statuses(figures["rows"]),
    )


@functools.cache
def _template() -> Template:
    environment = Environment(
        loader=FileSystemLoader(ASSETS),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"visible": visible, "decimal": decimal, "first_line": first_line, "duration": duration}
    environment.filters |= {"short_name": short_name, "with_code": with_code}
    return environment.get_template("report.html.jinja")


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def first_line(text: str) -> str:
    """Return the beginning of a text in one line."""
    line = " ".join(text[: 4 * HEADING].split())
    return visible(line if len(line) <= HEADING else line[:HEADING] + "\u2026")


def short_name(model: str) -> str:
    """Name a model as the hub does; of a local directory its last two parts."""
    return "/".join(Path(model).parts[-2:]) if Path(model).is_absolute() else model


def with_code(text: str) -> Markup:
    """Set what stands between backticks as code."""
    return Markup(re.sub("`(.+?)`", r"<code>\1</code>", str(escape(text))))


def text_length(rows: list[dict[str, Any]]) -> int:
    """Characters to show of each text, so that all of them together stay within the budget."""

    def total(length: int) -> int:
        return sum(min(length, len(row.get(name) or "")) for row in rows for name in ("prompt", "completion"))

    return next((length for length in TEXT_LENGTHS if total(length) <= TEXT_BUDGET), TEXT_LENGTHS[-1])


def signal_rows(check: Any) -> list[dict[str, Any]]:
    """Return the corruptions of a signal check; empty where there is none."""
    lists = [value for value in check.values() if isinstance(value, list)] if isinstance(check, dict) else []
    return [row for row in (lists[0] if lists else []) if isinstance(row, dict) and "corruption" in row]


def statuses(rows: list[dict[str, Any]]) -> dict[str, int]:
    """How many of the rows on the page became what."""
    order = ("kept", "tied", "below", "eliminated", "dropped")
    counts = {status: sum(row["status"] == status for row in rows) for status in order}
    return {status: count for status, count in counts.items() if count}
