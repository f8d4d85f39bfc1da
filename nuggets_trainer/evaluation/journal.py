"""What a job has finished, on disk while it runs: records by key in JSON lines. Knows nothing of what is in them.

Each process that writes has a file of its own, which it only appends to, so that several may write at once and a line
that a kill cut short is never written into. A torn line has no closing brace, is no JSON, and is not used.
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

logger = logging.getLogger(__name__)


class Journal:
    """Records by key in a directory.

    Args:
        directory: local path; made when the first record is written.
    """

    def __init__(self, directory: str | Path) -> None:
        self.directory = Path(directory)
        self._path = self.directory / f"{uuid.uuid4().hex}.jsonl"
        self._lock = threading.Lock()

    def read(self) -> dict[str, Any]:
        """All finished records; where a key was written twice, the first one."""
        records: dict[str, Any] = {}
        damaged = 0
        for path in sorted(self.directory.glob("*.jsonl"), key=lambda path: (path.stat().st_mtime_ns, path.name)):
            for line in path.read_bytes().splitlines():
                try:
                    record = json.loads(line)
                    records.setdefault(record["key"], record["value"])
                except (ValueError, KeyError, TypeError):
                    damaged += 1
        if damaged:
            logger.warning(
                "%s: %d lines were cut short or damaged; what they held is made again.", self.directory, damaged
            )
        return records

    def append(self, records: Mapping[str, Any]) -> None:
        """Write records and have them on the disk on return; safe to call from several threads."""
        lines = [json.dumps({"key": key, "value": value}) + "\n" for key, value in records.items()]
        with self._lock:
            self.directory.mkdir(parents=True, exist_ok=True)
            with self._path.open("ab") as file:
                file.write("".join(lines).encode())
                file.flush()
                os.fsync(file.fileno())
