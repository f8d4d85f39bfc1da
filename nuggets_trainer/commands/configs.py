"""`nuggets configs`: the config files that ship with the package. Knows their names and first sentences alone."""

from __future__ import annotations

import argparse
import itertools
import re
import shutil
import textwrap
from collections.abc import Sequence

from nuggets_trainer.commands import COMMANDS
from nuggets_trainer.commands.parser import Parser

WIDTH = min(120, shutil.get_terminal_size((110, 24)).columns)
INDENT = 26
EPILOG = """examples:
  nuggets configs
  nuggets train --config qwen3_lora
  accelerate launch --config_file "$(nuggets configs accelerate/fsdp2)" \\
      -m nuggets_trainer.cli train --config my.yaml"""


def make_configs_parser() -> argparse.ArgumentParser:
    """Parser of the command."""
    parser = Parser(
        prog="nuggets configs",
        description=f"{COMMANDS['configs'].capitalize()}.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", nargs="?", help="print the path of this one, e.g. demo or accelerate/fsdp2")
    return parser


def parse(argv: Sequence[str]) -> tuple[str | None]:
    """Read the command line."""
    return (make_configs_parser().parse_args(list(argv)).name,)


def run(name: str | None) -> None:
    """Print names with what they are for, or one path."""
    from nuggets_trainer.commands.arguments import CONFIGS, config_path

    if name is not None:
        print(config_path(name))
        return
    for path in sorted(CONFIGS.rglob("*.yaml")):
        known_as = path.relative_to(CONFIGS).with_suffix("").as_posix()
        lines = textwrap.wrap(first_sentence(path.read_text()), max(40, WIDTH - INDENT))
        print(f"{known_as:<{INDENT}}" + f"\n{' ' * INDENT}".join(lines))


def first_sentence(text: str) -> str:
    r"""Return what a YAML's leading comment says first.

    Example:
        >>> first_sentence("# The demo: small\n# and fast. Nothing\n# is downloaded.\na: 1")
        'The demo: small and fast.'
    """
    comment = itertools.takewhile(lambda line: line.startswith("# "), text.splitlines())
    return re.split(r"(?<=[.?!])\s", " ".join(line.removeprefix("# ") for line in comment), maxsplit=1)[0]
