"""The manifest of a score store: the version of its layout, and every field of its fingerprint."""

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
        score_dir: directory of all stores.
        directory: directory of this store, named after the fields.
        fields: fields of the fingerprint, from `fingerprint_fields`.

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
                f"The scores in {directory} must have layout {LAYOUT}, which this version of nuggets_trainer reads "
                f"and writes, got layout {layout!r}. Use another `score_dir`, or delete {directory} to score again."
            )
        if found == fields:
            return
        reason = "its fields are not those that its directory is named after"
        if found is None:
            reason = "it is torn"
        set_aside(path, reason, "a new one is written")
    make_directory(directory)
    write_atomically(path, json.dumps({"layout": LAYOUT, "fields": fields}, indent=2).encode())


def _parse(content: bytes) -> tuple[Any, dict[str, str] | None]:
    """Return layout and fields; None for either that cannot be read."""
    try:
        manifest = json.loads(content)
    except ValueError:
        return None, None
    if not isinstance(manifest, dict) or not manifest:
        return None, None
    if "layout" in manifest:
        fields = manifest.get("fields")
        if not isinstance(fields, dict):
            fields = None
        return manifest["layout"], fields
    if all(isinstance(value, str) for value in manifest.values()):
        return 1, manifest  # layout 1 was the fields alone
    return None, None


def _log_differences(score_dir: Place, fields: dict[str, str]) -> None:
    """Warn which fields differ from those of scores that are already there and cannot be reused."""
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
        differences = []
        for field in sorted(fields.keys() | other.keys()):
            if fields.get(field) != other.get(field):
                differences.append(f"{field}: {other.get(field)} there, {fields.get(field)} now")
        logger.warning(
            "Scores in %s are not reused, because they differ in %s.", join(score_dir, name), ", ".join(differences)
        )
