"""Scored pairs on disk: immutable Parquet parts, keyed by content.

Layout: `<score_dir>/<fingerprint>/manifest.json` has the version of the layout, every field of the fingerprint, and
what it was written with.
`<score_dir>/<fingerprint>/parts/*.parquet` hold one row per pair: `candidate` (content hash, null for zero-shot),
`anchor` (content hash; `=` and a name for signals of a row), `log_prob` (float32, nats per token, or NaN).

A part is named after the SHA-256 of its bytes, and is read only if its bytes still have that hash. Several processes
and jobs may write at once. If parts hold different values for one pair, because two jobs rounded differently, the
first part by name counts, and in it the first row: the same parts give the same values, whichever was written first.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import re
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from nuggets_trainer.store.files import (
    Place,
    check_writable,
    is_temporary,
    join,
    list_directory,
    make_directory,
    read_bytes,
    read_many,
    remove_leftovers,
    set_aside,
    write_atomically,
)
from nuggets_trainer.store.fingerprint import fingerprint_id
from nuggets_trainer.store.manifest import find_store, open_manifest
from nuggets_trainer.store.parquet import read_table
from nuggets_trainer.store.scratch import Scratch
from nuggets_trainer.wording import counted

logger = logging.getLogger(__name__)

# A part is written after this time or this many candidates, whichever comes first. A killed job loses no more.
FLUSH_SECONDS = 30.0
FLUSH_CANDIDATES = 1000
ZERO_SHOT = ""  # stands for "no candidate" where pairs are looked up
COPY_ROWS = 65536  # rows copied at once, because a matrix may be larger than memory

_KEY = pa.dictionary(pa.int32(), pa.string())
SCHEMA = pa.schema([("candidate", _KEY), ("anchor", _KEY), ("log_prob", pa.float32())])
_PART_NAME = re.compile(r"[0-9a-f]{32}\.parquet")

# Marks in a matrix the pairs that are not in the store: a NaN that no computation gives.
_ABSENT_BITS = np.uint32(0x7FC0DEAD)
_ABSENT = np.array([_ABSENT_BITS]).view(np.float32)[0]


class ScoreStore:
    """The pairs scored under one fingerprint.

    Args:
        score_dir: directory shared by all fingerprints; a local path, or a URL for fsspec.
        fields: fields of the fingerprint, from `fingerprint_fields`.
        with_what: what the pairs are computed with, from `written_with`; None finds only stores of the same fields.

    Attributes:
        directory: directory of the pairs.
        differences: how the fields of the store differ from these, if it was written by other versions; "" otherwise.

    Raises:
        PermissionError, NotADirectoryError: if `score_dir` cannot be written to.
        ValueError: if the scores that are there have another layout.
    """

    def __init__(self, score_dir: Place, fields: dict[str, str], with_what: dict[str, Any] | None = None) -> None:
        self.score_dir = score_dir
        self.fields = fields
        self.fingerprint = fingerprint_id(fields)
        check_writable(score_dir)
        self.directory, self.differences = find_store(score_dir, fields, with_what)
        self._parts = join(self.directory, "parts")
        self._ignored: set[str] = set()
        if self.differences:
            logger.warning("Scores in %s are used, although they differ in %s.", self.directory, self.differences)
        else:
            open_manifest(score_dir, self.directory, fields, with_what)
        make_directory(self._parts)
        for directory in (score_dir, self.directory, self._parts):
            remove_leftovers(directory)

    def write(self, candidates: Sequence[str | None], anchors: Sequence[str], log_probs: npt.ArrayLike) -> None:
        """Add pairs as one part; the three arguments have one entry per pair.

        Raises:
            OSError: if the disk is full; the error says what to do, and the parts that are there stay whole.
        """
        columns = [
            pa.array(candidates, pa.string()).dictionary_encode(),
            pa.array(anchors, pa.string()).dictionary_encode(),
            pa.array(np.asarray(log_probs, dtype=np.float32)),
        ]
        table = pa.table(columns, schema=SCHEMA)
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, compression="zstd", write_page_checksum=True)
        content = sink.getvalue()
        write_atomically(join(self._parts, _part_name(content)), content)

    def read(
        self, candidates: Sequence[str], anchors: Sequence[str]
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
        """Look up pairs.

        Args:
            candidates: content hashes, n of them (repeats allowed); an empty string asks for zero-shot.
            anchors: content hashes, m of them (repeats allowed).

        Returns:
            Log-probs `(n, m)`, NaN for pairs without one, and whether each pair is in the store, `(n, m)`.
        """
        matrix = np.full((len(candidates), len(anchors)), _ABSENT, dtype=np.float32)
        self._fill(matrix, candidates, anchors)
        there = known(matrix)
        np.copyto(matrix, np.float32(np.nan), where=~there)
        return matrix, there

    def read_matrix(
        self, candidates: Sequence[str], anchors: Sequence[str], scratch: Scratch
    ) -> npt.NDArray[np.float32]:
        """Look up more pairs than may fit in memory.

        Args:
            candidates: content hashes, n of them, as in `read`.
            anchors: content hashes, m of them, as in `read`.
            scratch: place of the array.

        Returns:
            Log-probs `(n, m)`. `known(matrix[a:b])` tells which pairs are in the store. The other pairs are NaN, and
            so are pairs that the model gave no log-prob for.

        Raises:
            OSError: if there is no room.
        """
        matrix = scratch.full((len(candidates), len(anchors)), _ABSENT, np.float32)
        self._fill(matrix, candidates, anchors)
        return matrix

    def _fill(self, matrix: npt.NDArray[np.float32], candidates: Sequence[str], anchors: Sequence[str]) -> None:
        """Set the pairs that are in the store."""
        row_place, first_row = _first_places(candidates)
        column_place, first_column = _first_places(anchors)
        for batch in self._batches():
            rows = _places(batch["candidate"], row_place)
            columns = _places(batch["anchor"], column_place)
            # Reversed, so that the first row is set last and counts.
            wanted = np.flatnonzero((rows >= 0) & (columns >= 0))[::-1]
            values = batch["log_prob"].to_numpy(zero_copy_only=False)[wanted]
            values[np.isnan(values)] = np.nan  # a NaN of the model must not look like `_ABSENT`
            matrix[rows[wanted], columns[wanted]] = values
        repeats = np.flatnonzero(first_row != np.arange(len(candidates)))
        for start in range(0, len(repeats), COPY_ROWS):
            block = repeats[start : start + COPY_ROWS]
            matrix[block] = matrix[first_row[block]]
        for column in np.flatnonzero(first_column != np.arange(len(anchors))):
            matrix[:, column] = matrix[:, first_column[column]]

    def read_note(self, question: dict[str, Any]) -> Any:
        """Return the answer that `write_note` kept for this question; None if there is none or its file is damaged."""
        try:
            note = json.loads(read_bytes(self._note_path(question)))
        except (FileNotFoundError, ValueError):
            return None
        whole = isinstance(note, dict) and note.get("sha256") == _digest([question, note.get("answer")])
        return note["answer"] if whole else None

    def has_notes(self) -> bool:
        """Return whether any note was written."""
        return any(name.startswith("note-") for name in list_directory(self.directory))

    def write_note(self, question: dict[str, Any], answer: Any) -> None:
        """Keep a decision that a resumed run must not take again, such as the choice of anchors."""
        note = {"question": question, "answer": answer, "sha256": _digest([question, answer])}
        write_atomically(self._note_path(question), json.dumps(note).encode())

    def _note_path(self, question: dict[str, Any]) -> Place:
        return join(self.directory, f"note-{_digest(question)[:16]}.json")

    def _batches(self) -> Iterator[pa.RecordBatch]:
        """Yield the pairs of all parts, from the least to the most important: last part by name, last batch first."""
        names = sorted(self._part_names(), reverse=True)
        paths = [join(self._parts, name) for name in names]
        for name, (path, content) in zip(names, read_many(paths), strict=True):
            if isinstance(content, FileNotFoundError):
                continue  # another job has set it aside
            if isinstance(content, OSError):
                if content.errno not in (errno.EIO, errno.EACCES):
                    raise content  # the system failed (too many open files, ...), which is not the part's fault
                self._warn_ignored(name, f"cannot be read: {content}")
                continue
            table = _healthy_table(name, content)
            if isinstance(table, str):
                set_aside(path, table, "its pairs are scored again")
                continue
            yield from reversed(table.to_batches())

    def _part_names(self) -> list[str]:
        names = []
        for name, is_file in list_directory(self._parts).items():
            if is_file and _PART_NAME.fullmatch(name):
                names.append(name)
            elif not is_temporary(name) and not name.endswith(".corrupt"):
                self._warn_ignored(name, "is not a part of a score store")
        return names

    def _warn_ignored(self, name: str, reason: str) -> None:
        """Warn once that a file is ignored."""
        if name not in self._ignored:
            logger.warning("%s %s. It is ignored and left where it is.", join(self._parts, name), reason)
            self._ignored.add(name)


class PartWriter:
    """Collects scored pairs and writes them as parts, at candidate boundaries, also when scoring is interrupted.

    A part holds the pairs of `FLUSH_CANDIDATES` candidates, or of `FLUSH_SECONDS` seconds if these are fewer.

    Args:
        store: the store that gets the parts.
    """

    def __init__(self, store: ScoreStore) -> None:
        self._store = store
        self._clear()

    def _clear(self) -> None:
        # One list with an entry per call: whenever SIGTERM comes, what is in it is whole.
        self._added: list[tuple[str, list[str], npt.NDArray[np.float32]]] = []
        self._num_candidates, self._since = 0, time.monotonic()

    def __enter__(self) -> PartWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            self.flush()
        except Exception as error:  # a full disk, lost rights, or what ended the `with` block too
            if kind is None:
                raise
            # The first error is the one to show; this one is often the same again.
            num_pairs = sum(len(anchors) for _, anchors, _ in self._added)
            logger.error("%s could not be stored: %s", counted(num_pairs, "scored pair"), error)

    def add(self, candidate: str, anchors: list[str], log_probs: npt.NDArray[np.float32]) -> None:
        """Add pairs of one candidate."""
        self._added.append((candidate, anchors, log_probs))

    def end_candidates(self, number: int) -> None:
        """Count this number of candidates as complete, and write a part if enough pairs have been collected."""
        self._num_candidates += number
        if self._num_candidates >= FLUSH_CANDIDATES or time.monotonic() - self._since >= FLUSH_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Write the collected pairs as a part; if that fails, they are kept for the next time."""
        if self._added:
            candidates: list[str | None] = []
            keys: list[str] = []
            for candidate, anchors, _ in self._added:
                candidates += [candidate] * len(anchors)
                keys += anchors
            self._store.write(candidates, keys, np.concatenate([log_probs for _, _, log_probs in self._added]))
        self._clear()


def known(block: npt.NDArray[np.float32]) -> npt.NDArray[np.bool_]:
    """Return whether each pair of a block of `read_matrix` is in the store, in the block's shape."""
    there: npt.NDArray[np.bool_] = np.asarray(block).view(np.uint32) != _ABSENT_BITS
    return there


def _part_name(content: Any) -> str:
    return f"{hashlib.sha256(content).hexdigest()[:32]}.parquet"


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _healthy_table(name: str, content: bytes) -> pa.Table | str:
    """Return the table of a part, or the reason why it cannot be used."""
    if _part_name(content) != name:
        return "its bytes do not have the checksum in its name"
    try:
        table = read_table(content)
    except (pa.ArrowInvalid, OSError) as error:
        return str(error)
    if not table.schema.equals(SCHEMA):
        return f"it has the columns {table.schema.names} of the types {list(map(str, table.schema.types))}"
    return table


def _first_places(keys: Sequence[str]) -> tuple[dict[str, int], npt.NDArray[np.int64]]:
    """Return the first position of each different key, by key, and the first position of each of `keys`, `(n,)`."""
    place: dict[str, int] = {}
    first = np.fromiter((place.setdefault(key, i) for i, key in enumerate(keys)), np.int64, len(keys))
    return place, first


def _places(column: pa.DictionaryArray, place: dict[str, int]) -> npt.NDArray[np.int64]:
    """Look up each value of a dictionary column in `place`; -1 if it is not there. Null stands for `ZERO_SHOT`."""
    keys = [*column.dictionary.to_pylist(), ZERO_SHOT]
    places = np.array([place.get(key, -1) for key in keys], dtype=np.int64)
    codes: npt.NDArray[np.int32] = column.indices.fill_null(len(keys) - 1).to_numpy(zero_copy_only=False)
    return places[codes]
