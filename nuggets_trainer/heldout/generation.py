"""Greedy completions of held-out prompts, compared with the given completions: exact match or ROUGE-L."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from nuggets_trainer.prompts.generated import find_turn_end
from nuggets_trainer.prompts.segment import Segment

METRICS = ("exact_match", "rouge_l")
BATCH = 32  # prompts that are completed together


def generated_quality(model: Any, tokenizer: Any, segments: Sequence[Segment], metric: str) -> list[float]:
    """Complete held-out prompts and return the metric of each, in [0, 1].

    White space at both ends and special tokens do not count.

    Args:
        model: tuned model.
        tokenizer: tokenizer of the model.
        segments: held-out rows; the tokens before the completion are the prompt.
        metric: metric, one of `METRICS`.
    """
    values = []
    for start in range(0, len(segments), BATCH):
        batch = segments[start : start + BATCH]
        texts = _complete(model, tokenizer, batch)
        for text, segment in zip(texts, batch, strict=True):
            target = tokenizer.decode(segment.ids[segment.start :], skip_special_tokens=True)
            values.append(compare_texts(text.strip(), target.strip(), metric))
    return values


def compare_texts(text: str, target: str, metric: str) -> float:
    """Compare a generated completion with the given one; 1 is the best value."""
    if metric == "exact_match":
        return float(text == target)
    from rouge_score.rouge_scorer import RougeScorer

    return float(RougeScorer(["rougeL"]).score(target, text)["rougeL"].fmeasure)


def _complete(model: Any, tokenizer: Any, batch: Sequence[Segment]) -> list[str]:
    """Complete the prompts greedily, padded on the left, each as far as the longest given completion."""
    prompts = [segment.ids[: segment.start] for segment in batch]
    width = max(map(len, prompts))
    # Base models with ChatML have another EOS token than the one that ends a turn.
    ends = {tokenizer.eos_token_id, find_turn_end(tokenizer)} - {None}
    pad = tokenizer.pad_token_id
    if pad is None:
        pad = tokenizer.eos_token_id
    ids = torch.full((len(prompts), width), pad)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        if prompt:
            ids[row, -len(prompt) :] = torch.tensor(prompt)
            mask[row, -len(prompt) :] = 1
    longest = max(len(segment.ids) - segment.start for segment in batch)
    was_training = model.training
    model.eval()
    with torch.no_grad():
        output = model.generate(
            input_ids=ids.to(model.device),
            attention_mask=mask.to(model.device),
            max_new_tokens=longest,
            do_sample=False,
            pad_token_id=pad,
            eos_token_id=sorted(ends) or None,
        )
    model.train(was_training)
    texts: list[str] = tokenizer.batch_decode(output[:, width:], skip_special_tokens=True)
    return texts
