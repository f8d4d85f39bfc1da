"""The command line: plan, score, select, report, train and configs.

One module per command: `parse(argv)` reads the command line, `run(...)` does the work. Whatever `parse` raises is a
mistake in the command line (exit code 2). `run` prints its result on stdout and everything else on stderr. Nothing is
imported here, so that `nuggets --help` reads this table alone.
"""

from __future__ import annotations

COMMANDS = {
    "plan": "measure how long scoring will take, what it costs and what would make it cheaper",
    "score": "score a pool with a base model and choose the golden set (no training)",
    "select": "apply another selection rule to scores that are there; write the golden set as a dataset",
    "report": "write the report of a scored pool as one HTML page",
    "train": "score a pool, keep its golden set, tune on it with TRL SFT and PEFT: one job",
    "configs": "list the config files that ship with the package, or print the path of one",
}

EXIT_CODES = """exit codes:
  0    done
  1    an error: the message says what was wrong and what to do
  2    the command line is wrong
  130  interrupted (Ctrl-C); scores up to then are stored, the same command goes on
  143  SIGTERM (preemption, a time limit); likewise"""
