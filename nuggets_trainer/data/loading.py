"""Rows by name: a hub dataset, a local directory, a file, or the embedded demo."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nuggets_trainer.demo import resolve_demo

if TYPE_CHECKING:
    from datasets import Dataset

    from nuggets_trainer.config.nuggets_config import NuggetsConfig

FILE_BUILDERS = {".json": "json", ".jsonl": "json", ".csv": "csv", ".parquet": "parquet"}


def check_there(config: NuggetsConfig, rows: Mapping[str, str | None], models: Mapping[str, str | None]) -> None:
    """Refuse paths that lead nowhere, before anything is imported or loaded; names of the hub pass.

    Args:
        config: its `anchors` and `scorer_model` are looked for.
        rows: names of rows by the option that gives them.
        models: names of models likewise.

    Raises:
        FileNotFoundError: if a name can only be a path and nothing is there; the error names the option.
        ValueError: if rows are in a file of an unknown type.
    """
    for option, name in rows.items():
        if name is not None:
            _check_rows(f"--{option}", name)
    for name in (config.anchor_sets or {}).values():
        _check_rows("--anchors", name)
    for option, name in {**models, "scorer_model": config.scorer_model}.items():
        if name is not None and _is_path(name) and not Path(name).exists():
            raise FileNotFoundError(
                f"`--{option}`: there is no directory {name!r}. Expected one with a model in it (config.json, "
                "weights, tokenizer), or a name on the hub, such as Qwen/Qwen3-0.6B."
            )


def _is_path(name: str) -> bool:
    """Whether a name can be no name on the hub, which has one slash at most."""
    return name.startswith(("/", ".", "~")) or name.count("/") > 1


def _check_rows(option: str, name: str) -> None:
    path = Path(resolve_demo(name))
    if path.is_dir():
        return
    known = ", ".join(FILE_BUILDERS)
    if path.is_file():
        if path.suffix not in FILE_BUILDERS:
            raise ValueError(f"`{option}`: {name!r} has an unknown file type. Expected {known}.")
    elif path.suffix in FILE_BUILDERS:
        raise FileNotFoundError(f"`{option}`: there is no file {name!r}. Expected rows in {known}.")
    elif _is_path(name):
        raise FileNotFoundError(
            f"`{option}`: there is no file or directory {name!r}. Expected rows in {known}, a directory of such "
            "files, or the name of a dataset on the hub."
        )


def load_rows(
    name: str, config: str | None = None, split: str = "train", streaming: bool = False, option: str = "name"
) -> Dataset:
    """Load rows by name.

    Args:
        name: a .json, .jsonl, .csv or .parquet file; a local directory (of such files, or saved by
            `Dataset.save_to_disk`); a hub dataset; or `nuggets-demo/pool`, `nuggets-demo/anchors`,
            `nuggets-demo/heldout`.
        config: configuration of a hub dataset.
        split: which split to take; a single file is its own split.
        streaming: give an `IterableDataset`, of which `pool_size` rows can be a pool.
        option: what errors call `name`.

    Raises:
        FileNotFoundError: if nothing is there under this name, neither here nor on the hub as far as it is reached.
        ValueError: if the file type is not known or the split does not exist.
    """
    from datasets import DatasetDict, IterableDatasetDict, load_dataset, load_from_disk

    path = Path(resolve_demo(name))
    _check_rows(option, name)
    if path.is_file():
        options = _csv_options(path) if path.suffix == ".csv" else {}
        builder = FILE_BUILDERS[path.suffix]
        return load_dataset(builder, data_files=str(path), split="train", streaming=streaming, **options)
    csv_files = sorted(path.rglob("*.csv")) if path.is_dir() else []
    if (path / "state.json").exists() or (path / "dataset_dict.json").exists():
        loaded = load_from_disk(name)
    elif csv_files:
        loaded = load_dataset("csv", data_dir=name, streaming=streaming, **_csv_options(csv_files[0]))
    elif path.is_dir():
        loaded = load_dataset(name, name=config, streaming=streaming)
    else:
        try:
            loaded = load_dataset(name, name=config, streaming=streaming)
        except (FileNotFoundError, ConnectionError) as error:
            raise FileNotFoundError(
                f"`{option}`: {name!r} is no file or directory here, and no dataset of the hub that can be reached "
                f"({error}). Check the spelling; `hf download --repo-type dataset {name}` fetches one where there is "
                "a network."
            ) from error
    if not isinstance(loaded, (DatasetDict, IterableDatasetDict)):
        return loaded
    if split not in loaded:
        raise ValueError(f"{name!r} has no split {split!r}. Found: {', '.join(loaded)}.")
    return loaded[split]


def _csv_options(file: Path) -> dict[str, Any]:
    """Read every field as the text that stands there: `NA` is a word, `007` is not a number, empty is empty."""
    import pandas as pd
    from datasets import Features, Value

    columns = pd.read_csv(file, nrows=0).columns
    return {"keep_default_na": False, "features": Features({name: Value("string") for name in columns})}
