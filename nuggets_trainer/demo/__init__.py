"""The embedded model and rows: tiny, of known quality, made by this project.

Does not know torch: it names files.

`recipes/demo_assets/build_demo.py` rebuilds all of it, byte for byte on one machine. The model (Llama, 1.1 million
parameters) was trained from scratch on documents whose answers are all clean or all corrupted in one way. So it
learned to tell from an example how good the next answer will be. The pool holds 1,836 rows of 9 task families. Half of
them are clean, the others have one of six corruptions: `wrong` (a typical mistake: "goed" for "went"), `swapped` (the
answer of another row), `truncated`, `garbled`, `off_format`, `empty`. The column `corruption` holds the label;
selection never reads it.

Measured (docs/log/demo.md): nearly every corrupted row of the pool scores below nearly every clean one. The model does
not notice a right answer to another prompt of the same family; such rows are in `stress` (AUC 0.5), not in the pool.

The demo shows the method on data made for it. It is no evidence about real pools.
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

DEMO = "nuggets-demo"
_ASSETS = {
    "model": "model",
    "pool": "pool.jsonl",
    "anchors": "anchors.jsonl",
    "heldout": "heldout.jsonl",
    "stress": "stress.jsonl",
}


def demo_path(name: str) -> Path:
    """Return the path of an embedded asset.

    Args:
        name: "model" (a folder), "pool", "anchors", "heldout" or "stress" (JSON Lines).

    Raises:
        ValueError: if there is no such asset.

    Example:
        >>> demo_path("anchors").name
        'anchors.jsonl'
    """
    if name not in _ASSETS:
        raise ValueError(f"`name` must be one of {', '.join(_ASSETS)}, got {name!r}.")
    return Path(str(files(__name__))) / _ASSETS[name]


def resolve_demo(name: str) -> str:
    """Return the path of the embedded asset that `nuggets-demo/<asset>` names; any other name comes back as it is.

    Example:
        >>> resolve_demo("Qwen/Qwen3-0.6B")
        'Qwen/Qwen3-0.6B'
    """
    prefix = f"{DEMO}/"
    if not name.startswith(prefix):
        return name
    return str(demo_path(name.removeprefix(prefix)))
