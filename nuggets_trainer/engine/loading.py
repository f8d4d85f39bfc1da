"""Models and tokenizers by name: a hub name, a local directory, or the embedded demo."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from nuggets_trainer.demo import resolve_demo
from nuggets_trainer.engine.model import check_causal_lm

if TYPE_CHECKING:
    from nuggets_trainer.config.nuggets_config import NuggetsConfig


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

    path = resolve_demo(name)
    shared = {key: kwargs[key] for key in ("revision", "trust_remote_code") if key in kwargs}
    check_causal_lm(read_model_config(name, **shared))  # before gigabytes of weights are read
    return AutoTokenizer.from_pretrained(path, **shared)
