"""What the project asks of a model: that it is a decoder with its head, how much it reads, in what arithmetic."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
)

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedConfig, PreTrainedModel


@contextlib.contextmanager
def base_model(model: PreTrainedModel | PeftModel, adapter: bool = False) -> Iterator[PreTrainedModel]:
    """Give the base model of a `PeftModel` with the adapter switched off; any other model as it is.

    Args:
        model: the model.
        adapter: leave the adapter on, whose layers (of LoRA and its like) are inside the base model.
    """
    from peft import PeftModel

    if isinstance(model, PeftModel):
        with contextlib.nullcontext() if adapter else model.disable_adapter():
            yield model.get_base_model()
    else:
        yield model


def check_causal_lm(config: PreTrainedConfig, model: PreTrainedModel | None = None) -> None:
    """Refuse a model that is not a decoder-only language model with its head.

    Args:
        config: its `architectures` say what the checkpoint was saved as.
        model: once it is loaded.

    Raises:
        ValueError: for an encoder, an encoder-decoder, or a body saved without its head (which `from_pretrained` would
            complete with random weights).
    """
    names = config.architectures or ([type(model).__name__] if model is not None else [])
    causal = set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values())
    has_head = all(
        n in causal or n.endswith(("ForCausalLM", "ForConditionalGeneration")) for n in config.architectures or []
    )
    if model is not None and model.get_output_embeddings() is None:
        has_head = False
    looks_ahead = config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES and not getattr(config, "is_decoder", False)
    if config.is_encoder_decoder or not has_head or looks_ahead:
        raise ValueError(
            f"The scorer model must be a decoder-only language model with its head, got {', '.join(names)} "
            f"({config.model_type}). Expected an architecture that AutoModelForCausalLM loads, e.g. LlamaForCausalLM."
        )


def context_length(config: PreTrainedConfig) -> int | None:
    """Tokens that the model reads at once, or None without a limit.

    With `longrope` (Phi-3's long-context models) a sequence beyond the original context changes the positions of all
    others in its batch, so the original context is the limit.
    """
    text = config.get_text_config()
    length: int | None = getattr(text, "max_position_embeddings", None)
    rope = getattr(text, "rope_parameters", None) or getattr(text, "rope_scaling", None) or {}
    if length is not None and "longrope" in (rope.get("rope_type"), rope.get("type")):
        names = "original_max_position_embeddings"
        original = rope.get(names) or getattr(text, names, None)
        length = min(length, original or length)
    return length


def resolve_autocast_dtype(
    score_dtype: str, weights_dtype: torch.dtype, training_dtype: torch.dtype | None = None
) -> torch.dtype | None:
    """Dtype to autocast scoring to, or None to compute in the dtype of the weights.

    Args:
        score_dtype: `NuggetsConfig.score_dtype`.
        weights_dtype: of the loaded model.
        training_dtype: what mixed precision training autocasts to, None without it; `auto` follows it.

    Raises:
        ValueError: if float32 scores are asked of weights that were loaded in half precision.
    """
    wanted = training_dtype if score_dtype == "auto" else getattr(torch, score_dtype)
    if wanted is None or wanted == weights_dtype:
        return None
    if wanted == torch.float32:
        raise ValueError(
            f"`score_dtype=float32`, but the weights were loaded as {str(weights_dtype).removeprefix('torch.')}. Load "
            "the model with `dtype=float32`, or set `score_dtype` to the dtype of the weights."
        )
    return wanted
