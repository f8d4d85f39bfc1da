"""What all stages of scoring one pool share: the model ready to score, the store, the template, the processes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nuggets_trainer.config.nuggets_config import NuggetsConfig
from nuggets_trainer.data.pool import Pool
from nuggets_trainer.engine.in_step import ForwardPassesInStep, is_sharded, outer_weights
from nuggets_trainer.engine.log_probs import LogProbEngine
from nuggets_trainer.engine.model import base_model, check_causal_lm, context_length
from nuggets_trainer.prompts.templates import Template
from nuggets_trainer.ranks import Ranks
from nuggets_trainer.store.files import Place
from nuggets_trainer.store.fingerprint import fingerprint_fields
from nuggets_trainer.store.score_store import ScoreStore

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class ScoringSession:
    """What the stages of one call share.

    `keys` are the content hashes of the candidates, `texts` their hashes of what they say, by content hash.
    """

    ranks: Ranks
    pool: Pool
    keys: list[str]
    texts: dict[str, str]
    template: Template
    config: NuggetsConfig
    engine: LogProbEngine
    passes: ForwardPassesInStep
    store: ScoreStore
    max_length: int | None


@contextlib.contextmanager
def open_session(
    model: Any,
    tokenizer: Any,
    template: Template,
    pool: Pool,
    config: NuggetsConfig,
    score_dir: Place,
    autocast_dtype: torch.dtype | None = None,
    adapter: bool = False,
) -> Iterator[ScoringSession]:
    """Open the store of a model and a template, and make the model ready to score; on all ranks.

    Args:
        model: as for `score_pool`, and so are all others but `template`.
        tokenizer: the model's.
        template: renders the rows.
        pool: the candidates.
        config: token budget and schedule.
        score_dir: where scores go.
        autocast_dtype: from `resolve_autocast_dtype`.
        adapter: leave a `PeftModel`'s adapter on.
    """
    ranks = Ranks()
    keys, _ = pool.read_keys()
    sharded = is_sharded(model)

    def describe() -> dict[str, str]:
        return fingerprint_fields(model, tokenizer, template.describe(), autocast_dtype, adapter)

    # Weights that are spread over the ranks are gathered by all of them.
    fields = describe() if sharded else ranks.on_main(describe)
    with base_model(model, adapter) as base, outer_weights(model, base):
        check_causal_lm(base.config, base)
        yield ScoringSession(
            ranks=ranks,
            pool=pool,
            keys=keys,
            texts=pool.texts,
            template=template,
            config=config,
            engine=LogProbEngine(base, config.tokens_per_batch, autocast_dtype, sharded=sharded),
            passes=ForwardPassesInStep(model, base, ranks),
            store=ScoreStore(score_dir, fields),
            max_length=context_length(base.config),
        )
