"""`nuggets configs`: the config files that ship with the package, by name and first sentence."""

from __future__ import annotations

import argparse
import re
import shutil
import textwrap
from collections.abc import Sequence

from nuggets_trainer.commands import description
from nuggets_trainer.commands.config_file import CONFIGS, config_path
from nuggets_trainer.commands.parser import Parser

WIDTH = min(120, shutil.get_terminal_size((110, 24)).columns)
INDENT = 26
EPILOG = """examples:
  nuggets configs
  nuggets train --config qwen3_lora
  nuggets train --accelerate_config fsdp2 --config my.yaml"""


def make_configs_parser() -> argparse.ArgumentParser:
    """Make the parser of the command."""
    parser = Parser(
        prog="nuggets configs",
        description=description("configs"),
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "name", nargs="?", help="name of the config file whose path is printed, e.g. demo or accelerate/fsdp2"
    )
    return parser


def parse(argv: Sequence[str]) -> tuple[str | None]:
    """Read the command line."""
    return (make_configs_parser().parse_args(list(argv)).name,)


def run(name: str | None) -> None:
    """Print the path of one config file, or the names of all with what they are for."""
    if name is not None:
        print(config_path(name))
        return
    for path in sorted(CONFIGS.rglob("*.yaml")):
        known_as = path.relative_to(CONFIGS).with_suffix("").as_posix()
        lines = textwrap.wrap(first_sentence(path.read_text(encoding="utf-8")), max(40, WIDTH - INDENT))
        print(f"{known_as:<{INDENT}}" + f"\n{' ' * INDENT}".join(lines))


def first_sentence(text: str) -> str:
    r"""Return the first sentence of a YAML file's leading comment.

    Example:
        >>> first_sentence("# The demo: small\n# and fast. Nothing\n# is downloaded.\na: 1")
        'The demo: small and fast.'
    """
    lines = []
    for line in text.splitlines():
        if not line.startswith("# "):
            break
        lines.append(line.removeprefix("# "))
    return re.split(r"(?<=[.?!])\s", " ".join(lines), maxsplit=1)[0]
