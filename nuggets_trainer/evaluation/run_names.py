"""The names of runs: each stands for the answers of one model, made with one set of settings."""

from __future__ import annotations

import csv
import importlib.util
import json
import re
from pathlib import Path
from typing import Any

from nuggets_trainer.evaluation.answer_files import alpaca_outputs_path, mt_bench_answer_path
from nuggets_trainer.store.files import write_atomically

GENERATION_FILE = "generation.json"  # how the answers were made
OLD_GENERATION_FILE = "run.json"  # its name in 0.1; scoring has a run.json of its own
RESERVED = ("mt_bench", "replies", "pairwise")
NAME_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def claim_name(output_dir: Path, name: str, model: str, settings: dict[str, Any], taken: set[str]) -> Path:
    """Return the run's directory, after making it if needed; refuse a name that stands for other answers.

    Args:
        output_dir: directory of all runs.
        name: name of the run; it becomes a file name and AlpacaEval's `generator`.
        model: name of the model, for people to read.
        settings: everything that can change an answer.
        taken: names of the official leaderboard, whose answers the official tools would silently keep instead.

    Raises:
        ValueError: if the name cannot be a file name, or is taken by answers that were made with other settings.
    """
    if not NAME_PATTERN.fullmatch(name) or name in RESERVED:
        raise ValueError(
            f"`name` must consist of letters, digits, `.`, `_` and `-`, because it names files, and must not be one "
            f"of {', '.join(RESERVED)}; got {name!r}. Choose another name."
        )
    if name in taken:
        raise ValueError(
            f"`name` must be new, got {name!r}, which is on AlpacaEval's leaderboard: the official tool would "
            "silently keep the old answers. Choose another name."
        )
    directory = output_dir / name
    path, answer_path = _generation_path(directory), mt_bench_answer_path(output_dir, name)
    if path.is_file():
        before = json.loads(path.read_text(encoding="utf-8"))["settings"]
        changes = []
        for key in sorted(before.keys() | settings.keys()):
            old, new = before.get(key), settings.get(key)
            if old != new:
                changes.append(f"{key} was {old!r} and is now {new!r}")
        if changes:
            raise ValueError(
                f"`name` must be new, got {name!r}, which stands for other answers in {directory}: "
                f"{', '.join(changes)}. Choose another name, or remove that directory and {answer_path}."
            )
    elif answer_path.is_file() or alpaca_outputs_path(output_dir, name).is_file():
        raise ValueError(
            f"`name` must be new, got {name!r}, which stands for answers in {output_dir} that were not made here. "
            "Choose another name."
        )
    else:
        directory.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps({"model": model, "settings": settings}, indent=1).encode())
    return directory


def run_names(output_dir: Path) -> list[str]:
    """Return the names of the runs in a directory that this project has made answers of, in alphabetical order."""
    names = []
    for directory in sorted(output_dir.glob("*")):
        if _generation_path(directory).is_file():
            names.append(directory.name)
    return names


def known_names() -> set[str]:
    """Return the generators of the official leaderboards; without the package, only the two references."""
    names = {"text_davinci_003", "gpt4_1106_preview"}
    spec = importlib.util.find_spec("alpaca_eval")
    if spec is None or spec.submodule_search_locations is None:
        return names
    for folder in spec.submodule_search_locations:
        for path in Path(folder).glob("leaderboards/data_AlpacaEval*/*.csv"):
            with path.open(newline="", encoding="utf-8") as file:
                rows = csv.reader(file)
                next(rows, None)  # headings
                names.update(row[0] for row in rows if row)
    return names


def _generation_path(directory: Path) -> Path:
    """Return the path of the settings of a run; they have an older name if they were written by an older version."""
    old, path = directory / OLD_GENERATION_FILE, directory / GENERATION_FILE
    return old if not path.is_file() and _tells_of_answers(old) else path


def _tells_of_answers(path: Path) -> bool:
    """Whether a file of this name was written for answers: a directory of scores has one too."""
    try:
        return "settings" in json.loads(path.read_text(encoding="utf-8"))
    except (OSError, TypeError, ValueError):
        return False
