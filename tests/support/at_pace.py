"""Run a script whose store writes its parts at another pace than every 30 seconds and 1,000 candidates.

`python tests/support/at_pace.py SECONDS CANDIDATES CALLS script.py ...` also runs behind a launcher. A test that kills
a job waits some seconds for it and needs more parts than that in them, or none. After CALLS calls of the engine (0 is
never) each process says so and waits for its end, in the middle of its scoring however slow the machine is.
"""

import runpy
import sys
import time

from nuggets_trainer.store import score_store
from nuggets_trainer.store.score_store import PartWriter


def wait_after(num_calls: int) -> None:
    """Let the process wait for its end after it has scored so many times."""
    end_candidates, done = PartWriter.end_candidates, []

    def end_and_wait(writer: PartWriter, number: int) -> None:
        end_candidates(writer, number)
        done.append(number)
        if len(done) == num_calls:
            print("at_pace waits for its end", flush=True)
            time.sleep(3600)

    PartWriter.end_candidates = end_and_wait


if __name__ == "__main__":
    seconds, candidates, calls, *sys.argv = sys.argv[1:]
    score_store.FLUSH_SECONDS, score_store.FLUSH_CANDIDATES = float(seconds), int(candidates)
    if int(calls):
        wait_after(int(calls))
    runpy.run_path(sys.argv[0], run_name="__main__")
