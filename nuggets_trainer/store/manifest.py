"""The manifest of a score store: its layout's version and its fingerprint, spelled out. Knows no parts."""

from __future__ import annotations

import json
import logging
from typing import Any

from nuggets_trainer.store.files import (
    Place,
    join,
    list_directory,
    make_directory,
    read_bytes,
    set_aside,
    write_atomically,
)

logger = logging.getLogger(__name__)

LAYOUT = 2  # 1: flat manifests, parts of any name, checked by page only


def open_manifest(score_dir: Place, directory: Place, fields: dict[str, str]) -> None:
    """Check the manifest of a store, or write the first one.

    Args:
        score_dir: where all stores are.
        directory: the store's own, named after the fields.
        fields: what `fingerprint_fields` returns.

    Raises:
        ValueError: if the store has another layout.
    """
    path = join(directory, "manifest.json")
    try:
        content = read_bytes(path)
    except FileNotFoundError:
        _log_differences(score_dir, fields)
    else:
        layout, found = _parse(content)
        if layout not in (LAYOUT, None):
            raise ValueError(
                f"The scores in {directory} have layout {layout!r}; this version of nuggets_trainer reads and writes "
                f"layout {LAYOUT}. Use another `score_dir`, or delete {directory} to score anew."
            )
        if found == fields:
            return
        reason = "it is torn" if found is None else "its fields are not those that its directory is named after"
        set_aside(path, reason, "a new one is written")
    make_directory(directory)
    write_atomically(path, json.dumps({"layout": LAYOUT, "fields": fields}, indent=2).encode())


def _parse(content: bytes) -> tuple[Any, dict[str, str] | None]:
    """Return layout and fields; None for both where they cannot be told."""
    try:
        manifest = json.loads(content)
    except ValueError:
        return None, None
    if not isinstance(manifest, dict) or not manifest:
        return None, None
    if "layout" in manifest:
        fields = manifest.get("fields")
        return manifest["layout"], fields if isinstance(fields, dict) else None
    if all(isinstance(value, str) for value in manifest.values()):
        return 1, manifest
    return None, None


def _log_differences(score_dir: Place, fields: dict[str, str]) -> None:
    """Say why scores that are already there are not reused."""
    for name, is_file in sorted(list_directory(score_dir).items()):
        if is_file:
            continue
        manifest = join(score_dir, name, "manifest.json")
        try:
            _, other = _parse(read_bytes(manifest))
        except FileNotFoundError:
            continue
        except OSError:
            other = None
        if other is None:
            logger.warning("The manifest %s cannot be read; its scores are not reused.", manifest)
            continue
        names = sorted(name for name in fields.keys() | other.keys() if fields.get(name) != other.get(name))
        changes = ", ".join(f"{name}: {other.get(name)} there, {fields.get(name)} now" for name in names)
        logger.warning("Scores in %s are not reused, they differ in %s.", join(score_dir, name), changes)
