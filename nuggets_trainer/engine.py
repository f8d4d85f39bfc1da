"""Log-probs of completions, alone or behind a shared prefix, on any decoder-only Hugging Face model.

Knows token ids and the model; knows nothing of golden scores, files or ranks.

The prefix is computed once and its key/value cache is repeated over a batch of segments (right-padded, sorted by
length, as many as the token budget admits). Batching, padding and caching never change what is computed: the tests
hold them against one sequence at a time, without cache, with a float64 log-softmax, and `check_prefix_sharing` does so
on the actual model before it is trusted.
"""

from __future__ import annotations

import contextlib
import copy
import inspect
import logging
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from transformers import DynamicCache
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
)

from nuggets_trainer.segment import Segment

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedConfig, PreTrainedModel

logger = logging.getLogger(__name__)

ENGINE_VERSION = 1  # part of the fingerprint: raise it when scores change by more than rounding
HEAD_ROWS = 1024  # completion positions whose float32 log-softmax is held at a time
# Largest difference, in nats per token, between a shared prefix and the whole sequence that rounding can explain.
SHARING_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 0.1, torch.float16: 0.02}


class LogProbEngine:
    """Mean log-probs of completions under one model.

    Args:
        model: a decoder-only language model with its head, on its device.
        tokens_per_batch: upper bound on prefix + segment tokens of one forward pass, padding included; a single
            segment that is longer runs alone.
        autocast_dtype: run the forward passes under autocast in this dtype; None leaves the weights' dtype.
    """

    def __init__(
        self, model: PreTrainedModel, tokens_per_batch: int = 8192, autocast_dtype: torch.dtype | None = None
    ) -> None:
        self._model = model
        self._tokens_per_batch = tokens_per_batch
        self._autocast_dtype = autocast_dtype
        self._shares_prefix = True
        # The class' signature: TRL replaces `forward` on the instance.
        self._keeps_logits = "logits_to_keep" in inspect.signature(type(model).forward).parameters

    @property
    def device(self) -> torch.device:
        """Where the forward passes run."""
        device: torch.device = self._model.device
        return device

    @contextlib.contextmanager
    def scoring(self) -> Iterator[None]:
        """Put the model into evaluation mode without gradients, and back."""
        was_training = self._model.training
        self._model.eval()
        autocast = torch.autocast(
            self.device.type, dtype=self._autocast_dtype, enabled=self._autocast_dtype is not None
        )
        try:
            with torch.no_grad(), autocast:
                yield
        finally:
            self._model.train(was_training)

    def score(self, prefix_ids: Sequence[int], segments: Sequence[Segment]) -> npt.NDArray[np.float32]:
        """Mean log-prob of each segment's completion behind the prefix.

        Equal, up to rounding, to running `prefix_ids + segment.ids` through the model one by one and averaging
        `log_softmax(logits)[t - 1, ids[t]]` over the completion span.

        Args:
            prefix_ids: token ids shared by all segments; may be empty.
            segments: what stands behind the prefix, each with its completion span.

        Returns:
            One value per segment, `(len(segments),)`, nats per token, in the order given. Not finite where the
            model's log-probs are not.
        """
        if not self._shares_prefix:
            segments, prefix_ids = [_whole(prefix_ids, s) for s in segments], []
        result = np.empty(len(segments), dtype=np.float32)
        with self.scoring():
            cache = self._prefix_cache(prefix_ids) if len(prefix_ids) else None
            for batch in self._batches([len(s.ids) for s in segments], len(prefix_ids)):
                result[batch] = self._score_batch(cache, len(prefix_ids), [segments[i] for i in batch])
        return result

    def check_prefix_sharing(self, prefix_ids: Sequence[int], segments: Sequence[Segment]) -> None:
        """Compare a shared prefix with whole sequences, one by one; on a mismatch compute sequences whole from now on.

        Recurrent layers, caches of another kind or unusual masks can make a repeated prefix cache wrong for a model.
        """
        whole = np.concatenate([self.score([], [_whole(prefix_ids, s)]) for s in segments])
        dtype = self._autocast_dtype or self._model.dtype
        try:
            shared = self.score(prefix_ids, segments)
            problem = f"log-probs differ by {np.abs(shared - whole).max():.2g} nats per token"
        except Exception as error:  # noqa: BLE001 - whatever it is, the path without a cache is still there
            shared, problem = np.full_like(whole, np.inf), f"{type(error).__name__}: {error}"
        # A NaN on both sides is the model's own; on one side it is the cache's.
        if not np.allclose(shared, whole, rtol=0, atol=SHARING_TOLERANCE.get(dtype, 1e-4), equal_nan=True):
            self._shares_prefix = False
            logger.warning(
                "%s cannot reuse the cache of a shared prefix (%s): every pair is computed whole, which is slower and "
                "gives the right scores.",
                type(self._model).__name__,
                problem,
            )

    def embed(self, sequences: Sequence[Sequence[int]]) -> npt.NDArray[np.float32]:
        """Mean of the last hidden states over each sequence's tokens, without padding: `(len(sequences), d)`."""
        rows: list[npt.NDArray[np.float32] | None] = [None] * len(sequences)
        with self.scoring():
            for batch in self._batches([len(ids) for ids in sequences], 0):
                ids, mask = self._pad([sequences[i] for i in batch])
                keep = {"logits_to_keep": 1} if self._keeps_logits else {}
                output = self._model(
                    input_ids=ids, attention_mask=mask, output_hidden_states=True, use_cache=False, **keep
                )
                hidden = output.hidden_states[-1].float() * mask[..., None]
                mean = hidden.sum(dim=1) / mask.sum(dim=1, keepdim=True)
                for row, i in zip(mean.cpu().numpy(), batch, strict=True):
                    rows[i] = row
        return np.stack([row for row in rows if row is not None])

    def _batches(self, lengths: Sequence[int], prefix_length: int) -> Iterator[list[int]]:
        """Group positions of similar length; a batch holds `rows * (prefix + longest)` tokens within the budget."""
        batch: list[int] = []
        for i in sorted(range(len(lengths)), key=lambda i: (lengths[i], i)):
            if batch and (len(batch) + 1) * (prefix_length + lengths[i]) > self._tokens_per_batch:
                yield batch
                batch = []
            batch.append(i)
        if batch:
            yield batch

    def _prefix_cache(self, prefix_ids: Sequence[int]) -> DynamicCache:
        cache = DynamicCache(config=self._model.config)
        keep = {"logits_to_keep": 1} if self._keeps_logits else {}
        ids = torch.tensor([list(prefix_ids)], device=self.device)
        self._model(input_ids=ids, past_key_values=cache, use_cache=True, **keep)
        return cache

    def _score_batch(
        self, cache: DynamicCache | None, prefix_length: int, segments: Sequence[Segment]
    ) -> npt.NDArray[np.float64]:
        """Mean log-prob per segment, `(len(segments),)`; the cache is left as it was."""
        ids, mask = self._pad([s.ids[:-1] for s in segments])  # the last token is only ever a target
        first = min(s.start for s in segments) - 1  # no completion of this batch is predicted before this position
        kwargs: dict[str, Any] = {"use_cache": False}
        if self._keeps_logits:
            kwargs["logits_to_keep"] = ids.shape[1] - first
        if cache is not None:
            repeated = copy.deepcopy(cache)
            repeated.batch_repeat_interleave(len(segments))
            mask = torch.cat([mask.new_ones(len(segments), prefix_length), mask], dim=1)
            kwargs |= {"past_key_values": repeated, "use_cache": True}
        logits = self._model(input_ids=ids, attention_mask=mask, **kwargs).logits
        if not self._keeps_logits:
            logits = logits[:, first:]
        return _mean_log_probs(logits, segments, offset=first)

    def _pad(self, sequences: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        """Right-padded ids and their mask, `(len(sequences), longest)`; the pad id is never attended to."""
        longest = max(len(ids) for ids in sequences)
        padded = [[*ids, *[0] * (longest - len(ids))] for ids in sequences]
        mask = [[1] * len(ids) + [0] * (longest - len(ids)) for ids in sequences]
        return torch.tensor(padded, device=self.device), torch.tensor(mask, device=self.device)


def _whole(prefix_ids: Sequence[int], segment: Segment) -> Segment:
    return Segment([*prefix_ids, *segment.ids], len(prefix_ids) + segment.start)


def _mean_log_probs(logits: torch.Tensor, segments: Sequence[Segment], offset: int) -> npt.NDArray[np.float64]:
    """Average `log_softmax(logits)` at the targets: `(B, T, V)` logits of positions from `offset` on -> `(B,)`.

    Token log-probs are float32, whatever the dtype of the logits; their sum is float64 (on the host, because MPS has
    no float64).
    """
    counts = [s.num_completion_tokens for s in segments]
    rows = torch.repeat_interleave(torch.arange(len(segments)), torch.tensor(counts))
    columns = torch.cat([torch.arange(s.start - 1, len(s.ids) - 1) for s in segments]) - offset
    targets = torch.cat([torch.tensor(s.ids[s.start :]) for s in segments])
    log_probs = []
    for first in range(0, len(rows), HEAD_ROWS):
        chunk = slice(first, first + HEAD_ROWS)
        scores = logits[rows[chunk].to(logits.device), columns[chunk].to(logits.device)].float()
        target = scores.gather(1, targets[chunk].to(logits.device)[:, None]).squeeze(1)
        log_probs.append((target - scores.logsumexp(dim=-1)).cpu())
    token_log_probs = torch.cat(log_probs).double().numpy()
    means: npt.NDArray[np.float64] = np.add.reduceat(token_log_probs, np.cumsum([0, *counts[:-1]])) / counts
    return means


@contextlib.contextmanager
def base_model(model: PreTrainedModel | PeftModel) -> Iterator[PreTrainedModel]:
    """Give the base model of a `PeftModel` with the adapter switched off; any other model as it is."""
    from peft import PeftModel

    if isinstance(model, PeftModel):
        with model.disable_adapter():
            yield model.get_base_model()
    else:
        yield model


def check_causal_lm(config: PreTrainedConfig, model: PreTrainedModel | None = None) -> None:
    """Refuse a model that is not a decoder-only language model with its head.

    Args:
        config: its `architectures` say what the checkpoint was saved as.
        model: once it is loaded.

    Raises:
        ValueError: for an encoder, an encoder-decoder, or a body saved without its head (which `from_pretrained` would
            complete with random weights).
    """
    names = config.architectures or ([type(model).__name__] if model is not None else [])
    causal = set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values())
    has_head = all(
        n in causal or n.endswith(("ForCausalLM", "ForConditionalGeneration")) for n in config.architectures or []
    )
    if model is not None and model.get_output_embeddings() is None:
        has_head = False
    looks_ahead = config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES and not getattr(config, "is_decoder", False)
    if config.is_encoder_decoder or not has_head or looks_ahead:
        raise ValueError(
            f"The scorer model must be a decoder-only language model with its head, got {', '.join(names)} "
            f"({config.model_type}). Expected an architecture that AutoModelForCausalLM loads, e.g. LlamaForCausalLM."
        )


def context_length(config: PreTrainedConfig) -> int | None:
    """Tokens that the model reads at once, or None without a limit.

    With `longrope` (Phi-3's long-context models) a sequence beyond the original context changes the positions of all
    others in its batch, so the original context is the limit.
    """
    text = config.get_text_config()
    length: int | None = getattr(text, "max_position_embeddings", None)
    rope = getattr(text, "rope_parameters", None) or getattr(text, "rope_scaling", None) or {}
    if length is not None and "longrope" in (rope.get("rope_type"), rope.get("type")):
        names = "original_max_position_embeddings"
        original = rope.get(names) or getattr(text, names, None)
        length = min(length, original or length)
    return length


def resolve_autocast_dtype(
    score_dtype: str, weights_dtype: torch.dtype, training_dtype: torch.dtype | None = None
) -> torch.dtype | None:
    """Dtype to autocast scoring to, or None to compute in the dtype of the weights.

    Args:
        score_dtype: `NuggetsConfig.score_dtype`.
        weights_dtype: of the loaded model.
        training_dtype: what mixed precision training autocasts to, None without it; `auto` follows it.

    Raises:
        ValueError: if float32 scores are asked of weights that were loaded in half precision.
    """
    wanted = training_dtype if score_dtype == "auto" else getattr(torch, score_dtype)
    if wanted is None or wanted == weights_dtype:
        return None
    if wanted == torch.float32:
        raise ValueError(
            f"`score_dtype=float32`, but the weights were loaded as {str(weights_dtype).removeprefix('torch.')}. Load "
            "the model with `dtype=float32`, or set `score_dtype` to the dtype of the weights."
        )
    return wanted
