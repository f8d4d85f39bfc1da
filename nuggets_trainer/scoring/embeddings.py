"""Embeddings of rows under the model that scores: for k-means anchors and for near-duplicates."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from nuggets_trainer.data.row import UnusableRowError
from nuggets_trainer.scoring.progress import show_phase
from nuggets_trainer.scoring.session import ScoringSession

EMBED_BLOCK = 256  # rows that one rank embeds at a time


def candidate_embeddings(session: ScoringSession, candidates: list[int]) -> npt.NDArray[np.float32]:
    """Embed the candidates, rendered alone; all ranks must call it.

    Args:
        session: open session of the pool.
        candidates: pool indices of the candidates.

    Returns:
        Embeddings of the pool's rows, `(n, d)`; 0 for a row that cannot be rendered alone, which is like no other.
    """
    embedded = embed_rows(session, candidates, render_alone)
    dimension = len(embedded[0][1]) if embedded else 1
    matrix = np.zeros((len(session.pool), dimension), dtype=np.float32)
    vector_of = {session.keys[i]: vector for i, vector in embedded}  # equal rows were embedded once
    for i in candidates:
        if session.keys[i] in vector_of:
            matrix[i] = vector_of[session.keys[i]]
    return matrix


def render_alone(session: ScoringSession, indices: list[int]) -> dict[int, list[int]]:
    """Return the zero-shot token ids of those rows that can be rendered alone, by pool index."""
    sequences = {}
    for i in indices:
        with contextlib.suppress(UnusableRowError):
            sequences[i] = session.template.zero_shot(session.pool[i]).ids
    return sequences


def embed_rows(
    session: ScoringSession,
    indices: list[int],
    render: Callable[[ScoringSession, list[int]], dict[int, list[int]]],
) -> list[tuple[int, npt.NDArray[np.float32]]]:
    """Embed rows, equal ones once; every rank embeds a share.

    Ranks share blocks of rows, not rows, so that the batches (and with them the last bits of the embeddings) do not
    depend on the number of ranks.

    Args:
        session: open session of the pool.
        indices: pool indices of the rows.
        render: gives the token ids of those rows that are to be embedded, by pool index.

    Returns:
        Pool index and embedding of each different row, in pool order.
    """
    first: dict[str, int] = {}
    for i in indices:
        first.setdefault(session.keys[i], i)  # equal rows would make clusters of their own
    different = sorted(first.values())
    starts = range(0, len(different), EMBED_BLOCK)
    own = [different[start : start + EMBED_BLOCK] for start in session.ranks.share(starts)]

    def embed() -> list[tuple[int, npt.NDArray[np.float32]]]:
        vectors: list[tuple[int, npt.NDArray[np.float32]]] = []
        num_rows = sum(map(len, own))
        with session.passes.in_step(), show_phase("Embedding", "rows", num_rows, session.ranks.is_main) as phase:
            for block in own:
                sequences = render(session, block)
                if sequences:
                    vectors += zip(sequences, session.engine.embed(list(sequences.values())), strict=True)
                phase.advance(len(block))
        return vectors

    return sorted(session.ranks.gather_from(embed), key=lambda item: item[0])
