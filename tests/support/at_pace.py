"""Run a script whose store writes its parts at another pace than every 30 seconds and 1,000 candidates.

`python tests/support/at_pace.py SECONDS CANDIDATES script.py ...` also runs behind a launcher. A test that kills a job
waits some seconds for it and needs more parts than that in them, or none.
"""

import runpy
import sys

from nuggets_trainer.store import score_store

if __name__ == "__main__":
    seconds, candidates, *sys.argv = sys.argv[1:]
    score_store.FLUSH_SECONDS, score_store.FLUSH_CANDIDATES = float(seconds), int(candidates)
    runpy.run_path(sys.argv[0], run_name="__main__")
