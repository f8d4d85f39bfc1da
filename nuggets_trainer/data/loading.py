"""Rows by name: a hub dataset, a local directory, a file, or the embedded demo."""

from __future__ import annotations

import difflib
import glob
import hashlib
import json
import lzma
import os
import shlex
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nuggets_trainer.data.dataset import hidden_dataset_bars, remember_source
from nuggets_trainer.data.directories import (
    FILE_BUILDERS,
    check_files,
    check_outside,
    check_path,
    csv_options,
    files_of,
    find_files,
    is_saved_dataset,
    read_files,
    warn_of_csv_types,
)
from nuggets_trainer.data.unreadable import check_integers, check_no_null, errors_name_the_file, shell_line
from nuggets_trainer.demo import resolve_demo
from nuggets_trainer.wording import first_cause

if TYPE_CHECKING:
    from datasets import Dataset

    from nuggets_trainer.config.nuggets_config import NuggetsConfig


COMPRESSIONS = {
    ".gz": "gzip",
    ".zst": "zstd",
    ".bz2": "bz2",
    ".xz": "xz",
}  # pyarrow's names, by the end of a file's name
SMALL_FILE = 20_000_000  # bytes; such a file is read within about a second, and a bar for it is noise


def check_paths(
    config: NuggetsConfig,
    rows: Mapping[str, str | None],
    models: Mapping[str, str | None],
    outputs: Mapping[str, str | None] | None = None,
) -> None:
    """Refuse local paths that do not exist or must not be written, before anything is imported or loaded.

    Names on the hub pass.

    Args:
        config: config whose `anchors`, `decontaminate`, `scorer_model` and `score_dir` are checked too.
        rows: names of datasets, by the option that gives them.
        models: names of models, by the option that gives them.
        outputs: files and directories that will be written, by the option that gives them.

    Raises:
        FileNotFoundError: if a name can only be a path and nothing is there; the error names the option.
        ValueError: if rows are in a file of an unknown type, or if an output lies in a directory of rows.
    """
    for option, name in rows.items():
        if name is not None:
            _check_rows(f"--{option}", name)
    written = {f"--{option}": place for option, place in {**(outputs or {}), "score_dir": config.score_dir}.items()}
    check_outside({f"--{option}": name for option, name in rows.items()}, written)
    for place in (config.anchor_sets or {}).values():
        _check_rows("--anchors", place.path)
        check_outside({"--anchors": place.path}, written)
    for place in config.tests:
        _check_rows("--decontaminate", place.path)
    for option, name in {**models, "scorer_model": config.scorer_model}.items():
        if name is not None and _must_be_path(name) and not Path(name).exists():
            raise FileNotFoundError(
                f"`--{option}`: there is no directory {name!r}. Expected a directory with a model (config.json, "
                "weights, tokenizer), or a name on the hub, such as Qwen/Qwen3-0.6B."
            )


def _must_be_path(name: str) -> bool:
    """Whether this cannot be a name on the hub, which has one slash at most."""
    return name.startswith(("/", ".", "~")) or name.count("/") > 1


def _check_rows(option: str, name: str) -> None:
    path = Path(resolve_demo(name))
    if path.is_dir():
        return
    known = ", ".join(FILE_BUILDERS)
    if path.is_file():
        if _file_type(path) not in FILE_BUILDERS:
            raise ValueError(
                f"`{option}`: {name!r} has an unknown file type. Expected {known}, or one of these compressed "
                f"({', '.join(COMPRESSIONS)}).{_how_to_convert(path)}"
            )
    elif _file_type(path) in FILE_BUILDERS:
        raise FileNotFoundError(
            f"`{option}`: there is no file {name!r}. Expected rows in {known}.{_similar_file(path)}"
        )
    elif _must_be_path(name):
        raise FileNotFoundError(
            f"`{option}`: there is no file or directory {name!r}. Expected rows in {known}, a directory of such "
            "files, or the name of a dataset on the hub."
        )


def _how_to_convert(path: Path) -> str:
    if path.suffix.lower() != ".txt":
        return ""
    command = shell_line("jq -R -c 'select(. != \"\") | {text: .}'", path, f"{path.stem}.jsonl")
    return f" Convert it if each line is a text: `{command}`."


def _similar_file(path: Path) -> str:
    """Return a question that names the file of the most similar name in the directory, or an empty text."""
    names = [file.name for file in path.parent.glob("*")]
    similar = difflib.get_close_matches(path.name, names, n=1)
    return f" Did you mean {str(path.with_name(similar[0]))!r}?" if similar else ""


def load_rows(
    name: str, config: str | None = None, split: str = "train", streaming: bool = False, option: str = "name"
) -> Dataset:
    """Load rows by name.

    Args:
        name: a .json, .jsonl, .csv, .tsv, .parquet or .arrow file, which may be compressed (.gz, .zst, .bz2, .xz); a
            directory (of such files, or saved by `Dataset.save_to_disk`); a hub dataset; or `nuggets-demo/pool`,
            `nuggets-demo/anchors`, `nuggets-demo/heldout`.
        config: configuration of a hub dataset.
        split: name of the split; a single file is one split and ignores it.
        streaming: whether to return an `IterableDataset`, whose first `pool_size` rows can be a pool.
        option: name of the option or argument in errors.

    Raises:
        FileNotFoundError: if there is nothing of this name here, nor on the hub as far as it can be reached.
        ValueError: if the file type is unknown, the split does not exist, or the rows cannot be read. The error names
            the file and what is wrong with it.
    """
    from datasets import DatasetDict, IterableDatasetDict

    name = os.path.expanduser(name)  # noqa: PTH111 - a `Path` would spoil URLs
    path = Path(resolve_demo(name))
    _check_rows(option, name)
    place = str(path.absolute())
    if path.is_file():
        path = _decompressed(path, option)
        check_no_null(option, [path])
        with errors_name_the_file(option, name, path), hidden_dataset_bars(path.stat().st_size <= SMALL_FILE):
            loaded = _with_valid_text(_load_file(path, streaming))
        _check_floats(option, [path], loaded)
        return remember_source(loaded, place)
    if path.is_dir():
        loaded = _load_directory(name, config, streaming, option)
    else:
        loaded = _load_from_hub(name, config, streaming, option)
    if not isinstance(loaded, (DatasetDict, IterableDatasetDict)):
        return remember_source(loaded, place) if path.is_dir() else loaded
    if split not in loaded:
        raise ValueError(
            f"`{option}`: {name!r} has no split {split!r}. Found: {', '.join(loaded)}."
            f"{_how_to_name(option, 'split', name, next(iter(loaded), 'test'))}"
        )
    return remember_source(loaded[split], place) if path.is_dir() else loaded[split]


def _file_type(path: Path) -> str:
    """Return the end of a file's name that says its type; a compression behind it does not count."""
    if path.suffix in COMPRESSIONS:
        return Path(path.stem).suffix
    return path.suffix


def _decompressed(path: Path, option: str) -> Path:
    """Return a file of rows; one that is compressed is written out once, into the cache of datasets.

    datasets reads some compressions itself, but the checks of lines and encodings need the text.

    Raises:
        ValueError: if the file is broken.
    """
    import pyarrow as pa
    from datasets import config

    if path.suffix not in COMPRESSIONS:
        return path
    state = path.stat()
    version = hashlib.sha256(f"{path.resolve()} {state.st_size} {state.st_mtime_ns}".encode()).hexdigest()[:32]
    plain = Path(config.HF_DATASETS_CACHE) / "nuggets_trainer" / version / path.stem
    if plain.exists():
        return plain
    plain.parent.mkdir(parents=True, exist_ok=True)
    part = plain.with_name(f"{plain.name}.{os.getpid()}")
    try:
        with _unpacked(path) as stream, part.open("wb") as file:
            shutil.copyfileobj(stream, file, 1 << 20)
        part.replace(plain)  # whole, also if several processes write it
    except (OSError, EOFError, lzma.LZMAError, pa.ArrowException) as error:
        raise ValueError(
            f"`{option}`: the rows in {str(path)!r} cannot be read: {first_cause(error)}. Copy or download the file "
            "again: it is incomplete, or compressed otherwise than its name says."
        ) from error
    finally:
        part.unlink(missing_ok=True)
    return plain


def _unpacked(path: Path) -> Any:
    """Open a compressed file for reading."""
    import pyarrow as pa

    if path.suffix == ".xz":  # which pyarrow cannot read
        return lzma.open(path)
    return pa.input_stream(str(path), compression=COMPRESSIONS[path.suffix])


def _how_to_name(option: str, what: str, name: str, value: str = "NAME") -> str:
    """Say how a split or a configuration of these rows is named."""
    options = {
        ("--dataset_name", "split"): f"`--dataset_train_split {value}`",
        ("--dataset_name", "config"): f"`--dataset_config {value}`",
        ("--eval_dataset_name", "split"): f"`--dataset_test_split {value}`",
        ("name", "split"): f"`split={value!r}`",
        ("name", "config"): f"`config={value!r}`",
    }
    known = options.get((option, what))
    if known is None and option in ("--anchors", "--decontaminate", "--eval_dataset_name"):  # as in `load_dataset`
        key = "split" if what == "split" else "name"
        known = f"`{option} {shlex.quote(json.dumps({'path': name, key: value}))}`"
    return "" if known is None else f" Name one: {known}."


def _with_valid_text(loaded: Any) -> Any:
    """Return rows whose texts are UTF-8.

    JSON of another encoding loads without an error, and would fail where its first such row is read.

    Raises:
        ValueError: if a text is not UTF-8.
    """
    from datasets import Dataset

    for part in _splits(loaded):
        if isinstance(part, Dataset):
            part.data.table.validate(full=True)
    return loaded


def _check_floats(option: str, files: Iterable[str | Path], loaded: Any) -> None:
    """Refuse floats that are integers in the file. Few pools have a float, so few files are read again for this."""
    if any(part.features is None or "float" in str(part.features) for part in _splits(loaded)):
        check_integers(option, files)


def _splits(loaded: Any) -> list[Any]:
    """Return the splits of what datasets has loaded."""
    from datasets import DatasetDict, IterableDatasetDict

    return list(loaded.values()) if isinstance(loaded, (DatasetDict, IterableDatasetDict)) else [loaded]


def _load_file(path: Path, streaming: bool) -> Any:
    from datasets import load_dataset

    options = csv_options(path) if FILE_BUILDERS[path.suffix] == "csv" else {}
    # A bare name is a pattern to datasets: `rows[1].jsonl` would be read from the file rows1.jsonl.
    file = glob.escape(str(path))
    return load_dataset(FILE_BUILDERS[path.suffix], data_files=file, split="train", streaming=streaming, **options)


def _load_directory(name: str, config: str | None, streaming: bool, option: str) -> Any:
    from datasets import load_from_disk

    directory = Path(name).resolve()  # datasets cannot load `.`
    how_to_name = _how_to_name(option, "config", name)
    if is_saved_dataset(directory):
        with errors_name_the_file(option, name, directory):
            return _with_valid_text(load_from_disk(str(directory)))
    check_path(directory)
    try:
        with errors_name_the_file(option, name, directory, how_to_name):
            builder = find_files(directory, config)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"`{option}`: the directory {name!r} has no rows. Expected files of one type: {', '.join(FILE_BUILDERS)}."
        ) from error
    check_files(directory, builder)
    check_no_null(option, files_of(builder))
    with errors_name_the_file(option, name, directory, how_to_name):
        loaded = _with_valid_text(read_files(directory, config, streaming, builder))
    _check_floats(option, files_of(builder), loaded)
    return loaded


def _load_from_hub(name: str, config: str | None, streaming: bool, option: str) -> Any:
    from datasets import load_dataset

    try:
        with errors_name_the_file(option, name, None, _how_to_name(option, "config", name)):
            loaded = load_dataset(name, name=config, streaming=streaming)
    except (FileNotFoundError, ConnectionError) as error:
        raise FileNotFoundError(
            f"`{option}`: there is no file or directory {name!r} here, and no dataset of this name on the hub, as far "
            f"as the hub can be reached ({error}). Check the spelling. `hf download --repo-type dataset {name}` "
            "fetches a dataset on a machine with a network."
        ) from error
    for split, rows in loaded.items():
        warn_of_csv_types(f"{name} ({split})", rows)
    return loaded
