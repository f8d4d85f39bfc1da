"""`rows.parquet`: texts of some rows and completion lengths of more, so that a report needs no pool and no model.

The file stays small over any pool. Its rows belong to parts:

| `part` | rows | texts |
| --- | --- | --- |
| kept | the best rows of the golden set, and its last ones | yes |
| rejected | the next rows after the cut, the lowest, and a sample of the others | yes |
| dropped | the first rows of each reason | yes |
| anchor | the first `NUM_ANCHORS` anchors | yes |
| length | a sample of the candidates | no |
| length_kept | a sample of the golden set | no |
| pilot | after a race: the random rows that it scored on all anchors | no |
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from nuggets_trainer.data.formats import ROW_COLUMNS
from nuggets_trainer.data.row import Row, UnusableRowError, content_text, joined_text
from nuggets_trainer.golden.arrays import Ints
from nuggets_trainer.golden.ranking import rank_candidates
from nuggets_trainer.store.files import Place, join, write_atomically

if TYPE_CHECKING:
    from nuggets_trainer.data.pool import Pool
    from nuggets_trainer.golden.selection import GoldenSet
    from nuggets_trainer.store.results import PoolScores

Decode = Callable[[list[int]], str]

ROWS_FILE = "rows.parquet"
_TEXTS = ("prompt", "completion", "prompt_characters", "completion_characters", "completion_length")
NUM_BEST, NUM_LAST = 250, 50  # rows of the golden set
NUM_NEXT, NUM_LOWEST, NUM_OTHERS = 100, 50, 100  # candidates that were not kept
NUM_OF_REASON, NUM_DROPPED = 20, 200
NUM_ANCHORS = 500
NUM_LENGTHS, NUM_LENGTHS_KEPT = 8000, 2000
MAX_CHARACTERS = 4000  # stored of a prompt, and of a completion
MAX_COLUMNS, MAX_VALUE = 12, 200  # other columns of a row, and characters of a value

_SCHEMA = pa.schema(
    [
        ("part", pa.string()),
        ("index", pa.int64()),
        ("anchor", pa.int64()),
        ("prompt", pa.string()),
        ("completion", pa.string()),
        ("prompt_characters", pa.int64()),  # length of the whole text, which may be cut here
        ("completion_characters", pa.int64()),
        ("completion_length", pa.int64()),  # in the `length_unit` of run.json
        ("columns", pa.string()),  # short values of the row's other columns, as JSON
    ]
)


def write_shown_rows(
    score_dir: Place,
    pool: Pool,
    anchor_rows: Mapping[int, Row],
    scores: PoolScores,
    golden_set: GoldenSet,
    pilot: Sequence[int],
    decode: Decode,
) -> None:
    """Write rows.parquet.

    Args:
        score_dir: directory of the scores; a local path, or a URL for fsspec.
        pool: the n rows that were scored.
        anchor_rows: rows of the anchors that could be scored, by position among all anchors.
        scores: scores of the n rows.
        golden_set: the rows that were kept.
        pilot: pool indices of the random rows that a race scored on all anchors; empty after an exact run.
        decode: the tokenizer's `decode`, for rows that hold token ids.

    Raises:
        OSError: if the file cannot be written; and whatever a pool's own `formatting_func` raises.
    """
    rows = list(_pool_rows(pool, scores, golden_set, decode))
    rows += _anchor_rows(anchor_rows, scores, decode)
    rows += _lengths(pool, scores, golden_set, pilot)
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows, _SCHEMA), sink, compression="zstd")
    write_atomically(join(score_dir, ROWS_FILE), sink.getvalue())


def texts_of(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the texts of one row of the file, their lengths, and the row's other `columns` by name."""
    columns = row.get("columns")  # earlier versions did not write them
    return {**{name: row[name] for name in _TEXTS}, "columns": json.loads(columns) if columns else {}}


def length_unit(pool: Pool) -> str:
    """Return the unit of completion lengths: rows that hold token ids have no characters to count."""
    return "tokens" if pool.format == "tokenized" else "characters"


def _pool_rows(pool: Pool, scores: PoolScores, golden_set: GoldenSet, decode: Decode) -> Iterator[dict[str, Any]]:
    """Yield kept, rejected and dropped rows with their texts."""
    kept = golden_set.indices
    best, last = kept[:NUM_BEST], kept[NUM_BEST:][-NUM_LAST:]
    for part, indices in (("kept", np.concatenate([best, last])), ("rejected", _rejected(scores, golden_set))):
        for i in indices.tolist():
            yield {"part": part, "index": i, **display_texts(pool[i], decode), "columns": _other_columns(pool, i)}
    counts: Counter[str] = Counter()
    for i, reason in enumerate(scores.dropped):
        if reason is not None and counts[reason] < NUM_OF_REASON and counts.total() < NUM_DROPPED:
            counts[reason] += 1
            yield {"part": "dropped", "index": i, **_dropped_texts(pool, i, decode)}


def _other_columns(pool: Pool, index: int) -> str | None:
    """Return the columns of a row that its texts are not made of, as JSON: short texts, numbers and truth values."""
    found: dict[str, Any] = {}
    for name, value in pool.record(index).items():
        is_short = isinstance(value, (int, float)) or (isinstance(value, str) and len(value) <= MAX_VALUE)
        if is_short and name not in ROW_COLUMNS and name != pool.text_field and len(found) < MAX_COLUMNS:
            found[name] = _storable(value) if isinstance(value, str) else value
    return json.dumps(found, ensure_ascii=False) if found else None


def _rejected(scores: PoolScores, golden_set: GoldenSet) -> Ints:
    """Pool indices of some candidates that were not kept: the next ones, the lowest, and others at random."""
    ranked = rank_candidates(scores, golden_set.rank_by)
    not_kept = ranked[~np.isin(ranked, golden_set.indices)]
    eliminated = np.flatnonzero(~np.isnan(scores.upper_bound) & np.isnan(scores.golden_score))
    candidates = np.concatenate([not_kept, eliminated])
    rest = candidates[NUM_NEXT : max(NUM_NEXT, len(candidates) - NUM_LOWEST)]
    drawn = np.random.default_rng(0).permutation(len(rest))[:NUM_OTHERS]
    return np.unique(np.concatenate([candidates[:NUM_NEXT], candidates[-NUM_LOWEST:], rest[np.sort(drawn)]]))


def _anchor_rows(anchor_rows: Mapping[int, Row], scores: PoolScores, decode: Decode) -> Iterator[dict[str, Any]]:
    for j in list(anchor_rows)[:NUM_ANCHORS]:
        index = scores.anchors.pool_index[j]
        yield {"part": "anchor", "anchor": j, "index": index, **display_texts(anchor_rows[j], decode)}


def _lengths(pool: Pool, scores: PoolScores, golden_set: GoldenSet, pilot: Sequence[int]) -> Iterator[dict[str, Any]]:
    """Yield completion lengths of three samples, each in pool order."""
    generator = np.random.default_rng(0)
    candidates = np.array([i for i, reason in enumerate(scores.dropped) if reason is None], dtype=np.int64)
    samples = {
        "length": generator.permutation(candidates)[:NUM_LENGTHS],
        "length_kept": generator.permutation(golden_set.indices)[:NUM_LENGTHS_KEPT],
        "pilot": np.array(pilot, dtype=np.int64),
    }
    for part, indices in samples.items():
        for i in np.sort(indices).tolist():
            yield {"part": part, "index": i, "completion_length": _completion_length(pool[i])}


def _completion_length(row: Row) -> int:
    return len(joined_text(row.completion)) if row.tokens is None else len(row.tokens[1])


def display_texts(row: Row, decode: Decode) -> dict[str, Any]:
    """Return prompt and completion as text, cut at `MAX_CHARACTERS`, and their lengths before the cut."""
    if row.tokens is None:
        return _bounded(_as_text(row.prompt), _as_text(row.completion), _completion_length(row))
    ids, scored = row.tokens
    return _bounded(decode(list(ids[: scored[0]])), decode(list(ids[scored[0] :])), len(scored))


def _dropped_texts(pool: Pool, index: int, decode: Decode) -> dict[str, Any]:
    """Texts of a row; if it cannot be read, its columns as JSON in place of the prompt."""
    try:
        return display_texts(pool[index], decode)
    except UnusableRowError:
        record = json.dumps(pool.record(index), ensure_ascii=False, default=str)
        return _bounded(record, "", None)


def _bounded(prompt: str, completion: str, completion_length: int | None) -> dict[str, Any]:
    return {
        "prompt": _storable(prompt[:MAX_CHARACTERS]),
        "completion": _storable(completion[:MAX_CHARACTERS]),
        "prompt_characters": len(prompt),
        "completion_characters": len(completion),
        "completion_length": completion_length,
    }


def _storable(text: str) -> str:
    """Replace lone surrogates, which UTF-8 cannot hold."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _as_text(part: Any) -> str:
    """Show one message as its content, several with their roles."""
    if isinstance(part, str):
        return part
    if len(part) == 1 and not part[0].get("tool_calls"):
        return content_text(part[0])
    return "\n\n".join(_message(message) for message in part)


def _message(message: dict[str, Any]) -> str:
    said = content_text(message)
    calls = message.get("tool_calls")
    if calls:
        said = f"{said}\n{json.dumps(calls, ensure_ascii=False, default=str)}".strip()
    return f"[{message['role']}]\n{said}"
