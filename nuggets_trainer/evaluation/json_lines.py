"""Files with one JSON object on each line: read with the number of a bad line, written whole."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nuggets_trainer.store.files import write_atomically

Record = dict[str, Any]


def read_lines(path: Path) -> list[Record]:
    """Read all objects of a file.

    Raises:
        ValueError: if a line is not JSON; the message names the line.
    """
    records = []
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), 1):
        if not line.strip():
            continue
        try:
            records.append(json.loads(line))
        except ValueError as error:
            raise ValueError(f"{path}, line {number} is not JSON: {error}.") from error
    return records


def read_lines_if_any(path: Path) -> list[Record]:
    """Read all objects of a file; none if there is no such file."""
    return read_lines(path) if path.is_file() else []


def write_lines(path: Path, records: Sequence[Record]) -> None:
    """Write a file whole; make its directory if there is none."""
    lines = [json.dumps(record) + "\n" for record in records]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, "".join(lines).encode())
