"""The finished records of a running job, on disk: JSON lines with a key and a value.

Each process appends to a file of its own. So several processes can write at once, and nothing is ever written behind a
line that a kill cut short. Such a line has no closing brace; it is not JSON and is not used.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nuggets_trainer.wording import counted

logger = logging.getLogger(__name__)


class Journal:
    """Records by key in a directory.

    Args:
        directory: local directory, which the first record makes.
    """

    def __init__(self, directory: str | Path) -> None:
        self.directory = Path(directory)
        self._path = self.directory / f"{uuid.uuid4().hex}.jsonl"
        self._lock = threading.Lock()

    def read(self) -> dict[str, Any]:
        """Read all finished records; if a key was written twice, its first record counts."""
        records: dict[str, Any] = {}
        damaged = 0
        oldest_first = sorted(self.directory.glob("*.jsonl"), key=lambda path: (path.stat().st_mtime_ns, path.name))
        for path in oldest_first:
            for line in path.read_bytes().splitlines():
                try:
                    record = json.loads(line)
                    records.setdefault(record["key"], record["value"])
                except (ValueError, KeyError, TypeError):
                    damaged += 1
        if damaged:
            lines = counted(damaged, "damaged line")
            logger.warning(
                "%s has %s, which a kill may have cut short. Their records are made again.", self.directory, lines
            )
        return records

    def append(self, records: Mapping[str, Any]) -> None:
        """Write records; on return they are on the disk. Several threads can call it."""
        lines = [json.dumps({"key": key, "value": value}) + "\n" for key, value in records.items()]
        with self._lock:
            self.directory.mkdir(parents=True, exist_ok=True)
            with self._path.open("ab") as file:
                file.write("".join(lines).encode())
                file.flush()
                os.fsync(file.fileno())
