"""Small random-weight models of the architectures that people tune, from transformers' own config classes."""

from __future__ import annotations

from typing import Any

import torch
import transformers

VOCAB = 97
WINDOW = 16  # below the length of every sequence in the tests, so that a path that ignores it is found out

_BASE = {"vocab_size": VOCAB, "hidden_size": 32, "num_hidden_layers": 2, "max_position_embeddings": 256}
_IDS = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
_HEADS = {"num_attention_heads": 4, "intermediate_size": 64}
_COMMON = _BASE | _IDS | _HEADS | {"num_key_value_heads": 2}
_GEMMA = _COMMON | {"head_dim": 8, "sliding_window": WINDOW, "query_pre_attn_scalar": 8}
_EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 32}
_GPT2 = {"vocab_size": VOCAB, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256} | _IDS
_DEEPSEEK = {
    "n_routed_experts": 4,
    "n_shared_experts": 1,
    "n_group": 2,
    "topk_group": 1,
    "first_k_dense_replace": 1,
    "kv_lora_rank": 16,
    "q_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 8,
    "num_key_value_heads": 4,
}
_MAMBA = {"mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 8, "mamba_chunk_size": 8, "mamba_n_groups": 1}
_TYPES = ["linear_attention", "full_attention"]
_LINEAR_HEADS = {"linear_num_key_heads": 2, "linear_num_value_heads": 2}
_LINEAR_DIMS = {"linear_key_head_dim": 8, "linear_value_head_dim": 8, "head_dim": 8}

# Architecture -> (name of the config class without `Config`, arguments, the path that the engine takes).
ARCHITECTURES: dict[str, tuple[str, dict[str, Any], str]] = {
    "Llama": ("Llama", _COMMON, "packed"),
    "Mistral (sliding window)": ("Mistral", _COMMON | {"sliding_window": WINDOW}, "packed"),
    "Qwen2": ("Qwen2", _COMMON, "packed"),
    "Qwen3": ("Qwen3", _COMMON | {"head_dim": 8}, "packed"),
    "Gemma 2": ("Gemma2", _GEMMA, "packed"),
    "Gemma 3": ("Gemma3Text", _GEMMA | {"layer_types": ["sliding_attention", "full_attention"]}, "packed"),
    "Phi": ("Phi", _COMMON, "packed"),
    "Phi-3": ("Phi3", _COMMON, "packed"),
    "GPT-2": ("GPT2", _GPT2, "packed"),
    "GPT-NeoX": ("GPTNeoX", _BASE | _IDS | _HEADS, "packed"),
    "OPT": ("OPT", _BASE | _IDS | {"ffn_dim": 64, "num_attention_heads": 4, "word_embed_proj_dim": 32}, "packed"),
    "OLMo 2": ("Olmo2", _COMMON, "packed"),
    "Granite": ("Granite", _COMMON | {"logits_scaling": 4.0, "attention_multiplier": 0.2}, "packed"),
    "SmolLM3": ("SmolLM3", _COMMON | {"no_rope_layers": [1, 0]}, "packed"),
    "StarCoder2": ("Starcoder2", _COMMON | {"sliding_window": WINDOW}, "packed"),
    "Cohere 2": ("Cohere2", _COMMON | {"sliding_window": WINDOW, "logit_scale": 0.5}, "packed"),
    "GLM-4": ("Glm4", _COMMON | {"head_dim": 8}, "packed"),
    "StableLM": ("StableLm", _COMMON, "packed"),
    "Mixtral": ("Mixtral", _COMMON | {"num_local_experts": 4}, "packed"),
    "Qwen3-MoE": ("Qwen3Moe", _COMMON | _EXPERTS | {"head_dim": 8, "num_experts": 4}, "packed"),
    "DeepSeek-V3": ("DeepseekV3", _COMMON | _EXPERTS | _DEEPSEEK, "packed"),
    "gpt-oss": ("GptOss", _COMMON | {"head_dim": 8, "num_local_experts": 4, "sliding_window": WINDOW}, "packed"),
    "BLOOM": ("Bloom", {"vocab_size": VOCAB, "hidden_size": 32, "n_layer": 2, "n_head": 4} | _IDS, "cached"),
    "Falcon": ("Falcon", _BASE | _IDS | {"num_attention_heads": 4}, "cached"),
    "GPT-J": ("GPTJ", _GPT2 | {"rotary_dim": 8}, "cached"),
    "MPT": ("Mpt", {"vocab_size": VOCAB, "d_model": 32, "n_layers": 2, "n_heads": 4, "max_seq_len": 256}, "cached"),
    "Mamba": ("Mamba", {"vocab_size": VOCAB, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 4}, "whole"),
    "Bamba (hybrid)": ("Bamba", _COMMON | _MAMBA | {"attn_layer_indices": [1]}, "whole"),
    "Qwen3-Next (hybrid)": (
        "Qwen3Next",
        _COMMON | _EXPERTS | _LINEAR_HEADS | _LINEAR_DIMS | {"num_experts": 4, "layer_types": _TYPES},
        "whole",
    ),
}


def random_model(name: str) -> Any:
    """A model of the architecture, weights large enough that contexts and windows change log-probs a lot."""
    torch.manual_seed(0)
    prefix, kwargs, _ = ARCHITECTURES[name]
    config = getattr(transformers, f"{prefix}Config")(**kwargs)
    # Some versions of transformers take `sdpa` for Gemma 2, which ignores soft-caps: the packed path then refuses it.
    own = {"attn_implementation": "eager"} if prefix in ("Gemma2", "GptOss") else {}
    model = transformers.AutoModelForCausalLM.from_config(config, **own).eval()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, (torch.nn.Linear, torch.nn.Embedding, transformers.pytorch_utils.Conv1D)):
                module.weight.normal_(0, 0.3)
        for parameter in model.parameters():
            if parameter.ndim == 3 and parameter.shape[-1] > 4:  # experts
                parameter.normal_(0, 0.3)
    return model
