"""Scored pairs on disk: immutable Parquet parts, keyed by content. Knows no model and no collectives.

Layout: `<score_dir>/<fingerprint>/manifest.json` spells out every field of the fingerprint, and
`<score_dir>/<fingerprint>/parts/*.parquet` hold one row per pair: `candidate` (content hash, null for zero-shot),
`anchor` (content hash), `log_prob` (float32, nats per token, NaN where the model gave none). A part is written to a
temporary name, fsynced and renamed, so a part that is there is whole; several processes and jobs may write at once.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import time
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from nuggets_trainer.fingerprint import fingerprint_id

logger = logging.getLogger(__name__)

FLUSH_CANDIDATES = 1000
ZERO_SHOT = ""  # stands for "no candidate" where pairs are looked up

_KEY = pa.dictionary(pa.int32(), pa.string())
SCHEMA = pa.schema([("candidate", _KEY), ("anchor", _KEY), ("log_prob", pa.float32())])


class ScoreStore:
    """The pairs scored under one fingerprint.

    Args:
        score_dir: directory shared by all fingerprints.
        fields: what `fingerprint_fields` returns.

    Raises:
        PermissionError, NotADirectoryError: if `score_dir` cannot be written to.
    """

    def __init__(self, score_dir: str | Path, fields: dict[str, str]) -> None:
        self._fields = fields
        self.directory = Path(score_dir) / fingerprint_id(fields)
        self._parts = self.directory / "parts"
        check_writable(score_dir)
        self._parts.mkdir(parents=True, exist_ok=True)
        manifest = self.directory / "manifest.json"
        if not manifest.exists():
            _log_differences(Path(score_dir), fields)
            write_atomically(manifest, json.dumps(fields, indent=2).encode())

    def write(self, candidates: Sequence[str | None], anchors: Sequence[str], log_probs: npt.ArrayLike) -> None:
        """Add pairs as one part; the three arguments have one entry per pair."""
        columns = [pa.array(candidates, pa.string()), pa.array(anchors, pa.string())]
        values = pa.array(np.asarray(log_probs, dtype=np.float32))
        table = pa.table([c.dictionary_encode() for c in columns] + [values], schema=SCHEMA)
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, compression="zstd", write_page_checksum=True)
        write_atomically(self._parts / f"{uuid.uuid4().hex}.parquet", sink.getvalue())

    def read(
        self, candidates: Sequence[str], anchors: Sequence[str]
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
        """Look pairs up.

        Args:
            candidates: content hashes, n of them (repeats allowed); an empty string asks for zero-shot.
            anchors: content hashes, m of them (repeats allowed).

        Returns:
            `log_prob` `(n, m)`, NaN where there is none, and `known` `(n, m)`, whether the pair is in the store.
        """
        unique_rows, row_of = np.unique(np.asarray(candidates, dtype=object), return_inverse=True)
        unique_columns, column_of = np.unique(np.asarray(anchors, dtype=object), return_inverse=True)
        log_prob = np.full((len(unique_rows), len(unique_columns)), np.nan, dtype=np.float32)
        known = np.zeros(log_prob.shape, dtype=np.bool_)
        row_place = {key: i for i, key in enumerate(unique_rows)}
        column_place = {key: i for i, key in enumerate(unique_columns)}
        for table in self._tables():
            rows = _positions(table["candidate"], row_place)
            columns = _positions(table["anchor"], column_place)
            wanted = (rows >= 0) & (columns >= 0)
            log_prob[rows[wanted], columns[wanted]] = table["log_prob"].to_numpy()[wanted]
            known[rows[wanted], columns[wanted]] = True
        return log_prob[np.ix_(row_of, column_of)], known[np.ix_(row_of, column_of)]

    def read_note(self, question: dict[str, Any]) -> Any:
        """Return what `write_note` kept under this question, or None."""
        try:
            note = json.loads(self._note_path(question).read_text())
        except (FileNotFoundError, json.JSONDecodeError):
            return None
        return note["answer"] if note.get("question") == question else None

    def write_note(self, question: dict[str, Any], answer: Any) -> None:
        """Keep a decision that must not be taken anew on resume, such as the choice of anchors."""
        note = {"question": question, "answer": answer}
        write_atomically(self._note_path(question), json.dumps(note).encode())

    def _note_path(self, question: dict[str, Any]) -> Path:
        digest = hashlib.sha256(json.dumps(question, sort_keys=True).encode()).hexdigest()[:16]
        return self.directory / f"note-{digest}.json"

    def _tables(self) -> Iterator[pa.Table]:
        """Yield the readable parts; set the others aside."""
        for path in sorted(self._parts.glob("*.parquet")):
            try:
                table = pq.read_table(path, page_checksum_verification=True)
            except FileNotFoundError:
                continue  # another job set it aside meanwhile
            except (pa.ArrowInvalid, OSError) as error:
                if getattr(error, "errno", None) is not None:
                    raise  # the system failed to read it (too many open files, ...): that says nothing of the part
                _set_aside(path, str(error))
                continue
            if not table.schema.equals(SCHEMA):
                _set_aside(path, f"columns {table.schema.names} of types {[str(t) for t in table.schema.types]}")
                continue
            yield table.unify_dictionaries().combine_chunks()


class PartWriter:
    """Collects scored pairs and writes them as parts, at candidate boundaries, also when scoring is interrupted."""

    def __init__(self, store: ScoreStore, flush_seconds: float) -> None:
        self._store, self._flush_seconds = store, flush_seconds
        self._clear()

    def _clear(self) -> None:
        self._candidates: list[str] = []
        self._anchors: list[str] = []
        self._log_probs: list[float] = []
        self._num_candidates, self._since = 0, time.monotonic()

    def __enter__(self) -> PartWriter:
        return self

    def __exit__(self, *exception: object) -> None:
        self.flush()

    def add(self, candidate: str, anchors: list[str], log_probs: npt.NDArray[np.float32]) -> None:
        """Add pairs of one candidate."""
        self._candidates += [candidate] * len(anchors)
        self._anchors += anchors
        self._log_probs += log_probs.tolist()

    def end_candidates(self, number: int) -> None:
        """Write a part if enough has come together since the last one."""
        self._num_candidates += number
        if self._num_candidates >= FLUSH_CANDIDATES or time.monotonic() - self._since >= self._flush_seconds:
            self.flush()

    def flush(self) -> None:
        """Write what has come together."""
        if self._candidates:
            self._store.write(self._candidates, self._anchors, self._log_probs)
        self._clear()


def check_writable(directory: str | Path) -> None:
    """Create `directory` if it is not there and prove by writing a file that it takes one.

    Raises:
        PermissionError, NotADirectoryError: with what to do.
    """
    probe = Path(directory) / f".probe-{uuid.uuid4().hex}"
    try:
        probe.parent.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"")
        probe.unlink()
    except (FileExistsError, NotADirectoryError) as error:
        raise NotADirectoryError(f"`score_dir={str(directory)!r}` is not a directory: {error}.") from error
    except OSError as error:
        raise PermissionError(
            f"`score_dir={str(directory)!r}` cannot be written to ({error.strerror}). Scores are stored while they "
            "are computed; point `score_dir` at a directory with write access."
        ) from error


def write_atomically(path: Path, content: Any) -> None:
    """Write bytes under a temporary name, fsync, rename: readers see the whole file or none."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)  # makes the rename itself durable
    finally:
        os.close(directory)


def _positions(column: pa.ChunkedArray, place: dict[str, int]) -> npt.NDArray[np.int64]:
    """Look up each value of a dictionary column in `place`; null stands for the empty string; -1 where absent."""
    if not column.num_chunks:
        return np.zeros(0, dtype=np.int64)
    encoded = column.chunk(0)
    of_code: npt.NDArray[np.int64] = np.array([place.get(key, -1) for key in [*encoded.dictionary.to_pylist(), ""]])
    codes: npt.NDArray[np.int64] = encoded.indices.fill_null(len(of_code) - 1).to_numpy(zero_copy_only=False)
    return of_code[codes]


def _set_aside(path: Path, reason: str) -> None:
    logger.warning(
        "Part %s of the score store cannot be used (%s). It is set aside as %s.corrupt; its pairs are scored again.",
        path,
        reason,
        path.name,
    )
    with contextlib.suppress(FileNotFoundError):  # another rank reads the same part and was faster
        path.replace(path.with_name(path.name + ".corrupt"))


def _log_differences(score_dir: Path, fields: dict[str, str]) -> None:
    """Say why scores that are already there are not reused."""
    for manifest in sorted(score_dir.glob("*/manifest.json")):
        try:
            other = json.loads(manifest.read_text())
        except (OSError, json.JSONDecodeError):
            logger.warning("The manifest %s cannot be read; its scores are not reused.", manifest)
            continue
        names = sorted(name for name in fields.keys() | other.keys() if fields.get(name) != other.get(name))
        changes = ", ".join(f"{name}: {other.get(name)} there, {fields.get(name)} now" for name in names)
        logger.warning("Scores in %s are not reused, they differ in %s.", manifest.parent, changes)
