"""What the stages of one scoring job share, and which anchors it has: given, or chosen from the pool once.

Knows no formula and no file format.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from nuggets_trainer.config.nuggets_config import DEFAULT_NUM_ANCHORS, NuggetsConfig
from nuggets_trainer.data.pool import Pool
from nuggets_trainer.data.row import Row, UnusableRowError
from nuggets_trainer.engine.in_step import ForwardPassesInStep, is_sharded, outer_weights
from nuggets_trainer.engine.log_probs import LogProbEngine
from nuggets_trainer.engine.model import base_model, check_causal_lm, context_length
from nuggets_trainer.golden.anchors import kmeans_anchors, random_anchors
from nuggets_trainer.prompts.shared_prefix import AnchorSet
from nuggets_trainer.prompts.templates import Template
from nuggets_trainer.ranks import Ranks
from nuggets_trainer.scoring.progress import show_phase
from nuggets_trainer.store.files import Place
from nuggets_trainer.store.fingerprint import fingerprint_fields
from nuggets_trainer.store.score_store import ScoreStore

if TYPE_CHECKING:
    import torch

EMBED_BLOCK = 256

AnchorPools = Mapping[str, Pool]  # anchors by the name of their set; one set alone has an empty name


def by_set_name(anchors: Pool | AnchorPools | None) -> AnchorPools | None:
    """Give anchors by the name of their set, however many sets there are; None where they are to be chosen."""
    return {"": anchors} if isinstance(anchors, Pool) else anchors


@dataclass(frozen=True)
class Job:
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
def open_job(
    model: Any,
    tokenizer: Any,
    template: Template,
    pool: Pool,
    config: NuggetsConfig,
    score_dir: Place,
    autocast_dtype: torch.dtype | None = None,
    adapter: bool = False,
) -> Iterator[Job]:
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
        yield Job(
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


def given_anchors(job: Job, anchor_sets: AnchorPools) -> AnchorSet:
    """Take the anchors that the user gave, set after set.

    Those that cannot be scored whole keep their place and their reason.
    """
    rows: list[Row | str] = []
    set_names: list[str] = []
    for name, anchors in anchor_sets.items():
        set_names += [name] * len(anchors)
        for j in range(len(anchors)):
            try:
                rows.append(anchors[j])
            except UnusableRowError as error:
                rows.append(str(error))
    return AnchorSet(job.template, rows, [None] * len(rows), job.max_length, set_names)


def chosen_anchors(job: Job, dropped: dict[int, str], whole: Pool | None = None) -> tuple[AnchorSet, bool]:
    """Choose anchors from the pool, once: a resumed run reads the choice from the store.

    Only rows of at most half the context are eligible: a candidate is dropped that does not fit together with every
    anchor, so that one very long anchor would cost the pool.

    Args:
        job: of the pool.
        dropped: rows that are unusable.
        whole: for a plan, the pool that the job's is drawn from, or the same. Where its anchors are chosen, they are
            taken; where that would mean to read all of it, rows at random stand in, other ones each time.

    Returns:
        The anchors, and whether they stand in for others.
    """
    config, pool = job.config, job.pool if whole is None else whole
    num_anchors = config.num_anchors or DEFAULT_NUM_ANCHORS
    usable = [i for i in range(len(job.pool)) if i not in dropped]
    random_anchors(len(usable), num_anchors, config.anchor_seed)  # refuses too few rows before any forward pass
    choice = {
        "anchor_selection": config.anchor_selection,
        "num_anchors": num_anchors,
        "anchor_seed": config.anchor_seed,
    }

    def read() -> list[int] | None:
        if pool is not job.pool and not job.store.has_notes():
            return None  # without hashing all rows of a large pool
        indices: list[int] | None = job.store.read_note({**choice, "pool_sha256": pool.content_hash})
        return indices

    indices = job.ranks.on_main(read)
    if indices is None and whole is not None and (pool is not job.pool or config.anchor_selection == "kmeans"):
        seed = job.ranks.on_main(lambda: int(np.random.default_rng().integers(2**31)))
        indices = _random_choice(job, usable, num_anchors, seed)
        return AnchorSet(job.template, [job.pool[i] for i in indices], indices, job.max_length), True
    if indices is None:
        if config.anchor_selection == "random":
            indices = _random_choice(job, usable, num_anchors, config.anchor_seed)
        else:
            indices = _kmeans_choice(job, usable, num_anchors)
        job.ranks.on_main(lambda: job.store.write_note({**choice, "pool_sha256": pool.content_hash}, indices))
    return AnchorSet(job.template, [pool[i] for i in indices], list(indices), job.max_length), False


def _random_choice(job: Job, usable: list[int], num_anchors: int, seed: int) -> list[int]:
    rows = sorted(job.ranks.gather(list(_eligible(job, job.ranks.share(usable)))))
    return [rows[p] for p in random_anchors(len(rows), num_anchors, seed)]


def _kmeans_choice(job: Job, usable: list[int], num_anchors: int) -> list[int]:
    """Pool indices of the rows nearest to the centroids of the rows' embeddings."""
    embedded = _embed(job, usable, _eligible)

    def choose() -> list[int]:
        matrix = np.array([vector for _, vector in embedded])
        return [embedded[p][0] for p in kmeans_anchors(matrix, num_anchors, job.config.anchor_seed)]

    return job.ranks.on_main(choose)


def candidate_embeddings(job: Job, candidates: list[int]) -> npt.NDArray[np.float32]:
    """Embeddings of the candidates, rendered alone, `(pool rows, d)`; 0 for other rows, which is like no other."""
    embedded = _embed(job, candidates, _rendered)
    dimension = len(embedded[0][1]) if embedded else 1
    matrix = np.zeros((len(job.pool), dimension), dtype=np.float32)
    of_key = {job.keys[i]: vector for i, vector in embedded}  # equal rows were embedded once
    for i in candidates:
        if job.keys[i] in of_key:
            matrix[i] = of_key[job.keys[i]]
    return matrix


def _rendered(job: Job, indices: list[int]) -> dict[int, list[int]]:
    """Zero-shot token ids of the rows that can be rendered alone; a candidate need not be an anchor."""
    sequences = {}
    for i in indices:
        with contextlib.suppress(UnusableRowError):
            sequences[i] = job.template.zero_shot(job.pool[i]).ids
    return sequences


def _embed(
    job: Job, indices: list[int], sequences_of: Callable[[Job, list[int]], dict[int, list[int]]]
) -> list[tuple[int, npt.NDArray[np.float32]]]:
    """Pool index and embedding of different rows, in pool order; every rank embeds a share.

    Ranks share blocks of rows, not rows, so that the batches (and with them the last bits of the embeddings) do not
    depend on the number of ranks.
    """
    # Equal rows would make clusters of their own.
    different = sorted({job.keys[i]: i for i in reversed(indices)}.values())
    blocks = [different[start : start + EMBED_BLOCK] for start in range(0, len(different), EMBED_BLOCK)]
    own = job.ranks.share(blocks)

    def embed() -> list[tuple[int, npt.NDArray[np.float32]]]:
        vectors: list[tuple[int, npt.NDArray[np.float32]]] = []
        num_rows = sum(len(block) for block in own)
        with job.passes.in_step(), show_phase("Embedding", "rows", num_rows, job.ranks.is_main) as phase:
            for block in own:
                sequences = sequences_of(job, block)
                if sequences:
                    vectors += zip(sequences, job.engine.embed(list(sequences.values())), strict=True)
                phase.advance(len(block))
        return vectors

    return sorted(job.ranks.gather_from(embed), key=lambda item: item[0])


def _eligible(job: Job, indices: list[int]) -> dict[int, list[int]]:
    """Zero-shot token ids of the rows that may become anchors."""
    most = None if job.max_length is None else job.max_length // 2
    return {i: ids for i, ids in _rendered(job, indices).items() if most is None or len(ids) <= most}
