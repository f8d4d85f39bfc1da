"""The portable paths: stock transformers only, for models that the packed path cannot express.

`score_cached` computes a prefix once and repeats its key/value cache over batches of segments; `score_whole` runs
prefix and segment together, for models whose cache cannot be repeated (recurrent layers). Both pad on the right.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from transformers import DynamicCache

from nuggets_trainer.engine.lm_head import segment_means
from nuggets_trainer.prompts.segment import PrefixedSegments, Segment

if TYPE_CHECKING:
    from transformers import PreTrainedModel

LOGIT_ROWS = 1024  # completion positions whose logits are turned to float32 at a time


def score_cached(
    model: PreTrainedModel, prefixed: Sequence[PrefixedSegments], tokens_per_batch: int
) -> list[list[float]]:
    """Mean log-prob of each segment behind its prefix, nats per token, one list per prefix."""
    results = []
    for prefix_ids, segments in prefixed:
        cache = _prefix_cache(model, prefix_ids) if len(prefix_ids) else None
        means = [0.0] * len(segments)
        for batch in batches([len(s.ids) for s in segments], len(prefix_ids), tokens_per_batch):
            for i, mean in zip(batch, _score_batch(model, cache, len(prefix_ids), segments, batch), strict=True):
                means[i] = mean
        results.append(means)
    return results


def score_whole(
    model: PreTrainedModel, prefixed: Sequence[PrefixedSegments], tokens_per_batch: int
) -> list[list[float]]:
    """Mean log-prob of each segment behind its prefix, nats per token, one list per prefix."""
    whole: list[PrefixedSegments] = [
        ([], [s.behind(prefix_ids) for s in segments]) for prefix_ids, segments in prefixed
    ]
    return score_cached(model, whole, tokens_per_batch)


def score_naive(
    model: PreTrainedModel, prefixed: Sequence[PrefixedSegments], tokens_per_batch: int = 1
) -> list[list[float]]:
    """Mean log-probs without cache, batch or padding, what the other ways are held against; any budget is one row."""
    return score_whole(model, prefixed, tokens_per_batch=1)


def batches(lengths: Sequence[int], prefix_length: int, tokens_per_batch: int) -> Iterator[list[int]]:
    """Group positions of similar length; a batch holds `rows * (prefix + longest)` tokens within the budget.

    A single sequence that is longer runs alone.
    """
    batch: list[int] = []
    for i in sorted(range(len(lengths)), key=lambda i: (lengths[i], i)):
        if batch and (len(batch) + 1) * (prefix_length + lengths[i]) > tokens_per_batch:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


def pad(sequences: Sequence[Sequence[int]], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Right-padded ids and their mask, `(len(sequences), longest)`; the pad id is never attended to."""
    longest = max(len(ids) for ids in sequences)
    padded = [[*ids, *[0] * (longest - len(ids))] for ids in sequences]
    mask = [[1] * len(ids) + [0] * (longest - len(ids)) for ids in sequences]
    return torch.tensor(padded, device=device), torch.tensor(mask, device=device)


def logits_to_keep(model: PreTrainedModel, number: int) -> dict[str, int]:
    """Give the argument that has the head computed at the last positions only; none where a model does not know it."""
    # The class' signature: TRL replaces `forward` on the instance.
    known = "logits_to_keep" in inspect.signature(type(model).forward).parameters
    return {"logits_to_keep": number} if known else {}


def cache_argument(model: PreTrainedModel, cache: DynamicCache) -> dict[str, DynamicCache]:
    """Give the key/value cache under the name that the model knows: transformers 5.24 renamed it."""
    name = "cache" if "cache" in inspect.signature(type(model).forward).parameters else "past_key_values"
    return {name: cache}


def _prefix_cache(model: PreTrainedModel, prefix_ids: Sequence[int]) -> DynamicCache:
    cache = DynamicCache(config=model.config)
    ids = torch.tensor([list(prefix_ids)], device=model.device)
    model(input_ids=ids, use_cache=True, **cache_argument(model, cache), **logits_to_keep(model, 1))
    return cache


def _score_batch(
    model: PreTrainedModel,
    cache: DynamicCache | None,
    prefix_length: int,
    all_segments: Sequence[Segment],
    batch: Sequence[int],
) -> list[float]:
    """Mean log-prob per segment of the batch; the cache is left as it was."""
    segments = [all_segments[i] for i in batch]
    ids, mask = pad([s.ids[:-1] for s in segments], model.device)  # the last token is only ever a target
    first = min(s.start for s in segments) - 1  # no completion of this batch is predicted before this position
    kwargs: dict[str, Any] = {"use_cache": False}
    if cache is not None:
        repeated = copy.deepcopy(cache)
        repeated.batch_repeat_interleave(len(segments))
        mask = torch.cat([mask.new_ones(len(segments), prefix_length), mask], dim=1)
        kwargs = {"use_cache": True, **cache_argument(model, repeated)}
    kept = ids.shape[1] - first
    logits = model(input_ids=ids, attention_mask=mask, **kwargs, **logits_to_keep(model, kept)).logits[:, -kept:]
    return _mean_log_probs(logits, segments, offset=first)


def _mean_log_probs(logits: torch.Tensor, segments: Sequence[Segment], offset: int) -> list[float]:
    """Average `log_softmax(logits)` at the targets: `(B, T, V)` logits of positions from `offset` on.

    Token log-probs are float32, whatever the dtype of the logits; their sum is float64 (on the host, because MPS has
    no float64).
    """
    counts = [s.num_completion_tokens for s in segments]
    rows = torch.repeat_interleave(torch.arange(len(segments)), torch.tensor(counts)).to(logits.device)
    positions = [position for s in segments for position in s.positions]
    columns = (torch.tensor(positions) - 1 - offset).to(logits.device)
    targets = torch.tensor([target for s in segments for target in s.targets]).to(logits.device)
    log_probs = []
    for first in range(0, len(rows), LOGIT_ROWS):
        chunk = slice(first, first + LOGIT_ROWS)
        scores = logits[rows[chunk], columns[chunk]].float()
        target = scores.gather(1, targets[chunk, None]).squeeze(1)
        log_probs.append((target - scores.logsumexp(dim=-1)).cpu())
    means: list[float] = segment_means(torch.cat(log_probs).double().numpy(), counts).tolist()
    return means
