"""The command line: inspect, plan, score, select, diff, report, train, compare, evaluate and configs.

One module per command: `parse(argv)` reads the command line, `run(...)` does the work. Whatever `parse` raises is a
mistake in the command line (exit code 2). `run` prints its result on stdout and everything else on stderr. This file
imports nothing, so that `nuggets --help` needs this table alone.
"""

from __future__ import annotations

COMMANDS = {
    "inspect": "show how your rows are read, scored and dropped, and which ones repeat, before weights are loaded",
    "plan": "measure how long scoring takes, what it costs and what would make it cheaper",
    "score": "score a pool with a base model and choose its golden set, without training",
    "select": "choose a golden set by another rule from stored scores; write it as a dataset",
    "diff": "compare two golden sets of one pool: what they share, and where they differ",
    "report": "write the report of a scored pool as one HTML page",
    "train": "score a pool, keep its golden set and tune on it with TRL SFT and PEFT, in one job",
    "compare": "find out whether selection pays: tune on the golden set, on random rows and on other rows",
    "evaluate": "run AlpacaEval and MT-Bench on tuned models: answers, judgments, and the paper's table",
    "configs": "list the config files that ship with the package, or print the path of one",
}

HELP_OPTIONS = frozenset({"-h", "--help", "--help_all"})  # the last one of commands that train
EXIT_CODES = """exit codes:
  0    done
  1    an error: the message says what was wrong and what to do
  2    the command line is wrong
  3    stopped after an early look (`stop_if_unreliable`, `require_recall`): what was scored is stored
  130  interrupted (Ctrl-C): what was scored is stored, and the same command continues
  143  SIGTERM (preemption or a time limit): as for 130"""


def description(command: str) -> str:
    """Return the summary of a command as a sentence.

    Example:
        >>> description("report")
        'Write the report of a scored pool as one HTML page.'
    """
    summary = COMMANDS[command]
    return f"{summary[0].upper()}{summary[1:]}."
