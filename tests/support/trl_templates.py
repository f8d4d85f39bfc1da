"""The chat templates that ship with TRL, by name."""

from __future__ import annotations

from importlib.resources import files

FOLDER = files("trl").joinpath("chat_templates")
SOURCES: dict[str, str] = {}
if FOLDER.is_dir():  # TRL 1.0 has none: the tests that read them are skipped
    for path in sorted(FOLDER.iterdir(), key=lambda path: path.name):
        if path.name.endswith(".jinja"):
            SOURCES[path.name.removesuffix(".jinja")] = path.read_text(encoding="utf-8")
