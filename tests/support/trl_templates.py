"""The chat templates that ship with TRL, by name."""

from __future__ import annotations

from importlib.resources import files

SOURCES = {
    path.name.removesuffix(".jinja"): path.read_text(encoding="utf-8")
    for path in sorted(files("trl").joinpath("chat_templates").iterdir(), key=lambda path: path.name)
    if path.name.endswith(".jinja")
}
