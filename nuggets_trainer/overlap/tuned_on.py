"""What the pool and the anchors that a tuned model was selected with share with the questions that it is asked."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nuggets_trainer.config.column_mapping import read_column_mapping
from nuggets_trainer.data.anchors import anchors_like
from nuggets_trainer.data.columns import map_columns
from nuggets_trainer.data.dataset import take_pool
from nuggets_trainer.data.loading import load_rows
from nuggets_trainer.data.pool import Pool
from nuggets_trainer.overlap.find import find_overlap
from nuggets_trainer.store.selection_file import read_row_places
from nuggets_trainer.wording import counted

Tests = Mapping[str, Sequence[str]]


def describe_shared_questions(file: Path, tests: Tests) -> str:
    """Say how many rows and anchors hold questions of tests, or why this is not known.

    Args:
        file: record of the selection, which training writes beside a model.
        tests: questions of each test, by its name.
    """
    asked = " and ".join(tests)
    unknown = f"The rows that the model was selected from were not searched for questions of {asked}: "
    if not file.is_file():
        return f"{unknown}there is no {file.name} beside the model."
    record = json.loads(file.read_text(encoding="utf-8"))
    rows = read_row_places(file)
    if not rows.get("pool"):
        return f"{unknown}{file} does not name their file. Only rows that `load_rows` has loaded have a known one."
    path = rows["pool"][0]
    try:
        pool = _read_pool(rows)
        has_same_rows = pool.content_hash == record["settings"].get("pool_sha256")
        anchors = _read_anchors(rows, pool)
    except Exception as error:  # noqa: BLE001 - the model can be asked all the same
        return f"{unknown}{path} cannot be read ({error})."
    if not has_same_rows:
        return f"{unknown}{path} does not hold the same rows."
    if "tokenized" in (rows_of.format for rows_of in (pool, *anchors)):
        return f"{unknown}they are tokenized, and words are compared."
    return _describe(pool, anchors, tests, record["indices"])


def _describe(pool: Pool, anchors: Sequence[Pool], tests: Tests, chosen: Sequence[int]) -> str:
    """Count the rows, those of the golden set among them, and the anchors that hold questions."""
    asked = " and ".join(tests)
    found = find_overlap(pool, tests, with_near=False).contaminated
    num_anchors = sum(len(find_overlap(one, tests, with_near=False).contaminated) for one in anchors)
    if not found and not num_anchors:
        searched = "No row of the pool, and no given anchor," if anchors else "No row of the pool"
        return f"{searched} holds a question of {asked}."
    num_chosen = sum(1 for i in chosen if i in found)
    parts = []
    if found:
        parts.append(f"{counted(len(found), 'row')} of the pool ({num_chosen:,} of the golden set)")
    if num_anchors:
        parts.append(counted(num_anchors, "anchor"))
    is_one = len(found) + num_anchors == 1
    return (
        f"{' and '.join(parts)} {'holds' if is_one else 'hold'} questions of {asked}, word for word or slightly "
        "reworded, so results on these may be too good. `decontaminate` leaves such rows out."
    )


def _read_pool(rows: dict[str, Any]) -> Pool:
    loaded = take_pool(load_rows(*rows["pool"]), rows.get("pool_size"))
    return Pool(loaded, columns=rows.get("columns"), text_field=rows.get("dataset_text_field", "text"))


def _read_anchors(rows: dict[str, Any], pool: Pool) -> list[Pool]:
    """Read the anchors whose file is known; none if they were chosen from the pool."""
    own = read_column_mapping(rows.get("anchor_columns"), "anchor_columns")
    of_pool = read_column_mapping(rows.get("columns"))
    found = []
    for place in (rows.get("anchors") or {}).values():
        if place is None:
            continue
        loaded = load_rows(*place)
        mapped = map_columns(loaded, own, "anchors", is_pool=False, option="anchor_columns")
        if mapped is loaded:
            mapped = map_columns(loaded, of_pool, "anchors", is_pool=False)
        found.append(anchors_like(mapped, pool))
    return found
