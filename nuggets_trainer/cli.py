"""`nuggets`: finds the command, runs it, and turns an error into a message and an exit code.

It imports nothing heavy, so that `nuggets --help` does not wait for torch. `--num_processes N` runs a command on
several processes, and so does `accelerate launch -m nuggets_trainer.cli <command>`. The scripts of recipes/ end as
commands do: each calls `run_program`.
"""

from __future__ import annotations

import difflib
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from nuggets_trainer.commands import COMMANDS, EXIT_CODES, HELP_OPTIONS
from nuggets_trainer.commands.output import log_to_stderr, rank
from nuggets_trainer.launch.processes import HELP, can_be_launched, check_one_process, is_launched, split_launch
from nuggets_trainer.version import VERSION

WIDTH = max(map(len, COMMANDS)) + 2
TABLE = "\n".join(f"  {name:<{WIDTH}}{summary}" for name, summary in COMMANDS.items())
USAGE = f"""usage: nuggets [--debug] <command> [options]

Choose the data that a language model is tuned on.

commands:
{TABLE}

options:
  -h, --help   this page; `nuggets <command> --help` lists the options of a command
  --version    print the version
  --debug      show where an error came from (or set NUGGETS_DEBUG=1)

{HELP}

{EXIT_CODES}
"""
PACKAGE = Path(__file__).parent


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; return the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = _debug_is_set()
    if arguments[:1] == ["--debug"]:
        debug, arguments = True, arguments[1:]
    if not arguments:
        print(USAGE, end="", file=sys.stderr)
        return 2
    command, *rest = arguments
    if command in ("-h", "--help"):
        print(USAGE, end="")
        return 0
    if command == "--version":
        print(f"nuggets_trainer {VERSION}")
        return 0
    if command not in COMMANDS:
        print(_unknown_command(command), end="", file=sys.stderr)
        return 2
    return _run(command, rest, debug)


def _unknown_command(command: str) -> str:
    message = f"nuggets: there is no command {command!r}."
    near = difflib.get_close_matches(command, [*COMMANDS, "--help", "--version", "--debug"], n=1)
    if near:
        return f"{message} Did you mean `{near[0]}`? `nuggets --help` lists the commands.\n"
    return f"{message}\n\n{USAGE}"


def _run(command: str, arguments: list[str], debug: bool) -> int:
    """Run a command with its arguments, in this process or in several; return the exit code."""
    program = f"nuggets {command}"
    try:
        launched, arguments = _launched(command, arguments, debug)
    except Exception as error:  # noqa: BLE001 - reported below, whatever it is
        return _report_error(error, program, 2, debug)
    if launched is not None:
        return launched
    module = import_module(f"nuggets_trainer.commands.{command}")
    return run_program(program, module.parse, module.run, arguments, debug)


def run_program(
    program: str,
    parse: Callable[[Sequence[str]], Sequence[Any]],
    run: Callable[..., Any],
    words: Sequence[str] | None = None,
    debug: bool | None = None,
) -> int:
    """Parse a command line and run a program; print an error as one message.

    Args:
        program: name of the program, as its user types it.
        parse: function that reads the command line. What it raises is a mistake in the command line.
        run: function that takes the parsed options and does the work.
        words: command line without the program's name; None takes that of this process.
        debug: whether each error shows its traceback; None reads NUGGETS_DEBUG.

    Returns:
        The exit code.
    """
    words = sys.argv[1:] if words is None else words
    debug = _debug_is_set() if debug is None else debug
    try:
        options = parse(words)
    except SystemExit as end:  # argparse has printed help or what is wrong
        return int(end.code or 0)
    except Exception as error:  # noqa: BLE001 - reported below, whatever it is
        return _report_error(error, program, 2, debug)
    log_to_stderr()
    try:
        run(*options)
        # Flushed here, where a reader that has gone is no error. At the interpreter's end it would be one.
        sys.stdout.flush()
    except KeyboardInterrupt:
        print(f"{program}: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `| head` has read enough; what is left in the buffer has no reader either
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:  # noqa: BLE001 - reported below, whatever it is
        return _report_error(error, program, getattr(error, "exit_code", 1), debug)
    return 0


def _debug_is_set() -> bool:
    return os.environ.get("NUGGETS_DEBUG", "0") not in ("", "0")


def _launched(command: str, words: list[str], debug: bool) -> tuple[int | None, list[str]]:
    """Start a command on several processes where its command line or config file asks for it.

    Returns:
        The exit code, or None where this process runs the command itself; and the words of the command alone.
    """
    given, rest = split_launch(words)
    takes_several = can_be_launched(command, rest)
    if given and (not takes_several or is_launched()):
        options = ", ".join(f"--{name}" for name in given)
        why = "a launcher has started the processes already" if is_launched() else "it runs in one process"
        step = f" {rest[0]}" if command == "evaluate" and rest else ""
        raise ValueError(f"`nuggets {command}{step}` does not take {options}: {why}. Drop it.")
    if not HELP_OPTIONS.isdisjoint(rest):
        return None, rest
    check_one_process(command, rest)
    if not takes_several or is_launched():
        return None, rest
    from nuggets_trainer.commands.config_file import config_path, texts_on

    given, _ = split_launch(words, texts_on(rest))
    if not given or given == {"num_processes": "1"}:
        return None, rest
    from nuggets_trainer.launch.accelerate_words import find_device, launcher_words
    from nuggets_trainer.launch.parts import with_part
    from nuggets_trainer.launch.processes import launch

    rest = with_part(rest, os.environ)
    launcher, variables = launcher_words(given, find_device(), config_path)
    if debug:
        variables["NUGGETS_DEBUG"] = "1"
    return launch(command, rest, launcher, variables), rest


def _report_error(error: Exception, program: str, code: int, debug: bool) -> int:
    """Print what went wrong: a user's mistake in words, a defect with its traceback; return the exit code."""
    is_wrong_option = code == 2 and isinstance(error, ValueError)  # also from checks of transformers or TRL
    if debug or not (is_wrong_option or _is_explained(error)):
        traceback.print_exception(error)
        return 1 if code == 2 else code
    if rank() == 0:
        hint = f"`{program} --help` lists the options; " if code == 2 else ""
        switch = "`nuggets --debug ...`" if program.startswith("nuggets ") else "NUGGETS_DEBUG=1"
        what = "stopped" if code not in (1, 2) else "error"
        print(f"{program}: {what}: {error}", file=sys.stderr)
        print(f"({hint}{switch} shows where it arose.)", file=sys.stderr)
    elif code != 2:  # all processes read the same command line: one message is enough
        print(f"[rank {rank()}] error: {str(error).splitlines()[0]}", file=sys.stderr)
    return code


def _is_explained(error: Exception) -> bool:
    """Whether the message alone says what to do: our own checks, and missing files, models, packages or space."""
    if isinstance(error, (OSError, ImportError)):
        return True
    frames = traceback.extract_tb(error.__traceback__)
    if not frames:
        return False
    place = Path(frames[-1].filename).absolute()
    script = Path(sys.argv[0]).absolute()  # of recipes/
    raised_by_us = place.is_relative_to(PACKAGE) or place == script
    return isinstance(error, (ValueError, TypeError, RuntimeError)) and raised_by_us


if __name__ == "__main__":
    sys.exit(main())
