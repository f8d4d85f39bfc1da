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
        score_dir: of a scoring run that is over; a local path, or a URL for fsspec.
        output_dir: where to; default: beside the scores.

    Returns:
        What report.json holds.

    Raises:
        FileNotFoundError: if the scores are not there, with what to do.
    """
    figures = read_figures(score_dir)
    output_dir = score_dir if output_dir is None else output_dir
    make_directory(output_dir)
    write_atomically(join(output_dir, "report.json"), json.dumps(figures, allow_nan=False).encode())
    write_atomically(join(output_dir, "report.html"), render_page(figures).encode())
    return figures


def tell_warnings(cautions: list[dict[str, str]], output_dir: Place) -> None:
    """Log the warnings among the cautions of a report, by title: not everyone opens the page.

    Args:
        cautions: of `write_report`.
        output_dir: where the report is.
    """
    titles = [caution["title"] for caution in cautions if caution["level"] == "warn"]
    for title in titles:
        logger.warning("Caution: %s.", title)
    if titles:
        logger.warning("What that means, and what to do: %s", join(output_dir, "report.html"))


@contextlib.contextmanager
def warn_instead_of_raising(score_dir: Place) -> Iterator[None]:
    """Warn of whatever goes wrong inside: scores are written by then, and training goes on."""
    try:
        yield
    except Exception as error:
        # worth the hours of scoring before it or the training after it
        logger.warning(
            "The scores in %s are whole, but there is no report on them: %s: %s. `nuggets report %s` tries again.",
            score_dir,
            type(error).__name__,
            error,
            score_dir,
            exc_info=True,
        )
