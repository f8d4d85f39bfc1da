"""Worker processes that render candidates, for a pool so large that starting them pays.

A worker is a new Python process that reads rows from a pipe. It does not run the user's script again, as those of
`multiprocessing` do unless the script guards against it. It inherits neither threads nor a CUDA context. And it ends
with this process, however that ends, because its pipe is closed then.
"""

from __future__ import annotations

import os
import pickle
import queue
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from nuggets_trainer.data.row import Row, UnusableRowError
from nuggets_trainer.prompts.segment import CandidatePrompt
from nuggets_trainer.prompts.shared_prefix import SharedPrefix

MOST_WORKERS = 8  # of one process: each takes about 150 MB, and more would wait for this process
START_SECONDS = 3.0  # until a worker has imported what it needs and has the tokenizer
WORTHWHILE_SECONDS = 10.0  # what rendering must take in this process for workers to pay
BLOCKS_AHEAD = 2  # blocks that are read for each worker before it asks for them

_SERVE = f"import pickle, sys; sys.path[:] = pickle.load(sys.stdin.buffer); from {__name__} import serve; serve()"


@dataclass(frozen=True)
class Unusable:
    """A candidate that cannot be rendered.

    Attributes:
        reason: reason why it is dropped.
        cause: error of the template or the tokenizer, if there was one.
    """

    reason: str
    cause: str | None = field(default=None, compare=False)


Rendering = CandidatePrompt | Unusable


def render_row(shared: SharedPrefix, row: Row) -> Rendering:
    """Render one candidate before all anchors."""
    try:
        return shared.candidate(row)
    except UnusableRowError as error:
        return Unusable(str(error), None if error.__cause__ is None else repr(error.__cause__))


def count_workers() -> int:
    """Count the workers that this process may have: its share of the processors that the job may use."""
    from joblib import cpu_count  # it sees a container's quota, the affinity and `LOKY_MAX_CPU_COUNT`

    return int(min(MOST_WORKERS, cpu_count() // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))


def workers_pay(seconds: float, num_workers: int) -> bool:
    """Tell whether workers should render what takes this process so long."""
    return num_workers > 1 and seconds > WORTHWHILE_SECONDS


@dataclass(frozen=True)
class RenderingTime:
    """What rendering has shown about its time.

    Attributes:
        num_rows: number of rows that this process had to render.
        seconds_per_row: time of one process for a row.
        num_workers: number of workers that it may have.
    """

    num_rows: int
    seconds_per_row: float
    num_workers: int

    def seconds(self, factor: float = 1.0) -> float:
        """Forecast the time for so many times as many rows."""
        alone = factor * self.num_rows * self.seconds_per_row
        if not workers_pay(alone, self.num_workers):
            return alone
        return START_SECONDS + alone / self.num_workers


class Workers:
    """Worker processes that render rows as this process would; a context manager that ends them.

    Args:
        shared: renders a candidate before all anchors.
        number: number of workers.

    Raises:
        Exception: what pickling raises, if a tokenizer cannot be sent.
    """

    def __init__(self, shared: SharedPrefix, number: int) -> None:
        self._greeting = pickle.dumps(sys.path) + pickle.dumps(_pickled(shared))
        self._processes: list[subprocess.Popen[bytes]] = []
        self._idle: queue.SimpleQueue[subprocess.Popen[bytes] | None] = queue.SimpleQueue()
        for _ in range(number):
            self._idle.put(None)  # started by the thread that needs it, so that all start at once
        self._threads = ThreadPoolExecutor(number)
        self._ahead = BLOCKS_AHEAD * number

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            process.kill()
        self._threads.shutdown(cancel_futures=True)
        for process in self._processes:
            process.communicate()

    def render(self, blocks: Iterable[list[Row]]) -> Iterator[list[Rendering]]:
        """Render blocks of rows; the results come in the order of the blocks, which are read as they are needed.

        Raises:
            RuntimeError: if a worker fails.
            OSError: if a worker cannot be started, or ends.
            EOFError: if a worker ends.
        """
        asked: deque[Future[list[Rendering]]] = deque()
        for block in blocks:
            asked.append(self._threads.submit(self._ask, block))
            if len(asked) > self._ahead:
                yield asked.popleft().result()
        while asked:
            yield asked.popleft().result()

    def _ask(self, block: list[Row]) -> list[Rendering]:
        process = self._idle.get()
        try:
            if process is None:
                process = self._start()
            answer: list[Rendering] | str = _exchange(process, block)
        finally:
            self._idle.put(process)
        if isinstance(answer, str):
            raise RuntimeError(answer)
        return answer

    def _start(self) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [sys.executable, "-c", _SERVE],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            # The workers are the parallelism; a tokenizer's own threads would be many times too many.
            env={**os.environ, "TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1"},
        )
        self._processes.append(process)
        assert process.stdin is not None
        process.stdin.write(self._greeting)
        return process


def _pickled(shared: SharedPrefix) -> bytes:
    return pickle.dumps(shared)


def _exchange(process: subprocess.Popen[bytes], block: list[Row]) -> Any:
    """Send rows to a worker and wait for what it answers."""
    assert process.stdin is not None and process.stdout is not None
    pickle.dump(block, process.stdin)
    process.stdin.flush()
    return pickle.load(process.stdout)


def serve() -> None:
    """Answer blocks of rows with what they are rendered as, until the pipe is closed: a worker's main function."""
    # Ctrl-C reaches all processes of a terminal; the one that asks acts on it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print goes to stderr: the pipe has answers alone
    try:
        _answer_all(answers)
    except (EOFError, BrokenPipeError):
        os._exit(0)  # the process that asks has ended; nothing is left to flush


def _answer_all(answers: BinaryIO) -> None:
    shared = _unpickled(pickle.load(sys.stdin.buffer))
    while True:
        block = pickle.load(sys.stdin.buffer)
        pickle.dump(shared if isinstance(shared, str) else _render_block(shared, block), answers)
        answers.flush()


def _unpickled(pickled: bytes) -> SharedPrefix | str:
    """Return what was sent, or why it cannot be read: classes of the user's script are not here."""
    try:
        shared: SharedPrefix = pickle.loads(pickled)
        _silence_tokenizers()
    except Exception as error:  # noqa: BLE001 - told to the process that asks
        return f"A worker cannot read the tokenizer: {error!r}"
    return shared


def _render_block(shared: SharedPrefix, block: list[Row]) -> list[Rendering] | str:
    try:
        shared.tokenize_ahead(block)
        return [render_row(shared, row) for row in block]
    except Exception as error:  # noqa: BLE001 - told to the process that asks
        return f"A worker failed: {error!r}"


def _silence_tokenizers() -> None:
    """Leave warnings to the process that asks: each worker would repeat them."""
    from transformers.utils import logging

    logging.set_verbosity_error()
