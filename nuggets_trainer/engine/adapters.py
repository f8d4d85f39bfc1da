"""Adapters of a model: those of a `PeftModel`, and those that a transformers model itself holds (`load_adapter`).

Both keep their adapters in the same kinds of layers, so everything here goes by the layers. PEFT makes every weight of
an adapter trainable when it switches the adapter on again; `base_model` puts back what was frozen.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from peft import PeftModel
    from transformers import PreTrainedModel

# The part of a wrapped layer that holds the base model's own, by name of the submodule. (`token_adapter` is a wrapped
# layer in a wrapped layer, where single tokens are trained.)
BASE_PARTS = ("base_layer", "original_module", "token_adapter")
# Types of adapters, besides those of prompt learning, that act in PEFT's own forward pass.
OUTSIDE = ("XLORA", "POLY", "SHADOW")


def inner_model(model: PreTrainedModel | PeftModel) -> Any:
    """Return the language model inside a `PeftModel`, and any other model as it is; its adapters stay as they are."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def holds_adapters(model: PreTrainedModel | PeftModel) -> bool:
    """Return whether the language model itself has loaded adapters, without a `PeftModel` around it."""
    return bool(getattr(inner_model(model), "_hf_peft_config_loaded", False))


@contextlib.contextmanager
def base_model(model: PreTrainedModel | PeftModel, adapter: bool = False) -> Iterator[PreTrainedModel]:
    """Yield the language model with its adapters switched off; behind that the model is as it was before.

    Args:
        model: the model, with or without adapters.
        adapter: whether to leave the adapters as they are; the layers of LoRA and its like are inside the base model.

    Raises:
        ValueError: if adapters are to be switched off that are merged into the base weights, or if one is to stay on
            that acts outside the base model.
    """
    from peft import PeftModel

    if adapter:
        check_adapters_act_inside(model)
        yield inner_model(model)
        return
    layers = adapter_layers(model)
    merged = [name for name, layer in layers.items() if getattr(layer, "merged", False)]
    if merged:
        raise ValueError(
            f"The base model scores, but an adapter is merged into its weights (in {merged[0]} and "
            f"{len(merged) - 1:,} more layers). Call `unmerge_adapter()` first. Or score the merged model: pass what "
            "`merge_and_unload()` returns."
        )
    disabled = {name: layer.disable_adapters for name, layer in layers.items()}
    trainable = [(weight, weight.requires_grad) for weight in model.parameters()]
    whole = model.disable_adapter() if isinstance(model, PeftModel) else contextlib.nullcontext()
    try:
        with whole:
            for layer in layers.values():
                layer.enable_adapters(False)
            yield inner_model(model)
    finally:
        for name, layer in layers.items():
            layer.enable_adapters(not disabled[name])
        for weight, requires_grad in trainable:
            weight.requires_grad_(requires_grad)


def adapter_layers(model: torch.nn.Module) -> dict[str, Any]:
    """Return the layers that hold adapters, by name."""
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import AuxiliaryTrainingWrapper

    kinds = (BaseTunerLayer, AuxiliaryTrainingWrapper)
    return {name: module for name, module in model.named_modules() if isinstance(module, kinds)}


def check_adapters_act_inside(model: PreTrainedModel | PeftModel) -> None:
    """Check that the adapters act inside the language model, which computes the log-probs.

    Prompt learning puts virtual tokens before the prompt, or their keys and values into the cache. Activated LoRA
    looks for its tokens in the prompt, X-LoRA mixes its adapters by a pass of its own, Poly needs the number of a
    task, and Shadow runs a second stack. PEFT does this in its own forward pass, around the language model.

    Raises:
        ValueError: if an active adapter is of such a kind.
    """
    configs = getattr(model, "peft_config", {})
    for name in active_adapters(model):
        config = configs.get(name)
        if config is None:
            continue
        kind = str(getattr(config.peft_type, "value", config.peft_type))
        is_activated = getattr(config, "alora_invocation_tokens", None) is not None
        if is_activated:
            kind = "activated LoRA"
        if config.is_prompt_learning or is_activated or kind in OUTSIDE:
            raise ValueError(
                f"An adapter that scores must act inside the layers of the model, got {name!r} of the type {kind}. "
                "PEFT applies it around the model (virtual tokens of prompt learning have no place in a scored "
                "prompt), so that the scores would be those of the base model. Use LoRA. Or let the base model score: "
                "leave out `adapter=True`, or `reselect` in training."
            )


def active_adapters(model: PreTrainedModel | PeftModel) -> list[str]:
    """Return the names of the adapters that take part in a forward pass; none if all are switched off."""
    layers = adapter_layers(model)
    if not layers and hasattr(model, "get_base_model"):  # prompt learning has no layers in the base model
        return list(model.active_adapters)
    names: dict[str, None] = {}
    for layer in layers.values():
        if not layer.disable_adapters:
            names |= dict.fromkeys(layer.active_adapters)
    return list(names)


def base_weights(model: PreTrainedModel | PeftModel) -> dict[str, torch.Tensor]:
    """Return the state dict of the base model, without what adapters add to it and the names of their wrappers.

    So the same base model has the same hash with and without an adapter, and `nuggets score` fills the store that a
    training job with LoRA reads.
    """
    from peft import PeftModel

    adapter_prefix = None
    if isinstance(model, PeftModel):
        adapter_prefix = getattr(model.base_model, "prefix", None)  # "lora_" for LoRA; prompt learning has none
    base = inner_model(model)
    wrapped = adapter_layers(base).keys()
    weights = {}
    for name, tensor in base.state_dict(keep_vars=True).items():
        parts = name.split(".")
        own_parts = [part for part in parts if part not in BASE_PARTS]
        is_added = adapter_prefix is not None and any(part.startswith(adapter_prefix) for part in parts)
        if not is_added and not _is_beside_base(parts, wrapped):
            weights[".".join(own_parts)] = tensor
    return weights


def _is_beside_base(parts: list[str], wrapped: Any) -> bool:
    """Whether a weight lies in a wrapped layer, but not in the part of it that belongs to the base model."""
    layers = [depth for depth in range(1, len(parts)) if ".".join(parts[:depth]) in wrapped]
    return any(parts[depth] not in BASE_PARTS for depth in layers)
