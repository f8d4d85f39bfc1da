"""Mean log-probs of completions, alone or behind a shared prefix, on any decoder-only Hugging Face model.

There are three fast paths, fastest first:

- `packed`: many segments in one row behind a prefix that is computed once, through shared-prefix attention;
- `cached`: the key/value cache of the prefix, repeated over batches of segments;
- `whole`: prefix and segment together.

The fourth path, `naive`, takes one sequence at a time without cache, batch or padding. Every fast path is compared
with it on the actual model before it is used, so that the paths never differ by more than rounding.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from accelerate.utils.memory import clear_device_cache

from nuggets_trainer.engine.compiled import PIECES, CompiledParts, compiling_pays, parts_to_compile
from nuggets_trainer.engine.device import find_tokens_per_batch, ran_out_of_memory, share_of_matmul_peak
from nuggets_trainer.engine.packed import score_packed, splitting_tokens
from nuggets_trainer.engine.portable import (
    embed_whole,
    score_and_embed,
    score_and_embed_naive,
    score_cached,
    score_naive,
    score_whole,
)
from nuggets_trainer.engine.precision import describe_difference, full_float32, rounding_tolerances
from nuggets_trainer.prompts.segment import PrefixedSegments, Segment
from nuggets_trainer.ranks import OtherRankFailedError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Item = TypeVar("Item")
Result = TypeVar("Result")

logger = logging.getLogger(__name__)

PATHS: dict[str, Callable[[PreTrainedModel, Sequence[PrefixedSegments], int], list[list[float]]]] = {
    "packed": score_packed,
    "cached": score_cached,
    "whole": score_whole,
    "naive": score_naive,
}


class LogProbEngine:
    """Mean log-probs of completions under one model.

    Args:
        model: a decoder-only language model with its head, on its device.
        tokens_per_batch: upper bound on the tokens of one forward pass, padding included; None finds it from the
            device's memory. A single segment that is longer runs alone. The bound is halved when memory runs out.
        autocast_dtype: dtype to run the forward passes under autocast in; None computes in the dtype of the weights.
        path: one of `PATHS`; None chooses by a check on the first segments to score, see `choose_path`.
        sharded: whether the weights are spread over several processes. Every forward pass then takes all of them, so
            none can be tried and given up: memory that runs out is an error.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokens_per_batch: int | None = None,
        autocast_dtype: torch.dtype | None = None,
        path: str | None = None,
        sharded: bool = False,
    ) -> None:
        self._model = model
        self._autocast_dtype = autocast_dtype
        self._sharded = sharded
        self.tokens_per_batch = tokens_per_batch
        self.path = path
        self._rows_share_passes: bool | None = None  # whether whole rows do; the first call of `score_rows` finds out
        self.compiles = False  # whether parts are compiled in `score_prefixed`; `choose_path` decides
        self.compiled_names: tuple[str, ...] | None = None  # classes that are compiled then; None chooses them
        self._parts: CompiledParts | None = None

    def find_tokens_per_batch(self) -> int:
        """Return the upper bound on the tokens of one forward pass, as given, found or halved."""
        if self.tokens_per_batch is None:
            with self.scoring():
                self.tokens_per_batch = find_tokens_per_batch(self._model)
        return self.tokens_per_batch

    @contextlib.contextmanager
    def scoring(self, compiles: bool = False) -> Iterator[None]:
        """Put the model into evaluation mode without gradients, and back, each module into the mode that it had.

        Args:
            compiles: whether the compiled parts are in use. Only rows of the packed path have few shapes and no cache;
                in any other pass torch would compile whole layers again, and the naive path is the reference.
        """
        modes = [(module, module.training) for module in self._model.modules()]
        self._model.eval()
        autocast = torch.autocast(
            self._model.device.type, dtype=self._autocast_dtype, enabled=self._autocast_dtype is not None
        )
        compiled = self._compiled_parts().in_use() if compiles else contextlib.nullcontext()
        try:
            with torch.no_grad(), full_float32(), autocast, compiled:
                yield
        finally:
            for module, was_training in modes:
                module.training = was_training

    def _compiled_parts(self) -> CompiledParts:
        """Compile the model's parts at the first use; every later call takes the same."""
        if self._parts is None:
            names = self.compiled_names
            if names is None:
                # Within whole layers torch would neither gather sharded weights nor see autocast.
                pieces_only = self._sharded or self._autocast_dtype is not None
                names = PIECES if pieces_only else parts_to_compile(self._model)
            self._parts = CompiledParts(self._model, names)
        return self._parts

    def score(self, prefix_ids: Sequence[int], segments: Sequence[Segment]) -> npt.NDArray[np.float32]:
        """Return the mean log-prob of each segment's completion behind the prefix.

        It equals, up to rounding, running `prefix_ids + segment.ids` through the model one by one and averaging
        `log_softmax(logits)[t - 1, ids[t]]` over the completion span.

        Args:
            prefix_ids: token ids shared by all segments; may be empty.
            segments: token ids that follow the prefix, each segment with its completion span.

        Returns:
            One value per segment, `(len(segments),)`, nats per token, in the order given; not finite where the
            model's log-probs are not.

        Raises:
            RuntimeError: if memory does not suffice for a single segment behind the prefix.
        """
        return self.score_prefixed([(prefix_ids, segments)])[0]

    def score_prefixed(self, prefixed: Sequence[PrefixedSegments]) -> list[npt.NDArray[np.float32]]:
        """Score many prefixes, each with its own segments, as `score` does; short ones share forward passes.

        Args:
            prefixed: prefixes, each with the segments that follow it.

        Returns:
            One array per prefix, see `score`.

        Raises:
            RuntimeError: if memory does not suffice for a single segment behind its prefix.
        """
        if self.path is None:
            sample = [(prefix_ids, segments[:3]) for prefix_ids, segments in prefixed[:2]]
            self.choose_path(sample)
        assert self.path is not None
        with self.scoring(compiles=self.compiles):
            results = self._within_memory(PATHS[self.path], prefixed)
        return [np.array(means, dtype=np.float32) for means in results]

    def score_plainly(self, prefixed: Sequence[PrefixedSegments]) -> list[npt.NDArray[np.float32]]:
        """Do what `score_prefixed` does on the naive path, whatever path is chosen: for a few pairs."""
        with self.scoring():
            results = self._within_memory(PATHS["naive"], prefixed)
        return [np.array(means, dtype=np.float32) for means in results]

    @property
    def compute_dtype(self) -> torch.dtype:
        """Dtype of the arithmetic."""
        if getattr(self._model, "is_quantized", False):
            return torch.bfloat16  # whatever the dtype, quantized layers compute in half precision
        return self._autocast_dtype or self._model.dtype

    def share_of_peak(self, tokens_per_second: float, targets_per_token: float) -> float | None:
        """Return the FLOP/s at this speed / the peak of the device, see `share_of_matmul_peak`."""
        return share_of_matmul_peak(self._model, self.compute_dtype, tokens_per_second, targets_per_token)

    def tolerances(self, segments: Iterable[Segment]) -> npt.NDArray[np.float64]:
        """Return the largest difference that rounding can explain with this model, in nats per token, by segment."""
        return rounding_tolerances(self.compute_dtype, [segment.num_completion_tokens for segment in segments])

    def choose_path(self, prefixed: Sequence[PrefixedSegments], num_tokens: int = 0) -> str:
        """Choose the fastest path that gives the naive path's log-probs on these segments.

        Sliding windows, soft-caps, position biases, recurrent layers or another kind of cache can make a faster path
        wrong for a model, some of them on long sequences only. So give the longest prefixes and segments.

        Args:
            prefixed: a few prefixes, each with a few segments.
            num_tokens: forward tokens to score in all; only a large number is worth compiling layers for.

        Returns:
            The path, which is used from now on.
        """
        self.path, self.compiles = "naive", False
        expected = self.score_prefixed(prefixed)
        attempts = [("packed", False), ("cached", False), ("whole", False)]
        if compiling_pays(self._model, num_tokens):
            attempts.insert(0, ("packed", True))
        for path, compiles in attempts:
            self.path, self.compiles = path, compiles
            problem = self._problem(prefixed, expected)
            if problem is None:
                return path
            logger.warning(
                "%s cannot take the %s path%s (%s). Trying the next, slower path; scores are right on any of them.",
                type(self._model).__name__,
                path,
                " with compiled layers" if compiles else "",
                problem,
            )
        self.path = "naive"
        return self.path

    def _problem(
        self, prefixed: Sequence[PrefixedSegments], expected: Sequence[npt.NDArray[np.float32]]
    ) -> str | None:
        """Describe what is wrong with the present path; None if it gives the expected log-probs."""
        tolerances = self.tolerances(segment for _, segments in prefixed for segment in segments)
        budget = self.tokens_per_batch
        # First with as much in a forward pass as fits, then with little: prefixes are then kept for later passes.
        for tokens_per_batch in (budget, splitting_tokens(self._model.device, prefixed)):
            try:
                self.tokens_per_batch = tokens_per_batch
                found = self.score_prefixed(prefixed)
            except OtherRankFailedError:
                raise  # the path is not at fault
            except Exception as error:  # noqa: BLE001 - whatever it is, another path needs less of the model
                return f"{type(error).__name__}: {error}"
            finally:
                self.tokens_per_batch = budget  # it may have been halved, but only for this path
            problem = describe_difference(np.concatenate(found), np.concatenate(expected), tolerances)
            if problem is not None:
                return problem
        return None

    def score_rows(self, rows: Sequence[Segment]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Score and embed whole rows, each in one forward pass, which several rows share.

        Args:
            rows: token ids of each row, with its completion span.

        Returns:
            Mean log-prob of each completion, `(r,)`, nats per token, and position-weighted mean of each row's last
            hidden states, `(r, d)`, see `score_and_embed`.

        Raises:
            RuntimeError: if memory does not suffice for a single row.
        """
        with self.scoring():
            if self._rows_share_passes is None:
                self._rows_share_passes = self._can_share_passes(rows)
            compute = score_and_embed if self._rows_share_passes else score_and_embed_naive
            found = self._within_memory(compute, rows)
        return np.array([mean for mean, _ in found], dtype=np.float32), np.stack([vector for _, vector in found])

    def _can_share_passes(self, rows: Sequence[Segment]) -> bool:
        """Whether rows in padded batches have the log-probs that they have alone; on the shortest and longest."""
        by_length = sorted(rows, key=lambda row: len(row.ids))
        sample = [*by_length[:2], *by_length[-2:]]
        alone = self._within_memory(score_and_embed_naive, sample)
        together = self._within_memory(score_and_embed, sample)
        expected = np.array([mean for mean, _ in alone], dtype=np.float32)
        found = np.array([mean for mean, _ in together], dtype=np.float32)
        return describe_difference(found, expected, self.tolerances(sample)) is None

    def embed(self, sequences: Sequence[Sequence[int]]) -> npt.NDArray[np.float32]:
        """Return the mean of the last hidden states over each sequence's tokens, `(len(sequences), d)`."""
        with self.scoring():
            rows: list[npt.NDArray[np.float32]] = self._within_memory(embed_whole, sequences)
        return np.stack(rows)

    def _within_memory(
        self, compute: Callable[[PreTrainedModel, Sequence[Item], int], list[Result]], items: Sequence[Item]
    ) -> list[Result]:
        """Compute within the token budget, and halve the budget as long as memory runs out."""
        while True:
            tokens_per_batch = self.find_tokens_per_batch()
            try:
                return compute(self._model, items, tokens_per_batch)
            except Exception as error:  # each backend has its own type for a lack of memory
                if not ran_out_of_memory(error):
                    raise
                if self._sharded:
                    raise RuntimeError(
                        f"Memory ran out with `tokens_per_batch={tokens_per_batch}`. A sharded model cannot try "
                        "again, because the other ranks are inside the same forward pass. Set a smaller "
                        "`tokens_per_batch` and start again: the pairs scored so far are stored."
                    ) from error
                if tokens_per_batch <= 1:
                    raise RuntimeError(
                        "Memory does not suffice to score a single pair. Use a smaller `scorer_model`, a smaller "
                        "dtype, or shorter rows."
                    ) from error
            # Outside the except clause: the traceback keeps the tensors of the failed forward pass alive.
            self.tokens_per_batch = tokens_per_batch // 2
            clear_device_cache(garbage_collection=True)
            logger.warning("Memory ran out: going on with tokens_per_batch=%d.", self.tokens_per_batch)
