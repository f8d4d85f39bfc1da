"""`nuggets diff`: what two golden sets of one pool share, and where they differ. Loads no model."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from nuggets_trainer.commands import EXIT_CODES, description
from nuggets_trainer.commands.output import stdout_kept_for_result, write_result
from nuggets_trainer.commands.parser import HelpFormatter, Parser

EPILOG = f"""examples:
  nuggets diff scores scores-of-another-model
  nuggets diff scores scores-of-another-model --json

{EXIT_CODES}"""


def make_diff_parser() -> argparse.ArgumentParser:
    """Make the parser of the command."""
    parser = Parser(
        prog="nuggets diff",
        usage="nuggets diff A B [--json]",
        description=description("diff"),
        epilog=EPILOG,
        formatter_class=HelpFormatter,
    )
    for name, metavar in (("score_dir", "A"), ("other_dir", "B")):
        parser.add_argument(name, metavar=metavar, help="Directory or URL with the scores.parquet of a run.")
    text = "Print one JSON object on stdout: the rows of both, of each alone, and their ranks in the other."
    parser.add_argument("--json", action="store_true", help=text)
    return parser


def parse(argv: Sequence[str]) -> tuple[str, str, bool]:
    """Read the command line."""
    options = make_diff_parser().parse_args(list(argv))
    return options.score_dir, options.other_dir, options.json


def run(score_dir: str, other_dir: str, as_json: bool) -> None:
    """Compare the two golden sets, and print what they share."""
    from nuggets_trainer.report.difference import difference

    with stdout_kept_for_result() as stdout:
        found = difference(score_dir, other_dir)
        write_result(stdout, found.as_json(), found.describe(), as_json)
