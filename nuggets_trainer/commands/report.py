"""`nuggets report`: the report of a scored pool as one HTML page. Thin over `report.py`; loads no model."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from nuggets_trainer.commands import COMMANDS, EXIT_CODES
from nuggets_trainer.options import HelpFormatter, Parser

EPILOG = f"""examples:
  nuggets report scores
  nuggets report scores --output_dir report --plots

{EXIT_CODES}"""


def make_report_parser() -> argparse.ArgumentParser:
    """Parser of the command."""
    parser = Parser(
        prog="nuggets report",
        usage="nuggets report S [--output_dir DIR] [--plots]",
        description=f"{COMMANDS['report'].capitalize()}.",
        epilog=EPILOG,
        formatter_class=HelpFormatter,
    )
    text = "Directory or URL with the scores.parquet of a run. May be given as first word."
    parser.add_argument("--score_dir", required=True, metavar="TEXT", help=text)
    text = "Where report.html and report.json go. Default: beside the scores."
    parser.add_argument("--output_dir", metavar="TEXT", help=text)
    text = "Also write plots/*.png, for papers (needs the extra `plot`)."
    parser.add_argument("--plots", action="store_true", help=text)
    return parser


def parse(argv: Sequence[str]) -> tuple[str, str | None, bool]:
    """Read the command line."""
    argv = list(argv)
    if argv and not argv[0].startswith("-"):
        argv.insert(0, "--score_dir")
    options = make_report_parser().parse_args(argv)
    return options.score_dir, options.output_dir, options.plots


def run(score_dir: str, output_dir: str | None, plots: bool) -> None:
    """Write the page, and print where it is."""
    from nuggets_trainer.report import write_report

    write_report(score_dir, output_dir, plots=plots)
    print(f"{(output_dir or score_dir).rstrip('/')}/report.html")
