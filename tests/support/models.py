"""Models of random weights that run in milliseconds."""

from __future__ import annotations

import torch
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM


def tiny_model(family: str, vocab_size: int, hidden_size: int = 48):
    """Random weights, large enough that log-probs differ between contexts by far more than rounding.

    They are smaller in wider models: products would grow with the width, and rounding of float32 with them.
    """
    torch.manual_seed(0)
    common = {
        "vocab_size": vocab_size,
        "hidden_size": hidden_size,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "initializer_range": 0.3 * (48 / hidden_size) ** 0.5,
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": None,
    }
    model = {
        "llama": lambda: LlamaForCausalLM(LlamaConfig(**common)),
        "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**common, tie_word_embeddings=True)),
    }[family]()
    return model.eval()


def chat_model(tokenizer, question: str, answer: str, steps: int = 60):
    """Train a tiny model until it answers one question as the chat template renders it, with nothing behind it."""
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    ids = torch.tensor([tokenizer.apply_chat_template(messages, return_dict=True)["input_ids"]])
    torch.manual_seed(0)
    model = tiny_model("llama", len(tokenizer))
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(steps):
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()
