"""The portable paths: unmodified transformers, for models that the packed path cannot express.

`score_cached` computes a prefix once and repeats its key/value cache over batches of segments. `score_whole` runs
prefix and segment together, for models whose cache cannot be repeated (recurrent layers). Both pad on the right.
"""

from __future__ import annotations

import contextlib
import copy
import inspect
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from transformers import DynamicCache

from nuggets_trainer.engine.lm_head import segment_means
from nuggets_trainer.engine.model import last_hidden_states
from nuggets_trainer.prompts.segment import PrefixedSegments, Segment

if TYPE_CHECKING:
    from transformers import PreTrainedModel

LOGIT_ROWS = 1024  # completion positions whose logits are held in float32 at a time
MAX_LOGITS = 2**29  # logits that a forward pass of several sequences may return: 1 GB in half precision


def score_cached(
    model: PreTrainedModel, prefixed: Sequence[PrefixedSegments], tokens_per_batch: int
) -> list[list[float]]:
    """Return the mean log-prob of each segment behind its prefix, nats per token, one list per prefix."""
    results = []
    positions = positions_with_logits(model)
    for prefix_ids, segments in prefixed:
        prefix_length = len(prefix_ids)
        cache = _prefix_cache(model, prefix_ids) if prefix_length else None
        means = [0.0] * len(segments)
        for batch in batches([len(s.ids) for s in segments], prefix_length, tokens_per_batch, positions):
            batch_means = _score_batch(model, cache, prefix_length, [segments[i] for i in batch])
            for i, mean in zip(batch, batch_means, strict=True):
                means[i] = mean
        results.append(means)
    return results


def score_whole(
    model: PreTrainedModel, prefixed: Sequence[PrefixedSegments], tokens_per_batch: int
) -> list[list[float]]:
    """Return what `score_cached` does, from prefix and segment run together."""
    whole: list[PrefixedSegments] = []
    for prefix_ids, segments in prefixed:
        whole.append(([], [s.behind(prefix_ids) for s in segments]))
    return score_cached(model, whole, tokens_per_batch)


def score_naive(
    model: PreTrainedModel, prefixed: Sequence[PrefixedSegments], tokens_per_batch: int = 1
) -> list[list[float]]:
    """Return what `score_cached` does, without cache, batch or padding: the reference for the other paths.

    It ignores `tokens_per_batch`: every sequence runs alone.
    """
    return score_whole(model, prefixed, tokens_per_batch=1)


def score_and_embed(
    model: PreTrainedModel, segments: Sequence[Segment], tokens_per_batch: int
) -> list[tuple[float, npt.NDArray[np.float32]]]:
    """Return the mean log-prob and the position-weighted embedding `(d,)` of each segment, from one forward pass.

    An embedding is the mean of the last hidden states over all tokens of the segment, weighted by position: the t-th
    token, counted from 1, has the weight t. (RDS+, arXiv 2503.01807, section 3, which takes it from SGPT, 2202.08904.)
    """
    results: list[tuple[float, npt.NDArray[np.float32]]] = [(0.0, np.empty(0, dtype=np.float32))] * len(segments)
    for batch in batches([len(s.ids) for s in segments], 0, tokens_per_batch, positions_with_logits(model)):
        own = [segments[i] for i in batch]
        ids, mask = pad([s.ids for s in own], model.device)
        first = min(s.start for s in own) - 1  # no completion of this batch is predicted before this position
        kept = ids.shape[1] - first
        inputs = {"input_ids": ids, "attention_mask": mask, "use_cache": False, **logits_to_keep(model, kept)}
        with _kept_hidden_states(model) as last:
            output = model(**inputs)
        if not last:  # the models of OPT and BART pass their base model by
            output = model(**inputs, output_hidden_states=True)
            last.append(_last_of_all(model, output))
        means = _mean_log_probs(output.logits[:, -kept:], own, offset=first)
        weights = mask * torch.arange(1, ids.shape[1] + 1, device=mask.device)
        hidden = last[0].to(weights.device).float() * weights[..., None]
        embeddings = (hidden.sum(dim=1) / weights.sum(dim=1, keepdim=True)).cpu().numpy()
        for i, mean, embedding in zip(batch, means, embeddings, strict=True):
            results[i] = mean, embedding
    return results


def score_and_embed_naive(
    model: PreTrainedModel, segments: Sequence[Segment], tokens_per_batch: int = 1
) -> list[tuple[float, npt.NDArray[np.float32]]]:
    """Return what `score_and_embed` does, without batch or padding; it ignores `tokens_per_batch`."""
    return score_and_embed(model, segments, tokens_per_batch=1)


def embed_whole(
    model: PreTrainedModel, sequences: Sequence[Sequence[int]], tokens_per_batch: int
) -> list[npt.NDArray[np.float32]]:
    """Return the mean last hidden state of each sequence, `(d,)`; padding is left out of the mean."""
    rows: list[npt.NDArray[np.float32]] = [np.empty(0, dtype=np.float32)] * len(sequences)
    for batch in batches([len(ids) for ids in sequences], 0, tokens_per_batch):
        ids, mask = pad([sequences[i] for i in batch], model.device)
        inputs = {"input_ids": ids, "attention_mask": mask, "use_cache": False}
        last = None
        if model.base_model is not model:
            last = last_hidden_states(model, model.base_model(**inputs))
        if last is None:
            last = _last_of_all(model, model(**inputs, output_hidden_states=True, **logits_to_keep(model, 1)))
        hidden = last.to(mask.device).float() * mask[..., None]
        means = (hidden.sum(dim=1) / mask.sum(dim=1, keepdim=True)).cpu().numpy()
        for i, mean in zip(batch, means, strict=True):
            rows[i] = mean
    return rows


def _last_of_all(model: PreTrainedModel, output: Any) -> torch.Tensor:
    """Return the last of the hidden states that the whole model returned.

    Raises:
        ValueError: if it returned none.
    """
    if getattr(output, "hidden_states", None) is None:
        raise ValueError(
            "The scorer model must return its hidden states, from its decoder or with `output_hidden_states=True`, "
            f"but {type(model).__name__} returns none. Choose other anchors than by k-means, leave out what compares "
            "embeddings of rows, or use another scorer model."
        )
    hidden: torch.Tensor = output.hidden_states[-1]
    return hidden


@contextlib.contextmanager
def _kept_hidden_states(model: PreTrainedModel) -> Iterator[list[torch.Tensor]]:
    """Keep the last hidden states of the decoder while the whole model runs.

    They are the last of `hidden_states`, but `output_hidden_states` keeps those of all layers until the pass ends.
    Nothing is kept of a model that calls a part of its base model in its place.
    """
    last: list[torch.Tensor] = []

    def keep(_: Any, __: Any, output: Any) -> None:
        hidden = last_hidden_states(model, output)
        if hidden is not None:
            last.append(hidden)

    hook = model.base_model.register_forward_hook(keep)
    try:
        yield last
    finally:
        hook.remove()


def positions_with_logits(model: PreTrainedModel) -> int:
    """Return the most positions whose logits a pass may return: their memory grows with the vocabulary."""
    vocabulary: int = model.config.get_text_config().vocab_size
    return max(1, MAX_LOGITS // vocabulary)


def batches(
    lengths: Sequence[int], prefix_length: int, tokens_per_batch: int, positions: int | None = None
) -> Iterator[list[int]]:
    """Group sequences of similar length into batches of at most `tokens_per_batch` tokens, padding included.

    A batch takes `rows * (prefix_length + longest)` tokens. A single sequence that is longer makes a batch of its own.

    Args:
        lengths: length of each sequence behind the prefix, in tokens.
        prefix_length: length of the prefix that is repeated for each sequence, in tokens.
        tokens_per_batch: upper bound on the tokens of a batch.
        positions: upper bound on `rows * longest`, the positions behind the prefix that return logits; None for none.

    Yields:
        Positions in `lengths`; each position is in one batch.
    """
    batch: list[int] = []
    for i in sorted(range(len(lengths)), key=lambda i: (lengths[i], i)):
        rows = len(batch) + 1
        too_many = rows * (prefix_length + lengths[i]) > tokens_per_batch
        if batch and (too_many or (positions is not None and rows * lengths[i] > positions)):
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


def pad(sequences: Sequence[Sequence[int]], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Return right-padded ids and their mask, `(len(sequences), longest)`; no token attends to the padding."""
    longest = max(len(ids) for ids in sequences)
    padded, mask = [], []
    for ids in sequences:
        rest = longest - len(ids)
        padded.append([*ids] + [0] * rest)
        mask.append([1] * len(ids) + [0] * rest)
    return torch.tensor(padded, device=device), torch.tensor(mask, device=device)


def logits_to_keep(model: PreTrainedModel, number: int) -> dict[str, int]:
    """Return the argument that limits the head to the last positions; none if the model does not take it."""
    # The signature of the class, because TRL replaces `forward` on the instance.
    known = "logits_to_keep" in inspect.signature(type(model).forward).parameters
    return {"logits_to_keep": number} if known else {}


def cache_argument(model: PreTrainedModel, cache: DynamicCache) -> dict[str, DynamicCache]:
    """Return the key/value cache under the argument name that the model takes: transformers 5.24 renamed it."""
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
    segments: Sequence[Segment],
) -> list[float]:
    """Return the mean log-prob of each segment, from one forward pass; the cache is left as it was."""
    ids, mask = pad([s.ids[:-1] for s in segments], model.device)  # the last token is a target only
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
    """Average `log_softmax(logits)` over the targets of each segment.

    Token log-probs are float32, whatever the dtype of the logits. Their sum is float64, on the host, because MPS has
    no float64.

    Args:
        logits: logits of the positions from `offset` on, `(B, T, V)`.
        segments: the B segments.
        offset: position in the segments of the first logits.
    """
    counts = [s.num_completion_tokens for s in segments]
    positions: list[int] = []
    target_ids: list[int] = []
    for segment in segments:
        positions += segment.positions
        target_ids += segment.targets
    rows = torch.repeat_interleave(torch.arange(len(segments)), torch.tensor(counts)).to(logits.device)
    columns = (torch.tensor(positions) - 1 - offset).to(logits.device)
    targets = torch.tensor(target_ids).to(logits.device)
    log_probs = []
    for first in range(0, len(rows), LOGIT_ROWS):
        chunk = slice(first, first + LOGIT_ROWS)
        scores = logits[rows[chunk], columns[chunk]].float()
        target = scores.gather(1, targets[chunk, None]).squeeze(1)
        log_probs.append(target - scores.logsumexp(dim=-1))
    values = torch.cat(log_probs).cpu()  # the only place where the host waits for the device
    means: list[float] = segment_means(values.double().numpy(), counts).tolist()
    return means
