"""Greedy completions of held-out prompts, held against the given ones: exact match, or ROUGE-L (rouge-score)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from nuggets_trainer.prompts.segment import Segment

METRICS = ("exact_match", "rouge_l")
BATCH = 32


def generated_quality(model: Any, tokenizer: Any, segments: Sequence[Segment], metric: str) -> float:
    """Mean over rows, in [0, 1].

    Args:
        model: the tuned model.
        tokenizer: its tokenizer.
        segments: held-out rows: what stands before the completion is the prompt.
        metric: of `METRICS`; white space at the ends and special tokens do not count.
    """
    found = []
    for start in range(0, len(segments), BATCH):
        batch = segments[start : start + BATCH]
        texts = _complete(model, tokenizer, batch)
        wanted = [tokenizer.decode(s.ids[s.start :], skip_special_tokens=True).strip() for s in batch]
        found += [compare_texts(text.strip(), target, metric) for text, target in zip(texts, wanted, strict=True)]
    return sum(found) / len(found)


def compare_texts(text: str, target: str, metric: str) -> float:
    """Hold one completion against the given one."""
    if metric == "exact_match":
        return float(text == target)
    from rouge_score.rouge_scorer import RougeScorer

    return float(RougeScorer(["rougeL"]).score(target, text)["rougeL"].fmeasure)


def _complete(model: Any, tokenizer: Any, batch: Sequence[Segment]) -> list[str]:
    prompts = [s.ids[: s.start] for s in batch]
    width = max(map(len, prompts))
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    ids = torch.tensor([[pad] * (width - len(p)) + p for p in prompts], device=model.device)
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=model.device)
    longest = max(len(s.ids) - s.start for s in batch)
    was_training = model.training
    model.eval()
    with torch.no_grad():
        output = model.generate(
            input_ids=ids,
            attention_mask=mask,
            max_new_tokens=longest,
            do_sample=False,
            pad_token_id=pad,
            eos_token_id=tokenizer.eos_token_id,
        )
    model.train(was_training)
    texts: list[str] = tokenizer.batch_decode(output[:, width:], skip_special_tokens=True)
    return texts
