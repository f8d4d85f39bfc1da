"""Figures -> one HTML page that needs nothing else: no network, no fonts, no scripts but its own.

Every text goes through the template's escaping. The page's policy (CSP) allows only the script and the style that it
was made with, and lets nothing be fetched. Characters that would act on their surroundings (controls, directions) are
shown by name.
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
from nuggets_trainer.report.verdicts import REASONS, UNKNOWN_REASON
from nuggets_trainer.wording import counted, decimal, duration, visible

ASSETS = Path(__file__).parent / "assets"
TEXT_BUDGET = 1_200_000  # characters of all texts on a page
TEXT_LENGTHS = (2000, 1000, 500, 250, 100)
HEADING = 160  # characters
STATUSES = ("kept", "tied", "below", "eliminated", "dropped")


def render_page(figures: dict[str, Any]) -> str:
    """Return the HTML of a report.

    Args:
        figures: content of report.json, from `read_figures`.
    """
    return render_template(
        "report.html.jinja",
        script="report.js",
        **figures,
        text_length=text_length(figures["rows"] + figures["anchors"]),
        charts=charts,
        reasons=REASONS,
        unknown_reason=UNKNOWN_REASON,
        signal=signal_rows(figures["signal_check"]),
        statuses=status_counts(figures["rows"]),
    )


def render_template(name: str, script: str | None = None, **values: Any) -> str:
    """Fill a page with values, in the style of the report and under a policy that allows only what the page has.

    Args:
        name: file of the template.
        script: file of the page's script; None if it has none.
        values: values of the template.
    """
    style = Markup((ASSETS / "report.css").read_text(encoding="utf-8"))
    policy = f"default-src 'none'; style-src '{_digest(style)}'"
    if script is not None:
        text = Markup((ASSETS / script).read_text(encoding="utf-8"))
        policy += f"; script-src '{_digest(text)}'"
        values["script"] = text
    return _template(name).render(**values, style=style, policy=policy)


@functools.cache
def _template(name: str) -> Template:
    environment = Environment(
        loader=FileSystemLoader(ASSETS),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    for function in (counted, decimal, duration, first_line, share, short_name, visible, with_code):
        environment.filters[function.__name__] = function
    return environment.get_template(name)


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def first_line(text: str) -> str:
    """Return the beginning of a text in one line."""
    line = " ".join(text[: 4 * HEADING].split())
    if len(line) > HEADING:
        line = line[:HEADING] + "\u2026"
    return visible(line)


def share(value: float | None, digits: int = 0) -> str:
    """Write a share in percent; a dash for None.

    Example:
        >>> share(0.512), share(0.0512, 1), share(None)
        ('51%', '5.1%', '\u2013')
    """
    return "\u2013" if value is None else f"{value:.{digits}%}"


def short_name(model: str) -> str:
    """Name a model as the hub does; a local directory is named by its last two parts."""
    return "/".join(Path(model).parts[-2:]) if Path(model).is_absolute() else model


def with_code(text: str) -> Markup:
    """Mark up what stands between backticks as code."""
    return Markup(re.sub("`(.+?)`", r"<code>\1</code>", str(escape(text))))


def text_length(rows: list[dict[str, Any]]) -> int:
    """Return the number of characters to show of each text, so that all texts together stay within the budget."""
    lengths = []
    for row in rows:
        lengths += [len(row.get("prompt") or ""), len(row.get("completion") or "")]
    for limit in TEXT_LENGTHS:
        if sum(min(limit, length) for length in lengths) <= TEXT_BUDGET:
            return limit
    return TEXT_LENGTHS[-1]


def signal_rows(check: Any) -> list[dict[str, Any]]:
    """Return the corruptions of a signal check; an empty list if there is none."""
    found = check.get("corruptions") if isinstance(check, dict) else None
    if not isinstance(found, list):
        return []
    return [row for row in found if isinstance(row, dict) and "corruption" in row]


def status_counts(rows: list[dict[str, Any]]) -> dict[str, int]:
    """Count the rows on the page by what became of them."""
    counts = {}
    for status in STATUSES:
        number = sum(row["status"] == status for row in rows)
        if number:
            counts[status] = number
    return counts
