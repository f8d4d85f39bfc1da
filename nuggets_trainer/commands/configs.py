"""`nuggets configs`: the config files that ship with the package. Knows their names and first lines alone."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from nuggets_trainer.commands import COMMANDS

EPILOG = """examples:
  nuggets configs
  nuggets train --config qwen3_lora
  accelerate launch --config_file "$(nuggets configs accelerate/fsdp2)" \\
      -m nuggets_trainer.cli train --config my.yaml"""


def make_configs_parser() -> argparse.ArgumentParser:
    """Parser of the command."""
    parser = argparse.ArgumentParser(
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
    from nuggets_trainer.arguments import CONFIGS, config_path

    if name is not None:
        print(config_path(name))
        return
    for path in sorted(CONFIGS.rglob("*.yaml")):
        first = path.read_text().splitlines()[0].removeprefix("# ")
        print(f"{path.relative_to(CONFIGS).with_suffix('')!s:<28}{first}")
