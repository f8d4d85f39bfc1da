"""The difference of two golden sets as one HTML page, in the style of the report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from nuggets_trainer.golden.ranking import RankedValue, ranked_value
from nuggets_trainer.report.difference import Difference
from nuggets_trainer.report.page import render_template, text_length
from nuggets_trainer.store.files import Place
from nuggets_trainer.store.read_results import read_optional, read_scores, read_shown_rows
from nuggets_trainer.store.run_info import RUN_FILE
from nuggets_trainer.store.shown_rows import texts_of
from nuggets_trainer.store.stored_scores import StoredScores
from nuggets_trainer.version import VERSION
from nuggets_trainer.wording import decimal, tally

MOST_ROWS = 200  # rows that each set alone has, on the page
TOPS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5)  # shares of the pool whose best rows are compared
LETTERS = ("A", "B")


def write_difference_page(found: Difference, places: tuple[Place, Place], file: str) -> None:
    """Write the page.

    Args:
        found: result of `difference`.
        places: directories or URLs of the two runs.
        file: path of the page, which ends in .html.

    Raises:
        ValueError: if it does not.
    """
    check_page_file(file)
    path = Path(file)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(render_difference(found, places), encoding="utf-8")


def check_page_file(file: str) -> None:
    """Refuse a page of another type than HTML, before any work.

    Raises:
        ValueError: if the name does not end in .html.
    """
    if Path(file).suffix != ".html":
        raise ValueError(f"`output_file` must end in .html, got {file!r}. `--json` gives the numbers.")


def render_difference(found: Difference, places: tuple[Place, Place]) -> str:
    """Return the HTML of the page.

    Args:
        found: result of `difference`.
        places: directories or URLs of the two runs.
    """
    scores = read_scores(places[0]), read_scores(places[1])
    texts = {**_texts(places[1]), **_texts(places[0])}
    ranked = [_ranked(place) for place in places]
    sets: list[dict[str, Any]] = []
    for place in (0, 1):
        own: dict[str, Any] = {
            "letter": LETTERS[place],
            "name": found.names[place],
            "size": found.sizes[place],
            "num_alone": len(found.alone[place]),
            "missing": tally(found.missing[place]),
            "words": ranked[place].words,
            "rows": _rows(found, place, scores, ranked, texts),
        }
        sets.append(own)
    return render_template(
        "diff.html.jinja",
        version=VERSION,
        sets=sets,
        num_rows=found.num_rows,
        num_shared=len(found.shared),
        by_chance=found.expected,
        correlation=found.correlation,
        num_ranked=found.num_ranked,
        options=found.options,
        tops=shared_tops(scores[0], scores[1]),
        text_length=text_length(sets[0]["rows"] + sets[1]["rows"]),
    )


def shared_tops(first: StoredScores, second: StoredScores) -> list[dict[str, int]]:
    """Count the rows that the best rows of two rankings share, for several numbers of best rows.

    Args:
        first: scores of one run.
        second: scores of another run over the same pool.

    Returns:
        `number` of best rows and `shared` ones; only for numbers of rows that both rankings have.
    """
    most = min(int(first.rank.max(initial=0)), int(second.rank.max(initial=0)))
    tops = []
    for number in dict.fromkeys(round(share * len(first)) for share in TOPS):
        if 0 < number <= most:
            own = (first.rank > 0) & (first.rank <= number)
            shared = own & (second.rank > 0) & (second.rank <= number)
            tops.append({"number": number, "shared": int(shared.sum())})
    return tops


def _ranked(place: Place) -> RankedValue:
    """Return the value that a run ranked its rows by; the golden score if it has no run.json."""
    run = read_optional(place, RUN_FILE)
    name = run.get("rank_by") if isinstance(run, dict) else None
    return ranked_value(name or "golden_score")


def _texts(place: Place) -> dict[int, dict[str, Any]]:
    """Return the texts that a run has kept, by pool index; none if it has kept no rows."""
    try:
        rows = read_shown_rows(place).to_pylist()
    except FileNotFoundError:
        return {}
    texts = {}
    for row in rows:
        if row["index"] is not None and row["anchor"] is None and row["completion"] is not None:
            texts[row["index"]] = texts_of(row)
    return texts


def _rows(
    found: Difference,
    place: int,
    scores: tuple[StoredScores, StoredScores],
    ranked: list[RankedValue],
    texts: dict[int, dict[str, Any]],
) -> list[dict[str, Any]]:
    """Return the best rows that one set alone has."""
    own, other = scores[place], scores[1 - place]
    rows = []
    for index, rank in zip(found.alone[place][:MOST_ROWS].tolist(), found.other_rank[place].tolist(), strict=False):
        known = texts.get(index, {"prompt": None, "completion": None})
        reason = other.reason[index]
        rows.append(
            {
                "index": index,
                "rank": int(own.rank[index]),
                "other_rank": rank,
                "reason": other.reasons[reason] if reason >= 0 else "stopped",
                "value": _written(own, ranked[place], index),
                "other_value": _written(other, ranked[1 - place], index),
                "prompt": known["prompt"] or "",
                "completion": known["completion"],
            }
        )
    return rows


def _written(scores: StoredScores, ranked: RankedValue, index: int) -> str:
    value = ranked.of(scores)[index]
    return decimal(None if np.isnan(value) else float(value), ranked.decimals)
