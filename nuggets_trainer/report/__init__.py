"""Result files -> report.html, report.json, cards, a dataset.

Does not know models or pools: the files of a scoring run are enough.
"""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Iterator
from typing import Any

from nuggets_trainer.report.figures import read_figures
from nuggets_trainer.report.page import render_page
from nuggets_trainer.store.files import Place, join, make_directory, write_atomically

logger = logging.getLogger(__name__)


def write_report(score_dir: Place, output_dir: Place | None = None) -> dict[str, Any]:
    """Write a report on the scores in a directory.

    Args:
        score_dir: directory of a finished scoring run; a local path, or a URL for fsspec.
        output_dir: directory for report.html and report.json; None writes them beside the scores.

    Returns:
        The content of report.json.

    Raises:
        FileNotFoundError: if the scores are not there; the error says what to run.
    """
    figures = read_figures(score_dir)
    output_dir = score_dir if output_dir is None else output_dir
    make_directory(output_dir)
    write_atomically(join(output_dir, "report.json"), json.dumps(figures, allow_nan=False).encode())
    write_atomically(join(output_dir, "report.html"), render_page(figures).encode())
    return figures


def log_warnings(cautions: list[dict[str, str]], output_dir: Place) -> None:
    """Log the titles of the warnings in a report, because not everyone opens the page.

    Args:
        cautions: cautions of the report, as `write_report` returns them.
        output_dir: directory of the report.
    """
    titles = [caution["title"] for caution in cautions if caution["level"] == "warn"]
    for title in titles:
        logger.warning("Caution: %s.", title)
    if titles:
        logger.warning("What the cautions mean, and what to do: %s", join(output_dir, "report.html"))


@contextlib.contextmanager
def warn_instead_of_raising(score_dir: Place) -> Iterator[None]:
    """Turn any error inside into a warning: the scores are written by then, and training can go on."""
    try:
        yield
    except Exception as error:
        # No report is worth the hours of scoring before it or the training after it.
        logger.warning(
            "The scores in %s are complete, but the report could not be written: %s: %s. `nuggets report %s` tries "
            "again.",
            score_dir,
            type(error).__name__,
            error,
            score_dir,
            exc_info=True,
        )
