"""`nuggets diff`: what two golden sets of one pool share, and where they differ. Loads no model."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from nuggets_trainer.commands import EXIT_CODES, description
from nuggets_trainer.commands.output import stdout_kept_for_result, write_result
from nuggets_trainer.commands.parser import HelpFormatter, Parser

EPILOG = f"""examples:
  nuggets diff scores scores-of-another-model
  nuggets diff scores scores-of-another-model --output_file diff.html
  nuggets diff scores scores-of-another-model --json

{EXIT_CODES}"""


def make_diff_parser() -> argparse.ArgumentParser:
    """Make the parser of the command."""
    parser = Parser(
        prog="nuggets diff",
        usage="nuggets diff A B [--output_file FILE.html] [--json]",
        description=description("diff"),
        epilog=EPILOG,
        formatter_class=HelpFormatter,
    )
    for name, metavar in (("score_dir", "A"), ("other_dir", "B")):
        parser.add_argument(name, metavar=metavar, help="Directory or URL with the scores.parquet of a run.")
    text = "Print one JSON object on stdout: the rows of both, of each alone, and their ranks in the other."
    parser.add_argument("--json", action="store_true", help=text)
    text = "HTML file to write the difference to (FILE.html), with the texts of rows that only one set has."
    parser.add_argument("--output_file", metavar="FILE", help=text)
    return parser


def parse(argv: Sequence[str]) -> tuple[str, str, bool, str | None]:
    """Read the command line.

    Raises:
        ValueError: if `--output_file` does not end in .html.
    """
    options = make_diff_parser().parse_args(list(argv))
    if options.output_file is not None:
        from nuggets_trainer.report.difference_page import check_page_file

        check_page_file(options.output_file)
    return options.score_dir, options.other_dir, options.json, options.output_file


def run(score_dir: str, other_dir: str, as_json: bool, output_file: str | None = None) -> None:
    """Compare the two golden sets, print what they share, and write a page if one is named."""
    from nuggets_trainer.report.difference import difference

    with stdout_kept_for_result() as stdout:
        found = difference(score_dir, other_dir)
        result, text = {**found.as_json(), "output_file": output_file}, found.describe()
        if output_file is not None:
            from nuggets_trainer.report.difference_page import write_difference_page

            write_difference_page(found, (score_dir, other_dir), output_file)
            text += f"\npage: {output_file}"
        write_result(stdout, result, text, as_json)
