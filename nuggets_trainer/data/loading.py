"""From names to rows and models: hub names, local directories, files, and the embedded demo. Knows no scoring."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nuggets_trainer.demo import DEMO, demo_path

if TYPE_CHECKING:
    from datasets import Dataset

    from nuggets_trainer.config.nuggets_config import NuggetsConfig

FILE_BUILDERS = {".json": "json", ".jsonl": "json", ".csv": "csv", ".parquet": "parquet"}


def resolve_demo(name: str) -> str:
    """Path of an embedded model or file for `nuggets-demo/<what>`; any other name as it is."""
    prefix = f"{DEMO}/"
    return str(demo_path(name.removeprefix(prefix))) if name.startswith(prefix) else name


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


def read_model_config(name: str, **kwargs: Any) -> Any:
    """Read the config of a model, as `AutoConfig` does, but say in short if there is none.

    Raises:
        OSError: if the model is neither here nor on the hub, as far as that is reached.
    """
    from transformers import AutoConfig

    path = resolve_demo(name)
    try:
        return AutoConfig.from_pretrained(path, **kwargs)
    except OSError as error:
        if Path(path).is_dir():
            raise
        raise OSError(
            f"There is no model {name!r}: no directory of this name is here, and the Hugging Face hub and its cache "
            "on this machine do not have it, or cannot be reached. Check the spelling; fetch it before with `hf "
            f"download {name}` where this machine has no network; `hf auth login` opens private and gated ones."
        ) from error


def load_scorer_tokenizer(name: str, **kwargs: Any) -> Any:
    """Load the tokenizer of a model, as `load_scorer` does, once its config says that the model can score."""
    from transformers import AutoTokenizer

    from nuggets_trainer.engine.model import check_causal_lm

    path = resolve_demo(name)
    shared = {key: kwargs[key] for key in ("revision", "trust_remote_code") if key in kwargs}
    check_causal_lm(read_model_config(name, **shared))  # before gigabytes of weights are read
    return AutoTokenizer.from_pretrained(path, **shared)
