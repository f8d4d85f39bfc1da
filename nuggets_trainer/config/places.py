"""Places of rows in options: the pool, and one or several sets by name, in the words of `datasets.load_dataset`."""

from __future__ import annotations

import json
import posixpath
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

PLACE_KEYS = ("path", "name", "split")  # arguments of `datasets.load_dataset`


@dataclass
class PoolArguments:
    """Where the pool comes from; names and defaults are those of TRL's `ScriptArguments`."""

    title: ClassVar[str] = "rows (names and defaults of trl.ScriptArguments)"

    dataset_name: str | None = field(
        default=None,
        metadata={
            "help": "Pool: a hub dataset, a local directory, a .json, .jsonl, .csv, .tsv or .parquet file, or "
            "`nuggets-demo/pool`."
        },
    )
    dataset_config: str | None = field(default=None, metadata={"help": "Configuration of a hub dataset."})
    dataset_train_split: str = field(
        default="train", metadata={"help": "Split that is the pool; a single file is its own split."}
    )
    dataset_streaming: bool = field(
        default=False, metadata={"help": "Stream the rows and take the first `pool_size` of them."}
    )


class RowPlace(NamedTuple):
    """Where rows are.

    Attributes:
        path: hub dataset, local directory or file.
        name: configuration of the dataset; None if it has only one.
        split: split; a single file is one split and ignores it.
    """

    path: str
    name: str | None = None
    split: str = "train"

    @property
    def label(self) -> str:
        """Name for people, another one for each place.

        Example:
            >>> RowPlace("cais/mmlu", "anatomy", "test").label
            'cais/mmlu anatomy (test)'
        """
        name = self.path if self.name is None else f"{self.path} {self.name}"
        return name if self.split == "train" else f"{name} ({self.split})"


def read_places(value: Any, split: str = "train") -> dict[str, RowPlace]:
    """Read the value of an option: a place, or a mapping of names to places; a mapping may be text in JSON.

    Args:
        value: value of the option.
        split: split of places that name none.

    Returns:
        Places by name; a place without a name stands under the empty name.

    Raises:
        ValueError: if it is neither.

    Example:
        >>> read_places('{"math": "math.jsonl", "chat": {"path": "chat", "split": "test"}}')["chat"]
        RowPlace(path='chat', name=None, split='test')
    """
    if isinstance(value, str) and value.lstrip().startswith("{"):  # the command line gives a mapping as JSON
        value = json.loads(value)
    if isinstance(value, str) or _is_place(value):
        return {"": _place(value, split)}
    if not isinstance(value, dict):
        raise ValueError(f"it is of type {type(value).__name__}")
    return {name: _place(place, split) for name, place in value.items()}


def score_dir_of_job(output_dir: str) -> str:
    """Return where a training job has its scores, if no `score_dir` is given; `nuggets score` looks there too.

    Example:
        >>> score_dir_of_job("out/"), score_dir_of_job("")
        ('out/nuggets', 'nuggets')
    """
    return posixpath.join(output_dir, "nuggets")  # "" is the current directory; a URL stays one


def is_text(value: object) -> bool:
    """Whether a value is a text that is not empty."""
    return isinstance(value, str) and value != ""


def _is_place(value: object) -> bool:
    """Whether a mapping is one place, and not a mapping of sets."""
    return isinstance(value, dict) and "path" in value and set(value) <= set(PLACE_KEYS)


def _place(value: object, split: str) -> RowPlace:
    """Read a place: a name alone, or a mapping with `path`, `name` and `split`.

    Raises:
        ValueError: if it is neither.
    """
    if is_text(value):
        return RowPlace(str(value), split=split)
    if isinstance(value, dict) and _is_place(value):
        given = {key: part for key, part in value.items() if part is not None}
        if "path" in given and all(is_text(part) for part in given.values()):
            return RowPlace(**{"split": split, **given})
    raise ValueError(f"{value!r} does not name a place of rows")
