"""Models and tokenizers by name: a hub name, a local directory, or the embedded demo."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from nuggets_trainer.demo import resolve_demo
from nuggets_trainer.engine.model import check_causal_lm
from nuggets_trainer.engine.model_files import check_model_files, errors_name_the_model

if TYPE_CHECKING:
    from nuggets_trainer.config.nuggets_config import NuggetsConfig


def load_scorer(name: str, **kwargs: Any) -> tuple[Any, Any]:
    """Load a causal language model and its tokenizer for scoring alone.

    Args:
        name: hub name, local directory, or `nuggets-demo/model`.
        kwargs: arguments of `AutoModelForCausalLM.from_pretrained` (`dtype`, `device_map`, `quantization_config`,
            ...); `revision` and `trust_remote_code` go to the tokenizer too.

    Returns:
        The model and its tokenizer.

    Raises:
        OSError: if there is no such model.
        ValueError: if the checkpoint is not a decoder-only language model with its head, or if its files are broken.
    """
    from transformers import AutoModelForCausalLM

    tokenizer = load_scorer_tokenizer(name, **kwargs)
    with errors_name_the_model(name, "weights"):
        model = AutoModelForCausalLM.from_pretrained(resolve_demo(name), **kwargs)
    return model, tokenizer


def load_scorer_of(config: NuggetsConfig, name: str, device: Any, own: dict[str, Any]) -> tuple[Any, Any]:
    """Load the scorer model that a config names, or else the model that is to be tuned.

    Args:
        config: the options; `scorer_model` is loaded with its own `scorer_kwargs`.
        name: name of the model to load if `scorer_model` is None.
        device: device to load the model to.
        own: arguments of `from_pretrained` for the model `name`.

    Returns:
        The model and its tokenizer.
    """
    if config.scorer_model is None:
        scorer, kwargs = name, own
    else:
        scorer, kwargs = config.scorer_model, config.scorer_kwargs
    # `device_map` instead of `.to`, because quantized weights cannot be moved.
    return load_scorer(scorer, **{"device_map": {"": device}, **kwargs})


def read_model_config(name: str, **kwargs: Any) -> Any:
    """Read the config of a model, as `AutoConfig` does, but with a short error if there is none.

    Args:
        name: hub name, local directory, or `nuggets-demo/model`.
        kwargs: arguments of `AutoConfig.from_pretrained`.

    Raises:
        OSError: if neither this machine nor the hub has the model, or the hub cannot be reached.
        ValueError: if a local directory holds no whole model, or if no version of a known model has this config.
    """
    from transformers import AutoConfig

    path = resolve_demo(name)
    check_model_files(path)
    try:
        with errors_name_the_model(name, "config"):
            return AutoConfig.from_pretrained(path, **kwargs)
    except OSError as error:
        if Path(path).is_dir():
            raise
        raise OSError(
            f"There is no model {name!r}: there is no such directory, and the Hugging Face hub and its cache on this "
            "machine do not have the model, or the hub cannot be reached. Check the spelling. Run `hf auth login` for "
            f"a private or gated model. Without a network, download it before: `hf download {name}`."
        ) from error


def load_scorer_tokenizer(name: str, **kwargs: Any) -> Any:
    """Load the tokenizer of a scorer model, after checking by its config that the model can score.

    Args:
        name: hub name, local directory, or `nuggets-demo/model`.
        kwargs: arguments of the model; `revision` and `trust_remote_code` go to the tokenizer.

    Raises:
        ValueError: if the checkpoint is not a decoder-only language model with its head, or if its files are broken.
        OSError: if there is no such model.
    """
    from transformers import AutoTokenizer

    path = resolve_demo(name)
    shared = {key: kwargs[key] for key in ("revision", "trust_remote_code") if key in kwargs}
    check_causal_lm(read_model_config(name, **shared))  # before gigabytes of weights are read
    with errors_name_the_model(name, "tokenizer"):
        return AutoTokenizer.from_pretrained(path, **shared)


def hub_options(args: Any) -> dict[str, Any]:
    """Return the revision and the trust in remote code with which TRL loads a model by name.

    Args:
        args: an `SFTConfig`, or None.
    """
    options = {"trust_remote_code": getattr(args, "trust_remote_code", False)}  # not in older versions of TRL
    own = getattr(args, "model_init_kwargs", None) or {}
    for name in ("revision", "trust_remote_code"):
        if own.get(name) is not None:
            options[name] = own[name]
    return options
