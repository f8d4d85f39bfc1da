"""A local directory of data files -> rows; what a run writes there is never taken for rows."""

from __future__ import annotations

import glob
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nuggets_trainer.demo import resolve_demo

logger = logging.getLogger(__name__)

FILE_BUILDERS = {
    ".json": "json",
    ".jsonl": "json",
    ".csv": "csv",
    ".tsv": "csv",
    ".parquet": "parquet",
    ".arrow": "arrow",
}
SEPARATORS = (",", ";", "\t")  # Excel writes a semicolon where the comma is the decimal sign
RESULT_FILES = ("scores.parquet", "anchors.parquet")  # `score_pool` writes both into `score_dir`
NAMES_IN_ERROR = 3
NOT_ROWS = ("dataset_info.json", "dataset_infos.json", "state.json")  # which datasets writes beside rows


def check_path(directory: Path) -> None:
    """Refuse a directory whose path datasets would read as a pattern.

    Raises:
        ValueError: if there is one of the pattern's characters in the path.
    """
    path = str(directory)
    if glob.escape(path) != path:
        raise ValueError(
            f"The directory {path!r} has one of the characters *, ? or [ in its path, and datasets would read another "
            "directory for it. Rename it, or name a file in it."
        )


def find_files(directory: Path, config: str | None) -> Any:
    """Find the files that datasets reads from a directory; return its builder, which names them.

    Args:
        directory: absolute path.
        config: configuration that the directory's README.md defines; None for the default one.
    """
    from datasets import load_dataset_builder

    return load_dataset_builder(str(directory), name=config)


def check_files(directory: Path, builder: Any) -> None:
    """Refuse files that a run has written, and warn of data files that are left out.

    Args:
        directory: absolute path.
        builder: result of `find_files`.

    Raises:
        ValueError: if one of the files to be read lies in a directory of results.
    """
    files = files_of(builder)
    places = {place for file in files for place in Path(file).parents if place.is_relative_to(directory)}
    for place in sorted(places):
        if _holds_results(place):
            raise ValueError(
                f"{str(directory)!r} holds the results of a run in {str(place)!r}, and they would be read as rows. "
                "Move them out of the directory (with the new path as `score_dir` nothing is scored again), or name a "
                "file as the rows."
            )
    if len(builder.builder_configs) <= 1:  # files of other configurations are left out on purpose
        _log_left_out(directory, files)


def read_files(directory: Path, config: str | None, streaming: bool, builder: Any) -> Any:
    """Read the splits of a directory; every field of a .csv file as the text in the file.

    Args:
        directory: absolute path.
        config: configuration that the directory's README.md defines; None for the default one.
        streaming: whether to return streams.
        builder: result of `find_files`.
    """
    from datasets import load_dataset

    options = {}
    if type(builder.config).__name__ == "CsvConfig":
        separator = None if builder.config.sep == "," else builder.config.sep  # a tab, or what README.md says
        options = csv_options(files_of(builder)[0], separator)
    return load_dataset(str(directory), name=config, streaming=streaming, **options)


def files_of(builder: Any) -> list[str]:
    """Return the data files of all splits of a builder."""
    return [file for split in builder.config.data_files.values() for file in split]


def csv_options(file: str | Path, separator: str | None = None) -> dict[str, Any]:
    """Return options of `load_dataset` that read every field of .csv files as the text in the file.

    With them `NA` is a word, `007` keeps its zeros, and an empty field is an empty text.

    Args:
        file: file whose first line names the columns.
        separator: text between two fields; None finds it.
    """
    import pandas as pd
    from datasets import Features, Value

    separator = separator or find_separator(file)
    columns = pd.read_csv(file, nrows=0, sep=separator).columns
    return {
        "sep": separator,
        "keep_default_na": False,
        "features": Features(dict.fromkeys(columns, Value("string"))),
    }


def find_separator(file: str | Path) -> str:
    """Return what stands between the names in the first line of a .csv or .tsv file: a comma, if there is one."""
    import pandas as pd

    for separator in SEPARATORS:
        if len(pd.read_csv(file, nrows=0, sep=separator).columns) > 1:
            return separator
    return SEPARATORS[0]


def warn_of_csv_types(name: str, rows: Any) -> None:
    """Warn of what datasets has made of the fields of a .csv: missing values and numbers where the file has texts.

    A .csv on the hub is read with the options of datasets, as TRL's own scripts read it. A local one is read as text.

    Args:
        name: name of the rows.
        rows: a `Dataset`; a stream, whose values are not known yet, is passed over.
    """
    from datasets import Dataset

    if not isinstance(rows, Dataset) or rows.info.builder_name != "csv":
        return
    changed = []
    for column, feature in rows.features.items():
        num_missing = rows.data.column(column).null_count
        if num_missing:
            changed.append(f"{num_missing:,} missing values in `{column}`")
        elif getattr(feature, "dtype", "string") not in ("string", "large_string"):
            changed.append(f"`{column}` is {feature.dtype}")
    if changed:
        logger.warning(
            "%s is a .csv on the hub, which datasets does not read as text (%s): empty fields and words such as NA, "
            "None and null are missing values, and digits are numbers. Download the file (`hf download`) and name it "
            "in place of the dataset: a local .csv is read as text.",
            name,
            ", ".join(changed),
        )


def check_outside(rows: Mapping[str, str | None], outputs: Mapping[str, str | None]) -> None:
    """Refuse to write into a directory of rows, because the next run would read the written files as rows.

    Args:
        rows: names of datasets, by the option that gives them.
        outputs: files and directories that will be written, by the option that gives them.

    Raises:
        ValueError: if an output lies in a directory of rows.
    """
    for row_option, name in rows.items():
        directory = Path(resolve_demo(name)) if name is not None else Path()
        if name is None or not directory.is_dir() or is_saved_dataset(directory):
            continue
        for option, output in outputs.items():
            if output is not None and "://" not in output and _would_be_read(Path(output), directory):
                raise ValueError(
                    f"`{option}` must lie outside of {name!r}, the directory of `{row_option}`, got {output!r}: the "
                    "next run would read its files as rows. Write elsewhere, or name a file as the rows, such as "
                    f"{str(Path(name) / 'train.jsonl')!r}."
                )


def _would_be_read(output: Path, directory: Path) -> bool:
    """Whether datasets would look at an output: it passes over names that begin with a dot or two underscores."""
    output, directory = output.resolve(), directory.resolve()
    if not output.is_relative_to(directory):
        return False
    return not any(part.startswith((".", "__")) for part in output.relative_to(directory).parts)


def is_saved_dataset(directory: Path) -> bool:
    """Whether `Dataset.save_to_disk` or `DatasetDict.save_to_disk` wrote the directory, and names its own files."""
    return (directory / "state.json").exists() or (directory / "dataset_dict.json").exists()


def _holds_results(place: Path) -> bool:
    if all((place / name).exists() for name in RESULT_FILES) or (place / "trainer_state.json").exists():
        return True
    try:
        manifest = json.loads((place / "manifest.json").read_bytes())  # of stored pairs
    except (OSError, ValueError):
        return False
    return isinstance(manifest, dict) and {"layout", "fields"} <= set(manifest)


def _log_left_out(directory: Path, files: list[str]) -> None:
    """Warn of data files that datasets leaves out: it reads one file type, or the files that are named like splits."""
    read = {Path(file) for file in files}
    left_out = []
    for path in sorted(directory.rglob("*")):
        is_hidden = any(part.startswith((".", "__")) for part in path.relative_to(directory).parts)
        if path.suffix not in FILE_BUILDERS or path.name in NOT_ROWS:
            continue
        if path not in read and not is_hidden:
            left_out.append(str(path.relative_to(directory)))
    if left_out:
        logger.warning(
            "%d data files of %s are not read (%s): datasets reads one file type, and the files named like splits if "
            "there are any.",
            len(left_out),
            directory,
            ", ".join(left_out[:NAMES_IN_ERROR]) + (", ..." if len(left_out) > NAMES_IN_ERROR else ""),
        )
