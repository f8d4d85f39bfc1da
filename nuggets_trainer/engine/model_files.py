"""A model's directory before it is loaded: what is missing or broken, as one message."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

from nuggets_trainer.wording import first_cause

ADAPTER = "adapter_config.json"


def check_model_files(name: str) -> None:
    """Refuse a local directory that holds no whole model; names on the hub pass.

    Only the headers of the weights are read, which takes milliseconds: a file that was cut short does not cover what
    its header lists.

    Args:
        name: local directory, or hub name.

    Raises:
        ValueError: if there is no config, or if a file of weights is incomplete. The error says what to do.
    """
    directory = Path(name)
    if not directory.is_dir():
        return
    if not (directory / "config.json").exists():
        raise ValueError(_what_it_holds(directory))
    for file in sorted(directory.glob("*.safetensors")):
        _check_weights(file)


def _what_it_holds(directory: Path) -> str:
    """Say what a directory without a config is."""
    checkpoints = sorted(path.parent.name for path in directory.glob("*/config.json"))
    if (directory / ADAPTER).exists():
        base = _base_model(directory / ADAPTER)
        return (
            f"{str(directory)!r} holds a PEFT adapter alone, no model. Name the base model{base}. To score with the "
            "adapter or to train on top of it, merge it first: "
            "`AutoPeftModelForCausalLM.from_pretrained(...).merge_and_unload()`, then `save_pretrained` of the model "
            "and of the tokenizer to one directory."
        )
    message = (
        f"{str(directory)!r} holds no model: there is no config.json. Expected a directory as `save_pretrained` "
        "writes it (config.json, weights, tokenizer)."
    )
    if checkpoints:
        message += f" There are models in its directories {', '.join(checkpoints)}: name one of them."
    return message


def _base_model(adapter_config: Path) -> str:
    """Return the base model of an adapter for the message; an empty text if its config does not name it."""
    try:
        name = json.loads(adapter_config.read_text(encoding="utf-8")).get("base_model_name_or_path")
    except ValueError:
        return ""
    return f" {name!r}" if name else ""


def _check_weights(file: Path) -> None:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="np"):
            return
    except SafetensorError as error:
        pointer = ""
        if file.stat().st_size < 1000:
            pointer = " It may be a pointer of Git LFS: `git lfs pull` fetches the file."
        raise ValueError(
            f"The weights in {str(file)!r} are incomplete or no safetensors file ({first_cause(error)}; "
            f"{file.stat().st_size:,} bytes). Copy or download the file again.{pointer}"
        ) from error


@contextlib.contextmanager
def errors_name_the_model(name: str, part: str) -> Iterator[None]:
    """Turn what transformers raises while it reads a part of a model into one message.

    Args:
        name: name of the model, as the user gave it.
        part: part of the model that is read: config, tokenizer or weights.

    Raises:
        OSError, ImportError, MemoryError: as they are; their messages say what is missing.
        ValueError: in place of any other error, which is its cause.
    """
    import torch

    try:
        yield
    except (OSError, ImportError, MemoryError, torch.OutOfMemoryError):
        raise
    # safetensors, tokenizers, json and transformers each raise classes of their own for a broken file.
    except Exception as error:
        raise ValueError(
            f"The {part} of the model {name!r} cannot be loaded: {first_cause(error)}. Expected the files of one "
            "model, as `save_pretrained` writes them. Check that the copy or download is complete, and that this "
            "version of transformers has the model."
        ) from error
