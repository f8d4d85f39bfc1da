"""The fingerprint: every field that can change a log-prob, spelled out. Knows no prompts, ranks or files."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

import torch

from nuggets_trainer.engine.in_step import class_name, is_sharded, whole_tensor
from nuggets_trainer.engine.log_probs import ENGINE_VERSION

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# Config entries that no forward pass reads, and that training code changes on a model it was given.
VOLATILE_CONFIG = {
    "_name_or_path",
    "architectures",
    "dtype",
    "torch_dtype",
    "transformers_version",
    "use_cache",
    "return_dict",
    "output_hidden_states",
    "output_attentions",
}


def fingerprint_fields(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    template_fields: dict[str, str],
    autocast_dtype: torch.dtype | None,
    adapter: bool = False,
) -> dict[str, str]:
    """Name and value of all that a stored log-prob depends on, apart from the texts of the pair itself.

    Args:
        model: the scorer model; of a `PeftModel` only the base model counts.
        tokenizer: its tokenizer.
        template_fields: what `Template.describe()` returns.
        autocast_dtype: as given to the engine.
        adapter: of a `PeftModel` the adapter counts too.
    """
    weights = base_weights(model)
    weights_dtype = str(next(w for w in weights.values() if w.is_floating_point()).dtype).removeprefix("torch.")
    # A sharded model casts its weights instead of autocasting, which rounds in other places.
    how = "sharded" if is_sharded(model) else "autocast"
    compute = weights_dtype if autocast_dtype is None else f"{autocast_dtype} {how}".removeprefix("torch.")
    return {
        "engine": str(ENGINE_VERSION),
        "weights_sha256": weights_hash(weights),
        "config_sha256": config_hash(model),
        "weights_dtype": weights_dtype,
        "score_dtype": compute,
        "attn_implementation": str(getattr(_base(model).config, "_attn_implementation", None)),
        "tokenizer_sha256": tokenizer_hash(tokenizer),
        **template_fields,
        **({"adapter_sha256": adapter_hash(model)} if adapter and hasattr(model, "get_base_model") else {}),
    }


def fingerprint_id(fields: dict[str, str]) -> str:
    """Hash of the fields, 16 hex digits: the name of the store's directory."""
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:16]


def weights_hash(weights: dict[str, torch.Tensor]) -> str:
    """SHA-256 over names, shapes, dtypes and bytes, in the order of the names."""
    digest = hashlib.sha256()
    for name, tensor in sorted(weights.items()):
        value = whole_tensor(tensor).detach().cpu().contiguous()
        digest.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
        digest.update(value.view(-1).view(torch.uint8).numpy().data if value.numel() else b"")
    return digest.hexdigest()[:32]


def base_weights(model: PreTrainedModel | PeftModel) -> dict[str, torch.Tensor]:
    """State dict of the base model: PEFT's own tensors dropped, its wrappers' names removed.

    So the same base model has the same hash with and without an adapter, and `nuggets score` fills the store that a
    training job with LoRA reads.
    """
    from peft import PeftModel

    adapter_prefix = None
    if isinstance(model, PeftModel):
        adapter_prefix = getattr(model.base_model, "prefix", None)  # "lora_" for LoRA; none for prompt learning
        model = model.get_base_model()
    weights = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        parts = name.split(".")
        if adapter_prefix and any(part.startswith(adapter_prefix) or part == "modules_to_save" for part in parts):
            continue
        weights[".".join(part for part in parts if part not in ("base_layer", "original_module"))] = tensor
    return weights


def adapter_hash(model: PeftModel) -> str:
    """Hash of the active adapter's weights and of its config, which holds e.g. the scale of LoRA."""
    from peft import get_peft_model_state_dict

    weights = get_peft_model_state_dict(model, save_embedding_layers=False)
    config = json.dumps(model.peft_config[model.active_adapter].to_dict(), sort_keys=True, default=_sortable)
    return hashlib.sha256((weights_hash(weights) + config).encode()).hexdigest()[:32]


def _sortable(value: Any) -> Any:
    return sorted(value) if isinstance(value, set) else str(value)


def tokenizer_hash(tokenizer: PreTrainedTokenizerBase) -> str:
    """Hash of vocabulary, rules and special tokens; padding and truncation states are left out."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    rules: Any = json.loads(backend.to_str()) if backend is not None else tokenizer.get_vocab()
    if backend is not None:
        rules = {key: value for key, value in rules.items() if key not in ("padding", "truncation")}
    special = [tokenizer.bos_token_id, tokenizer.eos_token_id]
    return hashlib.sha256(json.dumps([rules, special], sort_keys=True).encode()).hexdigest()[:32]


def _base(model: PreTrainedModel | PeftModel) -> Any:
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def config_hash(model: PreTrainedModel | PeftModel) -> str:
    """Hash of the class and of the config entries that a forward pass reads."""
    base = _base(model)
    config = {
        key: value
        for key, value in base.config.to_dict().items()
        if key not in VOLATILE_CONFIG and not key.endswith("_token_id")
    }
    text = json.dumps({"class": class_name(base), **config}, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:32]
