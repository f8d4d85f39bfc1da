"""Embeddings of rows under the model that scores, over all processes: for k-means anchors and for near-duplicates."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from nuggets_trainer.data.row import UnusableRowError
from nuggets_trainer.scoring.progress import show_phase
from nuggets_trainer.scoring.session import ScoringSession

EMBED_BLOCK = 256


def candidate_embeddings(session: ScoringSession, candidates: list[int]) -> npt.NDArray[np.float32]:
    """Embeddings of the candidates, rendered alone, `(pool rows, d)`; 0 for other rows, which is like no other."""
    embedded = embed_rows(session, candidates, rendered_alone)
    dimension = len(embedded[0][1]) if embedded else 1
    matrix = np.zeros((len(session.pool), dimension), dtype=np.float32)
    of_key = {session.keys[i]: vector for i, vector in embedded}  # equal rows were embedded once
    for i in candidates:
        if session.keys[i] in of_key:
            matrix[i] = of_key[session.keys[i]]
    return matrix


def rendered_alone(session: ScoringSession, indices: list[int]) -> dict[int, list[int]]:
    """Zero-shot token ids of the rows that can be rendered alone; a candidate need not be an anchor."""
    sequences = {}
    for i in indices:
        with contextlib.suppress(UnusableRowError):
            sequences[i] = session.template.zero_shot(session.pool[i]).ids
    return sequences


def embed_rows(
    session: ScoringSession,
    indices: list[int],
    sequences_of: Callable[[ScoringSession, list[int]], dict[int, list[int]]],
) -> list[tuple[int, npt.NDArray[np.float32]]]:
    """Pool index and embedding of different rows, in pool order; every rank embeds a share.

    Ranks share blocks of rows, not rows, so that the batches (and with them the last bits of the embeddings) do not
    depend on the number of ranks.
    """
    # Equal rows would make clusters of their own.
    different = sorted({session.keys[i]: i for i in reversed(indices)}.values())
    blocks = [different[start : start + EMBED_BLOCK] for start in range(0, len(different), EMBED_BLOCK)]
    own = session.ranks.share(blocks)

    def embed() -> list[tuple[int, npt.NDArray[np.float32]]]:
        vectors: list[tuple[int, npt.NDArray[np.float32]]] = []
        num_rows = sum(len(block) for block in own)
        with session.passes.in_step(), show_phase("Embedding", "rows", num_rows, session.ranks.is_main) as phase:
            for block in own:
                sequences = sequences_of(session, block)
                if sequences:
                    vectors += zip(sequences, session.engine.embed(list(sequences.values())), strict=True)
                phase.advance(len(block))
        return vectors

    return sorted(session.ranks.gather_from(embed), key=lambda item: item[0])
