"""From names to rows and models: hub names, local directories, files, and the embedded demo. Knows no scoring."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from nuggets_trainer.demo import DEMO, demo_path

if TYPE_CHECKING:
    from datasets import Dataset

    from nuggets_trainer.config import NuggetsConfig

FILE_BUILDERS = {".json": "json", ".jsonl": "json", ".csv": "csv", ".parquet": "parquet"}


def resolve_demo(name: str) -> str:
    """Path of an embedded model or file for `nuggets-demo/<what>`; any other name as it is."""
    prefix = f"{DEMO}/"
    return str(demo_path(name.removeprefix(prefix))) if name.startswith(prefix) else name


def load_rows(name: str, config: str | None = None, split: str = "train", streaming: bool = False) -> Dataset:
    """Load rows by name.

    Args:
        name: a .json, .jsonl, .csv or .parquet file; a local directory (of such files, or saved by
            `Dataset.save_to_disk`); a hub dataset; or `nuggets-demo/pool`, `nuggets-demo/anchors`,
            `nuggets-demo/heldout`.
        config: configuration of a hub dataset.
        split: which split to take; a single file is its own split.
        streaming: give an `IterableDataset`, of which `pool_size` rows can be a pool.

    Raises:
        FileNotFoundError: if `name` looks like a file that is not there.
        ValueError: if the file type is not known or the split does not exist.
    """
    from datasets import DatasetDict, IterableDatasetDict, load_dataset, load_from_disk

    path = Path(resolve_demo(name))
    if path.suffix in FILE_BUILDERS and not path.is_dir():
        if not path.is_file():
            raise FileNotFoundError(f"There is no file {name!r}. Expected rows in {', '.join(FILE_BUILDERS)}.")
        options = _csv_options(path) if path.suffix == ".csv" else {}
        builder = FILE_BUILDERS[path.suffix]
        return load_dataset(builder, data_files=str(path), split="train", streaming=streaming, **options)
    if path.is_file():
        raise ValueError(f"{name!r} has an unknown file type. Expected {', '.join(FILE_BUILDERS)}.")
    csv_files = sorted(path.rglob("*.csv")) if path.is_dir() else []
    if (path / "state.json").exists() or (path / "dataset_dict.json").exists():
        loaded = load_from_disk(name)
    elif csv_files:
        loaded = load_dataset("csv", data_dir=name, streaming=streaming, **_csv_options(csv_files[0]))
    else:
        loaded = load_dataset(name, name=config, streaming=streaming)
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


def load_scorer(name: str, **kwargs: Any) -> tuple[Any, Any]:
    """Load a causal language model and its tokenizer for scoring alone.

    Args:
        name: hub name, local directory, or `nuggets-demo/model`.
        kwargs: for `AutoModelForCausalLM.from_pretrained` (`dtype`, `device_map`, `quantization_config`, ...);
            `revision` and `trust_remote_code` go to the tokenizer too.

    Raises:
        ValueError: if the checkpoint is not a decoder-only language model with its head.
    """
    from transformers import AutoModelForCausalLM

    tokenizer = load_scorer_tokenizer(name, **kwargs)
    return AutoModelForCausalLM.from_pretrained(resolve_demo(name), **kwargs), tokenizer


def load_scorer_of(config: NuggetsConfig, name: str, device: Any, own: dict[str, Any]) -> tuple[Any, Any]:
    """Load the scorer model that a config names, or else the model itself.

    Args:
        config: its `scorer_model` comes with arguments of its own.
        name: of the model that is taken without one.
        device: where to; `device_map` and not `.to`, because quantized weights cannot be moved.
        own: arguments for `from_pretrained` of that model.
    """
    kwargs = own if config.scorer_model is None else config.scorer_kwargs
    return load_scorer(config.scorer_model or name, **{"device_map": {"": device}, **kwargs})


def load_scorer_tokenizer(name: str, **kwargs: Any) -> Any:
    """Load the tokenizer of a model, as `load_scorer` does, once its config says that the model can score."""
    from transformers import AutoConfig, AutoTokenizer

    from nuggets_trainer.causal_lm import check_causal_lm

    path = resolve_demo(name)
    shared = {key: kwargs[key] for key in ("revision", "trust_remote_code") if key in kwargs}
    check_causal_lm(AutoConfig.from_pretrained(path, **shared))  # before gigabytes of weights are read
    return AutoTokenizer.from_pretrained(path, **shared)
