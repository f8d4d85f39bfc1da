"""`GoldenScorer`: golden scores of a batch of rows, for engines that distribute batches themselves."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from datasets import Dataset

from nuggets_trainer.batches.prepared import PreparedScorer, read_scale, row_or_reason
from nuggets_trainer.batches.rows import Columns, num_rows, read_batch, texts, with_columns
from nuggets_trainer.config.nuggets_config import NuggetsConfig
from nuggets_trainer.config.row_options import RowOptions
from nuggets_trainer.data.loading import load_rows
from nuggets_trainer.data.pool import Pool
from nuggets_trainer.engine.adapters import base_model, inner_model
from nuggets_trainer.engine.loading import load_scorer_of
from nuggets_trainer.engine.log_probs import LogProbEngine
from nuggets_trainer.engine.model import check_attention, check_causal_lm, context_length, resolve_autocast_dtype
from nuggets_trainer.engine.precision import weights_as_loaded
from nuggets_trainer.golden.gains import AnchorScale
from nuggets_trainer.golden.scores import golden_scores
from nuggets_trainer.pipeline.rows import read_anchors, read_pool, scorer_tokenizer
from nuggets_trainer.prompts.shared_prefix import AnchorSet
from nuggets_trainer.prompts.templates import make_template

COLUMNS = ("golden_score", "standard_error", "mean_gain", "mean_gain_error")

OF_A_POOL = (
    "pool_size",
    "num_anchors",
    "decontaminate",
    "require_recall",
)  # options that would be ignored, or cut a batch short


class GoldenScorer:
    """Golden scores of batches: called with a batch of rows, it returns the batch with further columns.

    It has no store and talks to no other process, so any engine can distribute the batches, and run a batch again if
    its worker died: `datasets.map(scorer, batched=True)`, Ray Data's `map_batches`, pandas, and Spark's `mapInPandas`
    with `each`. The scores of a row are those of `score_pool`, up to rounding of its log-probs.

    Further columns:

    - `golden_score`, `standard_error`: share of the anchors that the row makes more likely, and its standard error;
    - `mean_gain`, `mean_gain_error`: mean gain over the anchors in nats per token, and its standard error;
    - `gain`, `gain_error`: standardised gain, if `scale_from` is given;
    - `loss`: mean negative log-prob per token of the row's own completion, if `row_loss` is set;
    - `dropped`: reason why the row has no score; None if it has one.

    Args:
        model: name of the model, which each process loads when it gets its first batch; or the model itself.
        anchors: the anchors: rows, a `Dataset` or `Pool`, or a name that `load_rows` takes; None takes those of the
            config.
        config: options of scoring: `template`, `exclude_self`, `score_dtype`, `tokens_per_batch`, `columns`, ... Those
            of selection have no effect here.
        tokenizer: tokenizer of the model; needed if the model itself is given.
        row_options: options of training that decide which tokens a row has.
        scale_from: `score_dir` of a pilot with the same model and anchors, whose anchors' gains give the scale of
            `gain`; None leaves the column out, because one batch cannot know how gains vary over the pool.
        row_loss: whether to compute `loss`, which takes one more short pass for each row.
        load_options: arguments of `from_pretrained`, such as `dtype`, for a model that is named.

    Raises:
        ValueError: if anchors are missing or would have to be chosen from the pool, if they are several sets, or if
            the config cuts a pool or names its percentiles.

    Example:
        >>> from nuggets_trainer import GoldenScorer, load_rows
        >>> scorer = GoldenScorer("nuggets-demo/model", "nuggets-demo/anchors")
        >>> scored = load_rows("nuggets-demo/pool").map(scorer, batched=True)  # doctest: +SKIP
    """

    def __init__(
        self,
        model: Any,
        anchors: Any = None,
        config: NuggetsConfig | None = None,
        *,
        tokenizer: Any = None,
        row_options: RowOptions | None = None,
        scale_from: str | None = None,
        row_loss: bool = False,
        load_options: dict[str, Any] | None = None,
    ) -> None:
        self._config = config or NuggetsConfig()
        self._model, self._tokenizer, self._anchors = model, tokenizer, anchors
        self._row_options, self._scale_from, self._row_loss = row_options, scale_from, row_loss
        self._load_options = load_options or {}
        self._loaded: tuple[Any, Any] | None = None  # model and tokenizer, where the model was named
        self._prepared: PreparedScorer | None = None
        self._scale: AnchorScale | None = None
        self._row_format = ""
        self._check()

    def _check(self) -> None:
        if not isinstance(self._model, str) and self._tokenizer is None:
            raise ValueError(
                "`tokenizer` must be given if `model` is a loaded model. Pass the tokenizer, or give the name of the "
                "model."
            )
        if self._anchors is None and self._config.anchors is None:
            raise ValueError(
                "`anchors` must be given: anchors cannot be chosen from a batch. To choose them by "
                "k-means, score a sample of the pool first, and pass the rows that its anchors.parquet names."
            )
        requirement = self._config.requirement
        if requirement is not None and requirement.percentiles:
            raise ValueError(
                f"`require={self._config.require!r}` must be left out of `config`: its percentiles are those of a "
                "whole pool, and a batch is only a part of it. Filter the scored rows in the engine."
            )
        given = [f"`{name}`" for name in OF_A_POOL if getattr(self._config, name) is not None]
        if given:
            raise ValueError(
                f"{' and '.join(given)} must be left out of `config`: they say which rows and anchors of a whole pool "
                "are scored, and a batch is only a part of it. Pass the anchors and rows that are meant."
            )

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what was loaded by name: a worker loads it again, and `datasets` hashes the small rest quickly."""
        state = dict(vars(self))
        if isinstance(self._model, str):
            state |= {"_loaded": None, "_prepared": None, "_scale": None, "_row_format": ""}
        return state

    def __call__(self, batch: Any) -> Any:
        """Score the rows of a batch.

        Args:
            batch: mapping of columns, list of rows, `pyarrow.Table`, `pyarrow.RecordBatch`, `pandas.DataFrame` or
                `Dataset`.

        Returns:
            The batch with further columns, of the same kind.

        Raises:
            TypeError: if the batch has another type.
            ValueError: if its columns match no known format or another format than earlier batches, or if one of them
                has the name of a further column.
        """
        if not num_rows(batch):
            return with_columns(batch, {name: np.zeros(0) for name in self._numbers()} | {"dropped": texts([])})
        dataset = read_batch(batch)
        taken = sorted({*self._numbers(), "dropped"} & set(dataset.column_names))
        if taken:
            raise ValueError(
                f"The batch must not have columns that scoring adds, got {', '.join(taken)}. Rename or drop them."
            )
        pool = read_pool(dataset, self._config, self._row_options, name="batch")
        with self._ready() as model:
            return with_columns(batch, self._score(pool, self._prepare(pool, model)))

    def each(self, frames: Iterable[Any]) -> Iterator[Any]:
        """Score one batch after the other, in the form that Spark's `mapInPandas` and `mapInArrow` take.

        Args:
            frames: batches of any kind that a call takes.
        """
        for frame in frames:
            yield self(frame)

    def _numbers(self) -> list[str]:
        names = list(COLUMNS)
        if self._scale_from is not None:
            names += ["gain", "gain_error"]
        if self._row_loss:
            names.append("loss")
        return names

    @contextlib.contextmanager
    def _ready(self) -> Iterator[Any]:
        """Yield the model without its adapters, loaded if it was given by name."""
        model = self._model
        if isinstance(model, str):
            if self._loaded is None:
                self._loaded = load_scorer_of(self._config, model, _device(), self._load_options)
            model = self._loaded[0]
        with weights_as_loaded(model), base_model(model) as base:
            yield base

    def _prepare(self, pool: Pool, model: Any) -> PreparedScorer:
        """Read the anchors in the format of the first batch, and score them alone."""
        if self._prepared is not None:
            if pool.format != self._row_format:
                raise ValueError(
                    f"All batches must have the same format, but this batch is read as {pool.format!r} and an earlier "
                    f"one as {self._row_format!r}. Give all batches the same columns."
                )
            return self._prepared
        check_causal_lm(model.config, model)
        tokenizer = self._tokenizer if self._loaded is None else self._loaded[1]
        tokenizer = scorer_tokenizer(tokenizer, self._config, self._row_options)
        anchors = self._read_anchors(pool)
        template = make_template(self._config.template, tokenizer, pool, anchors)
        rows = [row_or_reason(anchors, j) for j in range(len(anchors))]
        anchor_set = AnchorSet(template, rows, [None] * len(rows), context_length(model.config))
        autocast_dtype = resolve_autocast_dtype(self._config.score_dtype, inner_model(model).dtype)
        check_attention(model, autocast_dtype)
        engine = LogProbEngine(model, self._config.tokens_per_batch, autocast_dtype)
        excludes_self = self._config.exclude_self
        if excludes_self is None:
            excludes_self = template.name != "nuggets"
        if self._scale_from is not None:
            self._scale = read_scale(self._scale_from, anchor_set)
        self._prepared = PreparedScorer(engine, template, anchor_set, context_length(model.config), excludes_self)
        self._row_format = pool.format
        return self._prepared

    def _read_anchors(self, pool: Pool) -> Pool:
        anchors = self._anchors
        if isinstance(anchors, str):
            anchors = load_rows(anchors, option="anchors")
        elif anchors is not None and not isinstance(anchors, (Dataset, Pool)):
            anchors = read_batch(anchors)
        sets = read_anchors(anchors, self._config, pool)
        if sets is None or len(sets) != 1:
            names = "none" if sets is None else ", ".join(sets)
            raise ValueError(f"`anchors` must be one set, got {names}. Make one scorer for each set.")
        return next(iter(sets.values()))

    def _score(self, pool: Pool, prepared: PreparedScorer) -> Columns:
        """Return the further columns of a batch."""
        rows = [row_or_reason(pool, i) for i in range(len(pool))]
        one_shot, dropped = prepared.score(rows)
        scores = golden_scores(prepared.zero_shot, one_shot, self._scale)
        columns: Columns = {name: getattr(scores, name) for name in self._numbers() if name != "loss"}
        if self._row_loss:
            columns["loss"] = prepared.losses(rows)
        return {**columns, "dropped": texts(dropped)}


def _device() -> torch.device:
    """Return the accelerator that this process computes on, or the CPU."""
    if not torch.accelerator.is_available():
        return torch.device("cpu")
    kind = torch.accelerator.current_accelerator()
    assert kind is not None
    return torch.device(kind.type, torch.accelerator.current_device_index())
