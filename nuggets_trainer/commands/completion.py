"""`nuggets completion`: a completion script for the shell, written by shtab. Knows the parsers of all commands.

A script, not a hook that runs Python at each TAB: building the parser of `nuggets train` takes seconds.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from importlib import import_module

import shtab

from nuggets_trainer.commands import COMMANDS
from nuggets_trainer.commands.parser import Parser

EPILOG = """examples:
  nuggets completion bash > ~/.local/share/bash-completion/completions/nuggets
  nuggets completion zsh > "${fpath[1]}/_nuggets"   # a directory of your fpath"""


def make_completion_parser() -> argparse.ArgumentParser:
    """Parser of the command."""
    parser = Parser(
        prog="nuggets completion",
        description=f"{COMMANDS['completion'].capitalize()}.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("shell", choices=shtab.SUPPORTED_SHELLS)
    return parser


def parse(argv: Sequence[str]) -> tuple[str]:
    """Read the command line."""
    return (make_completion_parser().parse_args(list(argv)).shell,)


def run(shell: str) -> None:
    """Print the script."""
    print(shtab.complete(whole_parser(), shell=shell))


def whole_parser() -> argparse.ArgumentParser:
    """Return one parser for `nuggets` with all its commands; `main` itself reads no more than the command's name."""
    parser = argparse.ArgumentParser(prog="nuggets", add_help=True)
    parser.add_argument("--version", action="store_true", help="print the version")
    parser.add_argument("--debug", action="store_true", help="show where an error came from")
    commands = parser.add_subparsers()
    for name, summary in COMMANDS.items():
        module = import_module(f"nuggets_trainer.commands.{name}")
        own = getattr(module, f"make_{name}_parser")()
        commands.add_parser(name, help=summary, parents=[own], add_help=False)
    return parser
