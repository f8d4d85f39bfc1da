"""The fingerprint of a scorer: every field that can change a log-prob, by name."""

from __future__ import annotations

import hashlib
import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import transformers

from nuggets_trainer.engine.adapters import active_adapters, base_weights, inner_model
from nuggets_trainer.engine.in_step import class_name, is_sharded, whole_tensor
from nuggets_trainer.engine.lm_head import keeps_float32_logits
from nuggets_trainer.engine.model import ENGINE_VERSION

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# Fields that earlier versions did not write: a store that lacks one may have any value of it.
ADDED_FIELDS = {"split_special_tokens", "tokenizer_files_sha256"}

# Entries of a model's config that no forward pass reads, but that training code changes.
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
    """Return name and value of everything that a stored log-prob depends on, except the texts of the pair itself.

    Args:
        model: scorer model; only the base model counts if it has adapters.
        tokenizer: tokenizer of the model.
        template_fields: fields of the template, from `Template.describe()`.
        autocast_dtype: dtype of the engine's autocast; None if it computes in the dtype of the weights.
        adapter: whether the active adapters count too.
    """
    weights = base_weights(model)
    weights_dtype = _dtype_of(weights)
    compute = weights_dtype
    if autocast_dtype is not None:
        # A sharded model casts its weights instead of autocasting, which rounds in other places.
        how = "sharded" if is_sharded(model) else "autocast"
        compute = f"{autocast_dtype} {how}".removeprefix("torch.")
    fields = {
        "engine": str(ENGINE_VERSION),
        "weights_sha256": weights_hash(weights),
        "config_sha256": config_hash(model),
        "weights_dtype": weights_dtype,
        "score_dtype": compute,
        "attn_implementation": str(getattr(inner_model(model).config, "_attn_implementation", None)),
        "tokenizer_sha256": tokenizer_hash(tokenizer),
        **template_fields,
    }
    if not compute.startswith("float32") and keeps_float32_logits(inner_model(model).device):
        fields["logits"] = "float32"  # elsewhere, and in earlier versions, they are rounded to half precision
    if getattr(tokenizer, "split_special_tokens", False):
        fields["split_special_tokens"] = "True"
    files = tokenizer_files_hash(tokenizer)
    if files is not None:
        fields["tokenizer_files_sha256"] = files
    if adapter and active_adapters(model):
        fields["adapter_sha256"] = adapter_hash(model)
    return fields


def _dtype_of(weights: dict[str, torch.Tensor]) -> str:
    """Name of the dtype of the first weights that are floating-point numbers."""
    first = next(tensor for tensor in weights.values() if tensor.is_floating_point())
    return str(first.dtype).removeprefix("torch.")


def fingerprint_id(fields: dict[str, str]) -> str:
    """Return the hash of the fields, 16 hex digits: the name of the store's directory."""
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:16]


def weights_hash(weights: dict[str, torch.Tensor]) -> str:
    """Return the SHA-256 over names, shapes, dtypes and bytes, in the order of the names."""
    digest = hashlib.sha256()
    for name, tensor in sorted(weights.items()):
        value = whole_tensor(tensor).detach().cpu().contiguous()
        digest.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
        if value.numel():
            digest.update(value.view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:32]


def adapter_hash(model: PreTrainedModel | PeftModel) -> str:
    """Return the hash of the active adapters' weights and of their configs, which hold e.g. the scale of LoRA.

    The name of a single adapter is left out, because it changes no log-prob.
    """
    from peft import get_peft_model_state_dict

    texts = []
    for name in active_adapters(model):
        weights = get_peft_model_state_dict(model, adapter_name=name, save_embedding_layers=False)
        config = json.dumps(model.peft_config[name].to_dict(), sort_keys=True, default=_sortable)
        texts.append(weights_hash(weights) + config)
    return hashlib.sha256("".join(texts).encode()).hexdigest()[:32]


def _sortable(value: Any) -> Any:
    return sorted(value) if isinstance(value, set) else str(value)


def tokenizer_hash(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return the hash of vocabulary, rules and special tokens; padding and truncation states are left out."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        rules: Any = tokenizer.get_vocab()
    else:
        rules = json.loads(backend.to_str())
        rules.pop("padding", None)
        rules.pop("truncation", None)
    special = [tokenizer.bos_token_id, tokenizer.eos_token_id]
    return hashlib.sha256(json.dumps([rules, special], sort_keys=True).encode()).hexdigest()[:32]


def tokenizer_files_hash(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """Return the hash of the files that a slow tokenizer saves: its vocabulary with merges, or a SentencePiece model.

    None for a fast tokenizer, whose rules `tokenizer_hash` holds, and for a slow one that has no such files.
    """
    if getattr(tokenizer, "backend_tokenizer", None) is not None:
        return None
    with tempfile.TemporaryDirectory() as directory:
        try:
            saved = tokenizer.save_vocabulary(directory)
        except NotImplementedError:  # as of mistral-common
            return None
        if not saved:
            return None
        digest = hashlib.sha256()
        for path in sorted(path for path in saved if path is not None):
            digest.update(Path(path).name.encode() + Path(path).read_bytes())
    return digest.hexdigest()[:32]


def config_hash(model: PreTrainedModel | PeftModel) -> str:
    """Return the hash of the class and of the config entries that a forward pass reads."""
    return hashlib.sha256(_config_text(model).encode()).hexdigest()[:32]


def _config_text(model: PreTrainedModel | PeftModel) -> str:
    base = inner_model(model)
    config = {"class": class_name(base)}
    for key, value in base.config.to_dict().items():
        if key not in VOLATILE_CONFIG and not key.endswith("_token_id"):
            config[key] = value
    return json.dumps(config, sort_keys=True, default=str)


def written_with(model: PreTrainedModel | PeftModel) -> dict[str, Any]:
    """Return what tells two spellings of one config from two configs: the version of transformers, and all entries.

    Other versions of transformers rename, add and leave out entries, although the forward pass is the same.
    """
    return {"transformers": transformers.__version__, "config": json.loads(_config_text(model))}


def may_be_one_config(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Return whether configs of different hashes may be one: two versions of transformers spell it differently.

    Args:
        one: result of `written_with`.
        other: result of `written_with`.
    """
    return one["transformers"] != other["transformers"] and _same_entries(one["config"], other["config"])


def _same_entries(one: Any, other: Any) -> bool:
    """Whether two configs have the same values wherever both have an entry."""
    if isinstance(one, dict) and isinstance(other, dict):
        return all(_same_entries(one[name], other[name]) for name in one.keys() & other.keys())
    return bool(one == other)
