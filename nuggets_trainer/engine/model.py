"""Checks and properties of a model: that it is a decoder with its head, its context length, its arithmetic."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
)
from transformers.pytorch_utils import Conv1D

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

ENGINE_VERSION = 1  # part of the fingerprint: raise it when scores change by more than rounding


def check_causal_lm(config: PreTrainedConfig, model: PreTrainedModel | None = None) -> None:
    """Refuse a model that is not a decoder-only language model with its head.

    Args:
        config: the model's config; its `architectures` name the class that the checkpoint was saved from.
        model: the model itself; None if it is not loaded yet.

    Raises:
        ValueError: if it is an encoder, an encoder-decoder, or a body saved without its head (which `from_pretrained`
            would complete with random weights).
    """
    names = list(config.architectures or [])
    causal = set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values())
    endings = ("ForCausalLM", "ForConditionalGeneration")
    has_head = all(name in causal or name.endswith(endings) for name in names)
    if not names and model is not None:
        names = [type(model).__name__]
    if model is not None and model.get_output_embeddings() is None:
        has_head = False
    sees_later_tokens = config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES
    if getattr(config, "is_decoder", False):
        sees_later_tokens = False
    if config.is_encoder_decoder or not has_head or sees_later_tokens:
        raise ValueError(
            f"The scorer model must be a decoder-only language model with its head, got {', '.join(names)} "
            f"({config.model_type}). Expected an architecture that AutoModelForCausalLM loads, e.g. LlamaForCausalLM."
        )


def context_length(config: PreTrainedConfig) -> int | None:
    """Return how many tokens the model reads at once; None if there is no limit.

    With `longrope` (Phi-3's long-context models) a sequence beyond the original context changes the positions of all
    others in its batch, so the original context is the limit.
    """
    text = config.get_text_config()
    length: int | None = getattr(text, "max_position_embeddings", None)
    if length is None:
        length = getattr(text, "max_seq_len", None)  # MPT
    rope = getattr(text, "rope_parameters", None) or getattr(text, "rope_scaling", None) or {}
    if length is not None and "longrope" in (rope.get("rope_type"), rope.get("type")):
        name = "original_max_position_embeddings"
        original = rope.get(name) or getattr(text, name, None)
        length = min(length, original or length)
    return length


def check_attention(model: PreTrainedModel, autocast_dtype: torch.dtype | None) -> None:
    """Refuse flash attention in float32: it has no kernels for it, and every path would fail at the first layer.

    Args:
        model: the model that scores.
        autocast_dtype: dtype that its forward passes are autocast to; None if they compute in that of the weights.

    Raises:
        ValueError: if its attention cannot compute in this dtype.
    """
    name = str(model.config.get_text_config()._attn_implementation)
    if "flash" not in name or (autocast_dtype or model.dtype) != torch.float32:
        return
    if getattr(model, "is_quantized", False):
        return  # transformers casts queries and keys of quantized layers
    raise ValueError(
        f"`attn_implementation={name}` computes in half precision only, got weights in float32 and no "
        "half-precision `score_dtype`. Set `score_dtype=bfloat16` or load the model with `dtype=bfloat16`; or leave "
        "`attn_implementation` out: the packed path has an attention of its own."
    )


def last_hidden_states(model: PreTrainedModel, output: Any) -> torch.Tensor | None:
    """Return the last hidden states `(B, T, d)` from what `model.base_model` returned; None if they are not in it.

    Decoders of custom code may return a tuple that begins with them. Where no part of the model has the name of its
    decoder, `base_model` is the model itself, which returns logits.
    """
    if model.base_model is model:
        return None
    hidden: torch.Tensor | None = (
        output[0] if isinstance(output, tuple) else getattr(output, "last_hidden_state", None)
    )
    return hidden


def matmul_weights(model: PreTrainedModel) -> tuple[int, int] | None:
    """Count the weights that matrix products read: those of the decoder for each token, and those of the head.

    Returns:
        Both numbers; None if a token takes part of the weights (experts), or if they are quantized.
    """
    config = model.config.get_text_config()
    experts = ("num_experts", "num_local_experts", "n_routed_experts")
    if any(getattr(config, name, None) for name in experts) or getattr(model, "is_quantized", False):
        return None
    body = 0
    for module in model.base_model.modules():
        if isinstance(module, (torch.nn.Linear, Conv1D)):
            body += module.weight.numel()
    return body, model.get_output_embeddings().weight.numel()


def resolve_autocast_dtype(
    score_dtype: str, weights_dtype: torch.dtype, training_dtype: torch.dtype | None = None
) -> torch.dtype | None:
    """Return the dtype to autocast scoring to; None to compute in the dtype of the weights.

    Args:
        score_dtype: `NuggetsConfig.score_dtype`: `auto`, `float32`, `bfloat16` or `float16`.
        weights_dtype: dtype of the loaded weights.
        training_dtype: dtype that mixed precision training autocasts to, which `auto` follows; None without it.

    Raises:
        ValueError: if `score_dtype` is float32 and the weights were loaded in half precision.
    """
    wanted = training_dtype if score_dtype == "auto" else getattr(torch, score_dtype)
    if wanted is None or wanted == weights_dtype:
        return None
    if wanted == torch.float32:
        found = str(weights_dtype).removeprefix("torch.")
        raise ValueError(
            f"`score_dtype=float32` needs weights in float32, got {found}. Load the model with `dtype=float32`, or "
            "set `score_dtype` to the dtype of the weights."
        )
    return wanted
