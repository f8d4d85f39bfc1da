"""The manifest of a score store: version of the layout, fields of the fingerprint, and what it was written with."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
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
from nuggets_trainer.store.fingerprint import ADDED_FIELDS, fingerprint_id, may_be_one_config

logger = logging.getLogger(__name__)

LAYOUT = 2  # 1: flat manifests, parts of any name, checked by page only


@dataclass(frozen=True)
class Manifest:
    """What the manifest of a store says.

    Attributes:
        layout: version of the store's layout; None if the manifest is torn.
        fields: fields of the fingerprint; None if the manifest is torn.
        written_with: version of transformers and entries of the model's config; None in stores of earlier versions.
    """

    layout: Any = None
    fields: dict[str, str] | None = None
    written_with: dict[str, Any] | None = None


def find_store(score_dir: Place, fields: dict[str, str], with_what: dict[str, Any] | None = None) -> tuple[Place, str]:
    """Find the directory of the scores with these fields, or the one store that may hold them under another name.

    Another version of transformers spells the config of the same model otherwise, and earlier versions of this package
    wrote fewer fields. Such a store is taken only if nothing else differs and there is no other; `check_stored_pairs`
    then computes some of its pairs again.

    Args:
        score_dir: directory of all stores.
        fields: fields of the fingerprint, from `fingerprint_fields`.
        with_what: what the scores are computed with, from `written_with`; None takes a store of the same fields alone.

    Returns:
        The directory, and how its fields differ; "" if they do not.
    """
    own = fingerprint_id(fields)
    directories = [name for name, is_file in sorted(list_directory(score_dir).items()) if not is_file]
    if own in directories or with_what is None:
        return join(score_dir, own), ""
    found = []
    for name in directories:
        try:
            manifest = _read(join(score_dir, name))
        except OSError:
            continue  # it is named when a new store is made
        if manifest is not None and _may_be_same(manifest, fields, with_what):
            assert manifest.fields is not None
            found.append((join(score_dir, name), _differences(manifest.fields, fields)))
    return found[0] if len(found) == 1 else (join(score_dir, own), "")


def _may_be_same(manifest: Manifest, fields: dict[str, str], with_what: dict[str, Any]) -> bool:
    """Whether two manifests may be of one model: nothing that both versions spell alike differs."""
    if manifest.layout != LAYOUT or manifest.fields is None:
        return False
    written, open_fields = manifest.written_with, {"config_sha256"}
    if written is None:
        open_fields |= ADDED_FIELDS - manifest.fields.keys()
    elif not may_be_one_config(written, with_what):
        return False
    names = (fields.keys() | manifest.fields.keys()) - open_fields
    return all(fields.get(name) == manifest.fields.get(name) for name in names)


def open_manifest(
    score_dir: Place, directory: Place, fields: dict[str, str], with_what: dict[str, Any] | None = None
) -> None:
    """Check the manifest of a store, or write the first one.

    Args:
        score_dir: directory of all stores.
        directory: directory of this store, named after the fields.
        fields: fields of the fingerprint, from `fingerprint_fields`.
        with_what: what the scores are computed with, from `written_with`; it is noted if the manifest lacks it.

    Raises:
        ValueError: if the store has another layout.
    """
    path = join(directory, "manifest.json")
    found = _read(directory)
    if found is None:
        _log_differences(score_dir, fields)
    else:
        if found.layout not in (LAYOUT, None):
            raise ValueError(
                f"The scores in {directory} must have layout {LAYOUT}, which this version of nuggets_trainer reads "
                f"and writes, got layout {found.layout!r}. Use another `score_dir`, or delete {directory} to score "
                "again."
            )
        if found.fields != fields:
            reason = "its fields are not those that its directory is named after"
            if found.fields is None:
                reason = "it is torn"
            set_aside(path, reason, "a new one is written")
        elif found.written_with is not None or with_what is None:
            return
    make_directory(directory)
    content: dict[str, Any] = {"layout": LAYOUT, "fields": fields}
    if with_what is not None:
        content["written_with"] = with_what
    write_atomically(path, json.dumps(content, indent=2).encode())


def _read(directory: Place) -> Manifest | None:
    """Read the manifest of a store; None if there is none."""
    try:
        return _parse(read_bytes(join(directory, "manifest.json")))
    except FileNotFoundError:
        return None


def _parse(content: bytes) -> Manifest:
    """Return what a manifest says, as far as it can be read."""
    try:
        manifest = json.loads(content)
    except ValueError:
        return Manifest()
    if not isinstance(manifest, dict) or not manifest:
        return Manifest()
    if "layout" in manifest:
        fields, written = manifest.get("fields"), manifest.get("written_with")
        if not isinstance(fields, dict):
            fields = None
        if not isinstance(written, dict) or not {"transformers", "config"} <= written.keys():
            written = None
        return Manifest(manifest["layout"], fields, written)
    if all(isinstance(value, str) for value in manifest.values()):
        return Manifest(1, manifest)  # layout 1 was the fields alone
    return Manifest()


def _log_differences(score_dir: Place, fields: dict[str, str]) -> None:
    """Warn which fields differ from those of scores that are already there and cannot be reused."""
    for name, is_file in sorted(list_directory(score_dir).items()):
        if is_file:
            continue
        directory = join(score_dir, name)
        try:
            manifest = _read(directory)
        except OSError:
            manifest = Manifest()
        if manifest is None:
            continue
        if manifest.fields is None:
            logger.warning(
                "The manifest %s cannot be read; its scores are not reused.", join(directory, "manifest.json")
            )
            continue
        logger.warning(
            "Scores in %s are not reused, because they differ in %s.", directory, _differences(manifest.fields, fields)
        )


def _differences(there: dict[str, str], now: dict[str, str]) -> str:
    differences = []
    for field in sorted(there.keys() | now.keys()):
        if there.get(field) != now.get(field):
            differences.append(f"{field}: {there.get(field)} there, {now.get(field)} now")
    return ", ".join(differences)
