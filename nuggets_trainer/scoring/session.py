"""What all stages of scoring one pool share: the model ready to score, the store, the template, the processes."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from nuggets_trainer.config.nuggets_config import NuggetsConfig
from nuggets_trainer.data.pool import Pool
from nuggets_trainer.data.row import UnusableRowError
from nuggets_trainer.engine.adapters import base_model, holds_adapters
from nuggets_trainer.engine.in_step import ForwardPassesInStep, is_sharded, outer_weights
from nuggets_trainer.engine.log_probs import LogProbEngine
from nuggets_trainer.engine.model import check_attention, check_causal_lm, context_length
from nuggets_trainer.engine.precision import weights_as_loaded
from nuggets_trainer.prompts.templates import Template
from nuggets_trainer.ranks import Ranks
from nuggets_trainer.store.files import Place
from nuggets_trainer.store.fingerprint import fingerprint_fields, written_with
from nuggets_trainer.store.score_store import ScoreStore
from nuggets_trainer.store.scratch import Scratch

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)

T = TypeVar("T")
AnchorPools = Mapping[str, Pool]  # anchors by the name of their set; a single set has an empty name


@dataclass(frozen=True, eq=False)
class ScoringRequest:
    """What is to be scored and how, checked against each other; `pipeline.request` makes it.

    Attributes:
        pool: the candidates.
        anchors: anchors by the name of their set; None chooses them from the pool.
        tokenizer: tokenizer of the model that scores, with the chat template and the EOS token of training.
        template: template that renders the rows.
        config: options in force: with several anchor sets `schedule` is `exact`.
        score_dir: directory or URL where scores and results go.
        autocast_dtype: dtype to autocast scoring to; None computes in the dtype of the weights.
        adapter: whether the model scores with its adapters as they are.
        overlap: what the pool has twice and shares with tests, for run.json.
    """

    pool: Pool
    anchors: AnchorPools | None
    tokenizer: Any
    template: Template
    config: NuggetsConfig
    score_dir: Place
    autocast_dtype: torch.dtype | None = None
    adapter: bool = False
    overlap: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class ScoringSession:
    """A request that is being carried out.

    Attributes:
        request: what is to be scored and how.
        ranks: processes of the job.
        engine: computes log-probs with the model.
        passes: keeps the forward passes of all processes in step where the model is sharded.
        store: scored pairs of this model and template.
        scratch: makes arrays that may not fit in memory.
        max_length: context of the model in tokens; None if it has no limit.
        keys: content hash of each row of the pool; "" for a row that cannot be read.
    """

    request: ScoringRequest
    ranks: Ranks
    engine: LogProbEngine
    passes: ForwardPassesInStep
    store: ScoreStore
    scratch: Scratch
    max_length: int | None
    keys: list[str]

    @property
    def pool(self) -> Pool:
        """The candidates."""
        return self.request.pool

    @property
    def template(self) -> Template:
        """Template that renders the rows."""
        return self.request.template

    @property
    def config(self) -> NuggetsConfig:
        """Options in force."""
        return self.request.config

    def only_on_main(self, make: Callable[[], T]) -> T | None:
        """Make something on the main process and keep it there: it may be too large to send.

        All processes must call it; an error of the main process is raised on all.
        """
        made: list[T] = []

        def keep() -> None:
            made.append(make())

        self.ranks.on_main(keep)
        return made[0] if made else None


@contextlib.contextmanager
def open_session(model: Any, request: ScoringRequest) -> Iterator[ScoringSession]:
    """Open the store of a model and a template, and make the model ready to score; on all ranks.

    Args:
        model: model that scores; it scores without its adapters, unless the request says otherwise.
        request: what is to be scored and how.

    Raises:
        ValueError: if the model cannot score, or a row has a token id that it lacks.
    """
    ranks = Ranks()
    keys, _ = request.pool.read_keys()
    sharded = is_sharded(model)

    def describe() -> dict[str, str]:
        return fingerprint_fields(
            model, request.tokenizer, request.template.describe(), request.autocast_dtype, request.adapter
        )

    with weights_as_loaded(model):
        # Weights that are spread over the ranks are gathered by all of them.
        fields = describe() if sharded else ranks.on_main(describe)
        if ranks.is_main and not request.adapter:
            _warn_of_adapters(model)
        with base_model(model, request.adapter) as base, outer_weights(model, base):
            check_causal_lm(base.config, base)
            check_attention(base, request.autocast_dtype)
            _check_token_ids(request, base, ranks)
            yield ScoringSession(
                request=request,
                ranks=ranks,
                engine=LogProbEngine(base, request.config.tokens_per_batch, request.autocast_dtype, sharded=sharded),
                passes=ForwardPassesInStep(model, base, ranks),
                store=ScoreStore(request.score_dir, fields, written_with(model)),
                scratch=Scratch(request.score_dir),
                max_length=context_length(base.config),
                keys=keys,
            )


def _warn_of_adapters(model: Any) -> None:
    if holds_adapters(model):
        logger.warning(
            "The model has loaded the adapter %s. It is switched off while the base model scores. To score with it, "
            "merge it: `PeftModel.from_pretrained(base, adapter).merge_and_unload()`.",
            ", ".join(model.peft_config),
        )


def _check_token_ids(request: ScoringRequest, base: Any, ranks: Ranks) -> None:
    """Refuse rows with token ids that the model's embedding lacks; on all ranks.

    A tokenizer may have more tokens than the embedding (added ones that no row has, a padding token), so the rows
    decide. They are rendered for this only if the tokenizer has such tokens, or if rows hold ids instead of texts.

    Raises:
        ValueError: if a row or an anchor has such a token; before the first forward pass.
    """
    size = getattr(base.get_input_embeddings(), "num_embeddings", None)
    pools = [request.pool]
    if request.anchors is not None:
        pools += request.anchors.values()
    has_more = size is not None and max(request.tokenizer.get_vocab().values(), default=0) >= size
    for pool in pools:
        if size is None or not (has_more or pool.format == "tokenized"):
            continue
        found = ranks.gather(_ids_beyond(pool, request.template, size, ranks))
        if found:
            number, token_id = min(found)
            token = request.tokenizer.convert_ids_to_tokens(token_id)
            raise ValueError(
                f"The model's embedding must have a row for every token, got {size:,} rows, but row {number} of "
                f"`{pool.name}` has the token {token!r} with the id {token_id:,}. Use the tokenizer of the model. Or "
                "add rows before anything is scored: `model.resize_token_embeddings(len(tokenizer))`."
            )


def _ids_beyond(pool: Pool, template: Template, size: int, ranks: Ranks) -> list[tuple[int, int]]:
    """Find the first row of this rank's share with ids from `size` on: its number and its largest id."""
    for i in ranks.share(range(len(pool))):
        try:
            ids = template.zero_shot(pool[i]).ids
        except UnusableRowError:
            continue  # it is dropped, whatever its tokens
        if max(ids, default=0) >= size:
            return [(i, max(ids))]
    return []
