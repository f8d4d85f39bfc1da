"""The models and texts that `engine.py` measures: shapes of real models, and one candidate before its anchors.

Models have random weights. The texts are those of `../shared` if it exists; otherwise texts of the embedded demo are
repeated to the same lengths. Without `datasets` neither can be read, and random ids have these lengths.

Token ids are stretched or folded into the model's vocabulary, because the cost depends on their number and not on
their values. So the tokenizer of a shape is chosen by the lengths that it gives (the 8k shape gets 136 tokens per
anchor, as from a BPE of 8k trained on such texts), not by its vocabulary.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from nuggets_trainer.demo import demo_path
from nuggets_trainer.prompts.nuggets import NuggetsTemplate
from nuggets_trainer.prompts.segment import Segment, common_prefix_length
from nuggets_trainer.prompts.shared_prefix import AnchorSet

SHARED = Path(__file__).parents[3] / "shared"
ANCHORS = SHARED / "data" / "anchors_kmeans100" / "anchors.jsonl"
CANDIDATES = SHARED / "data" / "pool_alpacaeval" / "train.jsonl"
# Deciles of the lengths of the 100 real anchors, cut at 200, and their mean prompt length; the demo's texts get them.
ANCHOR_LENGTHS = (32, 43, 50, 69, 119, 160, 200, 200, 200, 200, 200)
PROMPT_LENGTH = 29


@dataclass(frozen=True)
class Shape:
    """The shape of a model and its work.

    Attributes:
        model_type: model type of transformers' config.
        sizes: arguments of that config.
        tokenizer: folder of ../shared/tokenizers, which decides how many tokens the texts have.
        num_anchors: number of anchors, m.
        candidate_tokens: length of the candidate; the row nearest to it is taken.
        dtype: dtype of the weights.
        floor: rows and columns of the floor's forward passes; the fastest variant counts.
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
    # One body with two vocabularies: only the head makes a difference between the two.
    "memory-32k": Shape("qwen2", _small_body(32_768, 2, 2), "gpt2", num_anchors=8),
    "memory-152k": Shape("qwen2", _small_body(151_936, 2, 2), "gpt2", num_anchors=8),
    "0.5b": Shape(
        "qwen2", {**_large_body(896, 24, (14, 2), 4864, 151_936), "tie_word_embeddings": True}, "gpt2", **_ON_GPU
    ),
    "8b": Shape("llama", _large_body(4096, 32, (32, 8), 14_336, 128_256), "gpt2", **_ON_GPU),
}


@dataclass(frozen=True)
class Workload:
    """One candidate before its anchors, as token ids.

    Attributes:
        prefix_ids: token ids of the candidate.
        segments: anchors, at most 200 tokens each.
        source: origin of the texts, in words.
    """

    prefix_ids: list[int]
    segments: list[Segment]
    source: str

    def hoisted(self) -> Workload:
        """Move the tokens that all anchors begin with into the prefix, as `prompts.SharedPrefix` does for a job.

        At least one prompt token stays in each segment.
        """
        first = self.segments[0].ids
        shared = len(first)
        for segment in self.segments:
            shared = min(shared, common_prefix_length(first, segment.ids), segment.start - 1)
        segments = [Segment(s.ids[shared:], s.start - shared) for s in self.segments]
        return Workload(self.prefix_ids + first[:shared], segments, self.source)

    @property
    def useful_tokens(self) -> int:
        """Tokens that must go through the model: the prefix once, and each segment without its last token."""
        return len(self.prefix_ids) + sum(len(s.ids) - 1 for s in self.segments)

    @property
    def completion_tokens(self) -> int:
        """Tokens whose log-prob is wanted."""
        return sum(s.num_completion_tokens for s in self.segments)


def build_model(shape: Shape, device: str) -> Any:
    """Make the model with random weights, in evaluation mode."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(shape.model_type, max_position_embeddings=4096, **shape.sizes)
    with torch.device(device):
        return AutoModelForCausalLM.from_config(config, dtype=shape.dtype, attn_implementation="sdpa").eval()


def make_workload(shape: Shape, num_anchors: int) -> Workload:
    """Make one candidate and `num_anchors` anchors of evenly spread lengths, with ids in the model's vocabulary."""
    if importlib.util.find_spec("datasets") is None:
        work, num_ids = _random_texts(shape)
    elif ANCHORS.is_file() and CANDIDATES.is_file() and (SHARED / "tokenizers" / shape.tokenizer).is_dir():
        work, num_ids = _real_texts(shape)
    else:
        work, num_ids = _demo_texts(shape)
    by_length = sorted(work.segments, key=lambda s: len(s.ids))

    def into_vocabulary(ids: list[int]) -> list[int]:
        return [i * shape.sizes["vocab_size"] // num_ids for i in ids]

    segments = []
    for i in range(num_anchors):
        anchor = by_length[(2 * i + 1) * len(by_length) // (2 * num_anchors)]
        segments.append(Segment(into_vocabulary(anchor.ids), anchor.start))
    return Workload(into_vocabulary(work.prefix_ids), segments, work.source)


def _real_texts(shape: Shape) -> tuple[Workload, int]:
    """Read all real anchors and the candidate of the wanted length; return them and the number of token ids."""
    from nuggets_trainer.data.loading import load_rows
    from nuggets_trainer.data.pool import Pool

    tokenizer = AutoTokenizer.from_pretrained(SHARED / "tokenizers" / shape.tokenizer, model_max_length=10**6)
    template = NuggetsTemplate(tokenizer)
    rows = Pool(load_rows(str(ANCHORS)))
    anchors = AnchorSet(template, [rows[j] for j in range(len(rows))], [None] * len(rows), max_length=None)
    pool = Pool(load_rows(str(CANDIDATES)))
    prefixes = []
    for i in range(300):
        ids = template.one_shot(pool[i], anchors.rows[0]).ids
        prefixes.append(ids[: len(ids) - len(anchors.segments[0].ids)])
    prefix = min(prefixes, key=lambda ids: abs(len(ids) - shape.candidate_tokens))
    return Workload(prefix, anchors.segments, f"../shared, tokenizer {shape.tokenizer}"), len(tokenizer)


def _demo_texts(shape: Shape) -> tuple[Workload, int]:
    """Repeat the demo's rows to the lengths of the real ones; return them and the number of token ids."""
    from nuggets_trainer.data.loading import load_rows
    from nuggets_trainer.data.pool import Pool

    tokenizer = AutoTokenizer.from_pretrained(demo_path("model"))
    template, rows = NuggetsTemplate(tokenizer), Pool(load_rows("nuggets-demo/anchors"))
    segments = []
    for j, length in enumerate(_anchor_lengths()):
        anchor = template.zero_shot(rows[j % len(rows)])
        prompt, completion = anchor.ids[: anchor.start], anchor.ids[anchor.start :]
        ids = _tiled(prompt, PROMPT_LENGTH) + _tiled(completion, length - PROMPT_LENGTH)
        segments.append(Segment(ids, PROMPT_LENGTH))
    candidate = template.one_shot(rows[0], rows[0]).ids
    return Workload(_tiled(candidate, shape.candidate_tokens), segments, "the demo's, tiled"), len(tokenizer)


def _random_texts(shape: Shape) -> tuple[Workload, int]:
    """Make ids of the lengths of the real ones; return them and the number of token ids."""
    num_ids = shape.sizes["vocab_size"]
    rng = np.random.default_rng(0)
    segments = [Segment(rng.integers(0, num_ids, length).tolist(), PROMPT_LENGTH) for length in _anchor_lengths()]
    prefix = rng.integers(0, num_ids, shape.candidate_tokens).tolist()
    return Workload(prefix, segments, "random ids"), num_ids


def _anchor_lengths() -> list[int]:
    """Return the lengths of 100 anchors, from the deciles of the real ones."""
    deciles = np.linspace(0, 1, len(ANCHOR_LENGTHS))
    return [round(float(length)) for length in np.interp(np.linspace(0, 1, 100), deciles, ANCHOR_LENGTHS)]


def _tiled(ids: list[int], length: int) -> list[int]:
    return (ids * (length // len(ids) + 1))[:length]
