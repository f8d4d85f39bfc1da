"""Everything that a tuned model is measured by, value by value: rows of held-out sets, answers, tasks."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from nuggets_trainer.engine.adapters import inner_model
from nuggets_trainer.engine.log_probs import LogProbEngine
from nuggets_trainer.heldout.generation import generated_quality
from nuggets_trainer.heldout.tasks import HarnessTasks
from nuggets_trainer.prompts.segment import Segment
from nuggets_trainer.ranks import Ranks

LOSS_OF = "loss of "  # beginning of the name of the loss on a set behind the first


@dataclass(frozen=True)
class MeasuredModel:
    """Values of one model.

    Attributes:
        losses: losses of the rows of the first set, nats per completion token.
        generation: mean of the generation metric on that set; None if nothing was generated.
        measures: values of everything else by name: `loss of <set>`, `exact_match` (of one set) or `exact_match of
            <set>`, `<task> <metric>`.
    """

    losses: list[float]
    generation: float | None
    measures: dict[str, list[float]]


class Measures:
    """Measures one model after another.

    Args:
        sets: held-out rows by the name of their set; the first set is the one that verdicts are about.
        tokenizer: tokenizer of the models.
        generation: metric, and number of rows of each set to complete; None if nothing is generated.
        tasks: tasks of lm-evaluation-harness; None if there are none.

    Attributes:
        key: what decides the values, ready for JSON. With one set and no tasks it is that of earlier versions.
    """

    def __init__(
        self,
        sets: Mapping[str, Sequence[Segment]],
        tokenizer: Any,
        generation: tuple[str, int] | None,
        tasks: HarnessTasks | None = None,
    ) -> None:
        self._sets, self._tokenizer, self._generation, self._tasks = dict(sets), tokenizer, generation, tasks
        self._engine_path: str | None = None
        self._ranks = Ranks()
        self.first = next(iter(self._sets.values()))
        self.key: dict[str, Any] = {"heldout_sha256": _hash_of(self.first), "generation": generation}
        if len(self._sets) > 1:
            names, all_segments = zip(*self._sets.items(), strict=True)
            self.key["heldout_sets"] = list(zip(names, map(_hash_of, all_segments), strict=True))
        if tasks is not None:
            self.key["lm_eval"] = tasks.key

    def weights(self, measure: str | None, num_values: int) -> npt.NDArray[np.int64]:
        """Return the weight of each value in the mean: the row's completion tokens for a loss, else 1.

        Args:
            measure: name of the measure; None for the loss on the first set.
            num_values: number of values.
        """
        if measure is None:
            return _num_tokens(self.first)
        if measure.startswith(LOSS_OF):
            return _num_tokens(self._sets[measure.removeprefix(LOSS_OF)])
        return np.ones(num_values, dtype=np.int64)

    def measure(self, model: Any) -> MeasuredModel:
        """Measure a model; all ranks must call it, and each measures its share of the losses."""
        losses: list[float] = []
        generation = None
        measures: dict[str, list[float]] = {}
        for name, segments in self._sets.items():
            own = self._losses(model, segments)
            if segments is self.first:
                losses = own
            else:
                measures[f"{LOSS_OF}{name}"] = own
        if self._generation is not None:
            metric, number = self._generation
            for name, segments in self._sets.items():
                values = generated_quality(model, self._tokenizer, segments[:number], metric)
                if segments is self.first:
                    generation = float(np.mean(values))
                measures[f"{metric} of {name}" if len(self._sets) > 1 else metric] = values
        if self._tasks is not None:
            measures.update(self._tasks.measure(model, self._tokenizer))
        return MeasuredModel(losses, generation, measures)

    def _losses(self, model: Any, segments: Sequence[Segment]) -> list[float]:
        """Measure the loss of every row; each rank measures its share."""
        engine = LogProbEngine(inner_model(model), path=self._engine_path)
        own = self._ranks.share(range(len(segments)))

        def measure() -> list[tuple[int, float]]:
            log_probs = engine.score([], [segments[i] for i in own])
            return list(zip(own, log_probs.tolist(), strict=True))

        measured = self._ranks.gather_from(measure)
        self._engine_path = engine.path  # all models have the same architecture: one check is enough
        losses = [0.0] * len(segments)
        for i, log_prob in measured:
            losses[i] = -log_prob
        return losses


def _num_tokens(segments: Sequence[Segment]) -> npt.NDArray[np.int64]:
    return np.array([segment.num_completion_tokens for segment in segments])


def _hash_of(segments: Sequence[Segment]) -> str:
    content = []
    for segment in segments:
        content.append([segment.ids, list(segment.positions)])
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
