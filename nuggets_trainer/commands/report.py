"""`nuggets report`: the report of a scored pool as one HTML page. Loads no model."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from nuggets_trainer.commands import EXIT_CODES, description
from nuggets_trainer.commands.output import stdout_kept_for_result, write_result
from nuggets_trainer.commands.parser import HelpFormatter, Parser, with_first_word

EPILOG = f"""examples:
  nuggets report scores
  nuggets report scores --output_dir report

{EXIT_CODES}"""


def make_report_parser() -> argparse.ArgumentParser:
    """Make the parser of the command."""
    parser = Parser(
        prog="nuggets report",
        usage="nuggets report S [--output_dir DIR] [--json]",
        description=description("report"),
        epilog=EPILOG,
        formatter_class=HelpFormatter,
    )
    text = "Directory or URL with the scores.parquet of a run. It may be the first word."
    parser.add_argument("--score_dir", required=True, metavar="TEXT", help=text)
    text = "Directory for report.html and report.json. Default: beside the scores."
    parser.add_argument("--output_dir", metavar="TEXT", help=text)
    text = "Print one JSON object on stdout: the place of the report, and its cautions."
    parser.add_argument("--json", action="store_true", help=text)
    return parser


def parse(argv: Sequence[str]) -> tuple[str, str | None, bool]:
    """Read the command line."""
    options = make_report_parser().parse_args(with_first_word(argv, "--score_dir"))
    return options.score_dir, options.output_dir, options.json


def run(score_dir: str, output_dir: str | None, as_json: bool) -> None:
    """Write the page, log its warnings, and print its path."""
    from nuggets_trainer.report import log_warnings, write_report

    with stdout_kept_for_result() as stdout:
        cautions = write_report(score_dir, output_dir)["cautions"]
        output_dir = (output_dir or score_dir).rstrip("/")
        log_warnings(cautions, output_dir)
        page = f"{output_dir}/report.html"
        write_result(stdout, {"score_dir": score_dir, "report": page, "cautions": cautions}, page, as_json)
