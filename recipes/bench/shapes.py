"""What `engine.py` measures on: models in shapes of real ones, and one candidate before anchors. Knows no engine.

Models have random weights. Texts are those of `../shared` where it exists, else the embedded demo's, tiled to the
lengths of the former. Token ids are stretched or folded into the model's vocabulary: what they are changes no cost,
how many there are does. So a tokenizer is chosen for a shape by the lengths it gives (the 8k shape gets 136 tokens per
anchor, as from a BPE of 8k trained on such texts), not by its vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from nuggets_trainer.data.loading import load_rows
from nuggets_trainer.data.pool import Pool
from nuggets_trainer.demo import demo_path
from nuggets_trainer.prompts.nuggets import NuggetsTemplate
from nuggets_trainer.prompts.segment import Segment, common_prefix_length
from nuggets_trainer.prompts.shared_prefix import AnchorSet

SHARED = Path(__file__).parents[3] / "shared"
ANCHORS = SHARED / "data" / "anchors_kmeans100" / "anchors.jsonl"
CANDIDATES = SHARED / "data" / "pool_alpacaeval" / "train.jsonl"
# Deciles of the 100 real anchors' lengths, cut at 200, and their mean prompt length: for the demo's tiled texts.
ANCHOR_LENGTHS = (32, 43, 50, 69, 119, 160, 200, 200, 200, 200, 200)
PROMPT_LENGTH = 29


@dataclass(frozen=True)
class Shape:
    """A model's shape and the work it gets.

    Attributes:
        model_type: of transformers' config.
        sizes: that config's arguments.
        tokenizer: a folder of ../shared/tokenizers; decides how many tokens the texts have.
        num_anchors: m.
        candidate_tokens: the candidate is the row nearest to this length.
        dtype: of the weights.
        floor: rows and columns of the floor's forward passes; the fastest counts.
    """

    model_type: str
    sizes: dict[str, Any]
    tokenizer: str
    num_anchors: int
    candidate_tokens: int = 152
    dtype: torch.dtype = torch.float32
    floor: tuple[tuple[int, int], ...] = ((4, 256), (4, 128))


def _small_body(vocab_size: int, layers: int, kv_heads: int) -> dict[str, Any]:
    body = {"hidden_size": 384, "num_hidden_layers": layers, "num_attention_heads": 6, "intermediate_size": 1024}
    return {**body, "num_key_value_heads": kv_heads, "vocab_size": vocab_size, "tie_word_embeddings": True}


def _large_body(hidden: int, layers: int, heads: tuple[int, int], ffn: int, vocab_size: int) -> dict[str, Any]:
    body = {"hidden_size": hidden, "num_hidden_layers": layers, "intermediate_size": ffn, "vocab_size": vocab_size}
    return {**body, "num_attention_heads": heads[0], "num_key_value_heads": heads[1]}


_ON_GPU: dict[str, Any] = {
    "num_anchors": 100,
    "candidate_tokens": 178,
    "dtype": torch.bfloat16,
    "floor": ((32, 256), (16, 512)),
}
SHAPES = {
    "tiny": Shape(
        "llama",
        {**_small_body(512, 2, 2), "hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64},
        "mistral-v3",
        num_anchors=4,
        candidate_tokens=60,
    ),
    "llama-8k": Shape("llama", _small_body(8192, 6, 6), "mistral-v3", num_anchors=16),
    "qwen2-100k": Shape("qwen2", _small_body(100_352, 6, 2), "gpt2", num_anchors=8),
    # One body, two vocabularies: what grows from one to the other is the head's.
    "memory-32k": Shape("qwen2", _small_body(32_768, 2, 2), "gpt2", num_anchors=8),
    "memory-152k": Shape("qwen2", _small_body(151_936, 2, 2), "gpt2", num_anchors=8),
    "0.5b": Shape(
        "qwen2", {**_large_body(896, 24, (14, 2), 4864, 151_936), "tie_word_embeddings": True}, "gpt2", **_ON_GPU
    ),
    "7b": Shape("llama", _large_body(4096, 32, (32, 32), 11_008, 32_000), "mistral-v3", **_ON_GPU),
}


@dataclass(frozen=True)
class Workload:
    """One candidate before its anchors, as token ids.

    Attributes:
        prefix_ids: the candidate.
        segments: the anchors, at most 200 tokens each.
        source: where the texts come from.
    """

    prefix_ids: list[int]
    segments: list[Segment]
    source: str

    def hoisted(self) -> Workload:
        """Move the tokens that all anchors begin with into the prefix, as `prompts.SharedPrefix` does for a job.

        At least one prompt token stays in each segment.
        """
        first = self.segments[0].ids
        shared = min(min(common_prefix_length(first, s.ids), s.start - 1) for s in self.segments)
        segments = [Segment(s.ids[shared:], s.start - shared) for s in self.segments]
        return Workload(self.prefix_ids + first[:shared], segments, self.source)

    @property
    def useful_tokens(self) -> int:
        """Tokens that must go through the model: the prefix once, each segment without its last, never an input."""
        return len(self.prefix_ids) + sum(len(s.ids) - 1 for s in self.segments)

    @property
    def completion_tokens(self) -> int:
        """Tokens whose log-prob is asked for."""
        return sum(s.num_completion_tokens for s in self.segments)


def build_model(shape: Shape, device: str) -> Any:
    """Make the model, with random weights, in evaluation mode."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(shape.model_type, max_position_embeddings=4096, **shape.sizes)
    with torch.device(device):
        return AutoModelForCausalLM.from_config(config, dtype=shape.dtype, attn_implementation="sdpa").eval()


def make_workload(shape: Shape, num_anchors: int) -> Workload:
    """One candidate and `num_anchors` anchors of evenly spread lengths, their ids inside the model's vocabulary."""
    if ANCHORS.is_file() and CANDIDATES.is_file() and (SHARED / "tokenizers" / shape.tokenizer).is_dir():
        work, num_ids = _real_texts(shape)
    else:
        work, num_ids = _demo_texts(shape)
    by_length = sorted(work.segments, key=lambda s: len(s.ids))
    chosen = [by_length[(2 * i + 1) * len(by_length) // (2 * num_anchors)] for i in range(num_anchors)]

    def spread(ids: list[int]) -> list[int]:
        return [i * shape.sizes["vocab_size"] // num_ids for i in ids]

    return Workload(spread(work.prefix_ids), [Segment(spread(s.ids), s.start) for s in chosen], work.source)


def _real_texts(shape: Shape) -> tuple[Workload, int]:
    """Read all real anchors and the candidate of the wanted length; and say how many ids the tokenizer has."""
    tokenizer = AutoTokenizer.from_pretrained(SHARED / "tokenizers" / shape.tokenizer, model_max_length=10**6)
    template = NuggetsTemplate(tokenizer)
    rows = Pool(load_rows(str(ANCHORS)))
    anchors = AnchorSet(template, [rows[j] for j in range(len(rows))], [None] * len(rows), max_length=None)
    pool = Pool(load_rows(str(CANDIDATES)))
    shown = (template.one_shot(pool[i], anchors.rows[0]).ids for i in range(300))
    prefixes = [ids[: len(ids) - len(anchors.segments[0].ids)] for ids in shown]
    prefix = min(prefixes, key=lambda ids: abs(len(ids) - shape.candidate_tokens))
    return Workload(prefix, anchors.segments, f"../shared, tokenizer {shape.tokenizer}"), len(tokenizer)


def _demo_texts(shape: Shape) -> tuple[Workload, int]:
    """Repeat the demo's rows until they are as long as the real ones; and say how many ids its tokenizer has."""
    tokenizer = AutoTokenizer.from_pretrained(demo_path("model"))
    template, rows = NuggetsTemplate(tokenizer), Pool(load_rows("nuggets-demo/anchors"))
    deciles = np.linspace(0, 1, len(ANCHOR_LENGTHS))
    segments = []
    for j, quantile in enumerate(np.linspace(0, 1, 100)):
        length = round(float(np.interp(quantile, deciles, ANCHOR_LENGTHS)))
        anchor = template.zero_shot(rows[j % len(rows)])
        prompt, completion = anchor.ids[: anchor.start], anchor.ids[anchor.start :]
        ids = _tiled(prompt, PROMPT_LENGTH) + _tiled(completion, length - PROMPT_LENGTH)
        segments.append(Segment(ids, PROMPT_LENGTH))
    candidate = template.one_shot(rows[0], rows[0]).ids
    return Workload(_tiled(candidate, shape.candidate_tokens), segments, "the demo's, tiled"), len(tokenizer)


def _tiled(ids: list[int], length: int) -> list[int]:
    return (ids * (length // len(ids) + 1))[:length]
