"""Which anchors a pool is scored on: those that the user gave, or some chosen from the pool, once."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from nuggets_trainer.config.anchor_options import DEFAULT_NUM_ANCHORS
from nuggets_trainer.data.pool import Pool
from nuggets_trainer.data.row import Row, UnusableRowError
from nuggets_trainer.golden.anchors import kmeans_anchors, random_anchors
from nuggets_trainer.golden.scores import AnchorScores
from nuggets_trainer.prompts.shared_prefix import AnchorSet
from nuggets_trainer.scoring.embeddings import embed_rows, rendered_alone
from nuggets_trainer.scoring.session import ScoringSession

AnchorPools = Mapping[str, Pool]  # anchors by the name of their set; one set alone has an empty name


def given_anchors(session: ScoringSession, anchor_sets: AnchorPools) -> AnchorSet:
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
    return AnchorSet(session.template, rows, [None] * len(rows), session.max_length, set_names)


def chosen_anchors(
    session: ScoringSession, dropped: dict[int, str], whole: Pool | None = None
) -> tuple[AnchorSet, bool]:
    """Choose anchors from the pool, once: a resumed run reads the choice from the store.

    Only rows of at most half the context are eligible: a candidate is dropped that does not fit together with every
    anchor, so that one very long anchor would cost the pool.

    Args:
        session: of the pool.
        dropped: rows that are unusable.
        whole: for a plan, the pool that the job's is drawn from, or the same. Where its anchors are chosen, they are
            taken; where that would mean to read all of it, rows at random stand in, other ones each time.

    Returns:
        The anchors, and whether they stand in for others.
    """
    config, pool = session.config, session.pool if whole is None else whole
    num_anchors = config.num_anchors or DEFAULT_NUM_ANCHORS
    usable = [i for i in range(len(session.pool)) if i not in dropped]
    random_anchors(len(usable), num_anchors, config.anchor_seed)  # refuses too few rows before any forward pass
    choice = {
        "anchor_selection": config.anchor_selection,
        "num_anchors": num_anchors,
        "anchor_seed": config.anchor_seed,
    }

    def read() -> list[int] | None:
        if pool is not session.pool and not session.store.has_notes():
            return None  # without hashing all rows of a large pool
        indices: list[int] | None = session.store.read_note({**choice, "pool_sha256": pool.content_hash})
        return indices

    indices = session.ranks.on_main(read)
    if indices is None and whole is not None and (pool is not session.pool or config.anchor_selection == "kmeans"):
        seed = session.ranks.on_main(lambda: int(np.random.default_rng().integers(2**31)))
        indices = _random_choice(session, usable, num_anchors, seed)
        return AnchorSet(session.template, [session.pool[i] for i in indices], indices, session.max_length), True
    if indices is None:
        if config.anchor_selection == "random":
            indices = _random_choice(session, usable, num_anchors, config.anchor_seed)
        else:
            indices = _kmeans_choice(session, usable, num_anchors)
        session.ranks.on_main(lambda: session.store.write_note({**choice, "pool_sha256": pool.content_hash}, indices))
    return AnchorSet(session.template, [pool[i] for i in indices], list(indices), session.max_length), False


def _random_choice(session: ScoringSession, usable: list[int], num_anchors: int, seed: int) -> list[int]:
    rows = sorted(session.ranks.gather(list(_eligible(session, session.ranks.share(usable)))))
    return [rows[p] for p in random_anchors(len(rows), num_anchors, seed)]


def _kmeans_choice(session: ScoringSession, usable: list[int], num_anchors: int) -> list[int]:
    """Pool indices of the rows nearest to the centroids of the rows' embeddings."""
    embedded = embed_rows(session, usable, _eligible)

    def choose() -> list[int]:
        matrix = np.array([vector for _, vector in embedded])
        return [embedded[p][0] for p in kmeans_anchors(matrix, num_anchors, session.config.anchor_seed)]

    return session.ranks.on_main(choose)


def _eligible(session: ScoringSession, indices: list[int]) -> dict[int, list[int]]:
    """Zero-shot token ids of the rows that may become anchors."""
    most = None if session.max_length is None else session.max_length // 2
    return {i: ids for i, ids in rendered_alone(session, indices).items() if most is None or len(ids) <= most}


def anchor_scores(anchor_set: AnchorSet, zero_shot: npt.NDArray[np.float32]) -> AnchorScores:
    """Put the zero-shot log-probs of the usable anchors in their places among all anchors.

    Args:
        anchor_set: the anchors.
        zero_shot: log-probs of the usable anchors, `(len(anchor_set.usable),)`.
    """
    dropped = list(anchor_set.dropped)
    values = np.full(len(dropped), np.nan, dtype=np.float32)
    num_tokens = np.zeros(len(dropped), dtype=np.int64)
    for j, value, segment in zip(anchor_set.usable, zero_shot, anchor_set.segments, strict=True):
        if np.isfinite(value):
            values[j], num_tokens[j] = value, segment.num_completion_tokens
        else:
            dropped[j] = "non_finite_log_prob"
    return AnchorScores(anchor_set.pool_index, values, num_tokens, dropped, anchor_set.num_cut, anchor_set.set_names)
