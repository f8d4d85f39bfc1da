"""What a report needs and the scores do not hold: `run.json` and `rows.parquet`, beside them. Knows no report.

`run.json` says how the scores came about: pool, selection rule, configuration, fingerprint, device, versions, totals.
`rows.parquet` holds the texts of some rows and the completion lengths of more, so that a report needs neither pool nor
model, and stays small over any pool:

| `part` | rows | texts |
| --- | --- | --- |
| kept | the best of the golden set, and its last | yes |
| rejected | the next behind the cut, the lowest, and a sample of the others | yes |
| dropped | the first of each reason | yes |
| anchor | the first `NUM_ANCHORS` | yes |
| length | a sample of the candidates | no |
| length_kept | a sample of the golden set | no |
| pilot | after a race: the random rows that it scored on all anchors | no |
"""

from __future__ import annotations

import dataclasses
import json
import platform
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from nuggets_trainer.data.row import Row, UnusableRowError, content_text, joined_text
from nuggets_trainer.golden.pilot import pilot_size
from nuggets_trainer.golden.selection import rank_candidates
from nuggets_trainer.store.files import Place, join, read_bytes, write_atomically

if TYPE_CHECKING:
    from nuggets_trainer.config.nuggets_config import NuggetsConfig
    from nuggets_trainer.data.pool import Pool
    from nuggets_trainer.golden.selection import GoldenSet
    from nuggets_trainer.prompts.shared_prefix import AnchorSet
    from nuggets_trainer.scoring.session import ScoringSession
    from nuggets_trainer.store.results import PoolScores

Ints = npt.NDArray[np.int64]

RUN_FILE = "run.json"
ROWS_FILE = "rows.parquet"
LAYOUT = 1
NUM_BEST, NUM_LAST = 250, 50  # of the golden set
NUM_NEXT, NUM_LOWEST, NUM_OTHERS = 100, 50, 100  # of those not kept
NUM_OF_REASON, NUM_DROPPED = 20, 200
NUM_ANCHORS = 500
NUM_LENGTHS, NUM_LENGTHS_KEPT = 8000, 2000
MAX_CHARACTERS = 4000  # of a prompt, and of a completion
# Options for `from_pretrained` that nobody wants in a file to show around.
SECRETS = ("token", "password", "secret", "credential", "api_key")
PACKAGES = ("accelerate", "datasets", "numpy", "peft", "torch", "transformers", "trl")

_SCHEMA = pa.schema(
    [
        ("part", pa.string()),
        ("index", pa.int64()),
        ("anchor", pa.int64()),
        ("prompt", pa.string()),
        ("completion", pa.string()),
        ("prompt_characters", pa.int64()),  # of the whole text, where it is cut here
        ("completion_characters", pa.int64()),
        ("completion_length", pa.int64()),  # in the `length_unit` of run.json
    ]
)

Decode = Callable[[list[int]], str]


def write_provenance(
    score_dir: Place,
    session: ScoringSession,
    anchor_set: AnchorSet,
    scores: PoolScores,
    golden_set: GoldenSet,
    model: Any,
    tokenizer: Any,
) -> None:
    """Write both files.

    Args:
        score_dir: where the scores are; a local path, or a URL for fsspec.
        session: of the run that is over.
        anchor_set: its anchors.
        scores: of the n pool rows.
        golden_set: what was kept.
        model: for its name.
        tokenizer: for rows that are tokenized already.

    Raises:
        OSError: if the files cannot be written; and what a pool's own `formatting_func` may raise.
    """
    rows = list(_shown_rows(session.pool, scores, golden_set, lambda ids: str(tokenizer.decode(ids))))
    rows += _anchor_rows(anchor_set, scores, lambda ids: str(tokenizer.decode(ids)))
    rows += _lengths(session, scores, golden_set)
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows, _SCHEMA), sink, compression="zstd")
    write_atomically(join(score_dir, ROWS_FILE), sink.getvalue())
    run = json.dumps({"model": model.config._name_or_path, **_run(session, scores, golden_set)}, indent=1, default=str)
    write_atomically(join(score_dir, RUN_FILE), run.encode())


def _run(session: ScoringSession, scores: PoolScores, golden_set: GoldenSet) -> dict[str, Any]:
    pool, engine = session.pool, session.engine
    manifest = json.loads(read_bytes(join(session.store.directory, "manifest.json")))
    return {
        "layout": LAYOUT,
        "written_at": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "pool": {
            "num_rows": len(pool),
            "format": pool.format,
            "columns": list(pool.dataset.column_names),
            "sha256": pool.content_hash,
        },
        "anchors": {
            "given": all(index is None for index in scores.anchors.pool_index),
            "num_anchors": len(scores.anchors),
            "dropped": Counter(reason for reason in scores.anchors.dropped if reason is not None),
            "num_cut": scores.anchors.num_cut,
        },
        "length_unit": "tokens" if pool.format == "tokenized" else "characters",
        "rule": list(golden_set.rule),
        "golden_set": golden_set.summary(),
        "groups": golden_set.groups,
        "scoring": scores.summary(),
        "dropped": dict(Counter(reason for reason in scores.dropped if reason is not None).most_common()),
        "config": _without_secrets(session.config),
        "template": session.template.name,
        "fingerprint": {"id": session.store.fingerprint, "fields": manifest["fields"]},
        "device": {
            "processes": session.ranks.world,
            "device": _device_name(session.ranks.device),
            "path": engine.path,
            "tokens_per_batch": engine.tokens_per_batch,
        },
        "versions": {
            "nuggets_trainer": version("nuggets_trainer"),
            "python": platform.python_version(),
            **{package: version(package) for package in PACKAGES},
        },
    }


def _without_secrets(config: NuggetsConfig) -> dict[str, Any]:
    values = dataclasses.asdict(config)
    if config.scorer_model_init_kwargs is not None:
        values["scorer_model_init_kwargs"] = {
            name: "(not shown)" if any(word in name.lower() for word in SECRETS) else value
            for name, value in config.scorer_kwargs.items()
        }
    return values


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def _shown_rows(pool: Pool, scores: PoolScores, golden_set: GoldenSet, decode: Decode) -> Iterator[dict[str, Any]]:
    """Rows of the pool with their texts."""
    kept = golden_set.indices
    best, last = kept[:NUM_BEST], kept[NUM_BEST:][-NUM_LAST:]
    for part, indices in (("kept", [*best, *last]), ("rejected", _rejected(scores, golden_set))):
        for i in indices:
            yield {"part": part, "index": int(i), **display_texts(pool[int(i)], decode)}
    counts: Counter[str] = Counter()
    for i, reason in enumerate(scores.dropped):
        if reason is not None and counts[reason] < NUM_OF_REASON and counts.total() < NUM_DROPPED:
            counts[reason] += 1
            yield {"part": "dropped", "index": i, **_dropped_texts(pool, i, decode)}


def _rejected(scores: PoolScores, golden_set: GoldenSet) -> Ints:
    """Pool indices of some candidates that were not kept: the next, the lowest, and others at random."""
    eliminated = np.flatnonzero(~np.isnan(scores.upper_bound))
    ranked = rank_candidates(scores)
    others = np.concatenate([ranked[~np.isin(ranked, golden_set.indices)], eliminated])
    rest = others[NUM_NEXT : max(NUM_NEXT, len(others) - NUM_LOWEST)]
    drawn = np.random.default_rng(0).permutation(len(rest))[:NUM_OTHERS]
    return np.unique(np.concatenate([others[:NUM_NEXT], others[-NUM_LOWEST:], rest[np.sort(drawn)]]))


def _anchor_rows(anchor_set: AnchorSet, scores: PoolScores, decode: Decode) -> Iterator[dict[str, Any]]:
    for j, row in zip(anchor_set.usable[:NUM_ANCHORS], anchor_set.rows, strict=False):
        index = scores.anchors.pool_index[j]
        yield {"part": "anchor", "anchor": j, "index": index, **display_texts(row, decode)}


def _lengths(session: ScoringSession, scores: PoolScores, golden_set: GoldenSet) -> Iterator[dict[str, Any]]:
    """Completion lengths of some samples, in pool order."""
    generator = np.random.default_rng(0)
    candidates = np.array([i for i, reason in enumerate(scores.dropped) if reason is None], dtype=np.int64)
    samples = {
        "length": generator.permutation(candidates)[:NUM_LENGTHS],
        "length_kept": generator.permutation(golden_set.indices)[:NUM_LENGTHS_KEPT],
        "pilot": _pilot(session.keys, candidates, scores) if scores.num_eliminated else candidates[:0],
    }
    for part, indices in samples.items():
        for i in np.sort(indices):
            yield {"part": part, "index": int(i), "completion_length": _completion_length(session.pool[int(i)])}


def _pilot(keys: list[str], candidates: Ints, scores: PoolScores) -> Ints:
    """Return the rows that a race scores on all anchors whatever they are worth: those with the smallest hashes.

    All other rows with a golden score have it because they were good: what is counted over these is counted over a
    selection.
    """
    first: dict[str, int] = {}
    for i in candidates.tolist():
        first.setdefault(keys[i], i)
    pilot = np.array([first[key] for key in sorted(first)[: pilot_size(len(first))]], dtype=np.int64)
    return pilot[np.isnan(scores.upper_bound[pilot])]


def _completion_length(row: Row) -> int:
    return len(joined_text(row.completion)) if row.tokens is None else len(row.tokens[1])


def display_texts(row: Row, decode: Decode) -> dict[str, Any]:
    """Return prompt and completion as text, cut at `MAX_CHARACTERS`, and how long they are uncut."""
    if row.tokens is None:
        return _bounded(_as_text(row.prompt), _as_text(row.completion), _completion_length(row))
    ids, scored = row.tokens
    return _bounded(decode(list(ids[: scored[0]])), decode(list(ids[scored[0] :])), len(scored))


def _dropped_texts(pool: Pool, index: int, decode: Decode) -> dict[str, Any]:
    """Texts of a row that may be unreadable: its columns as JSON in place of a prompt."""
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
    """Replace lone surrogates, which no UTF-8 can hold."""
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
