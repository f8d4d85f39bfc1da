"""What the model says of each candidate by itself: loss, loss without its prompt, similarity to the anchors.

It takes two short forward passes per row: the row behind its own prompt gives its loss and its embedding, and its
completion alone gives the loss without prompt. The store keeps the values like log-probs of the candidate, under names
that no anchor has, so that a killed run goes on where it was.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nuggets_trainer.data.row import UnusableRowError
from nuggets_trainer.golden.arrays import row_blocks
from nuggets_trainer.prompts.row_alone import RowAlone
from nuggets_trainer.prompts.segment import Segment
from nuggets_trainer.prompts.shared_prefix import AnchorSet
from nuggets_trainer.scoring.pair_scorer import CALL_BATCHES
from nuggets_trainer.scoring.progress import Phase
from nuggets_trainer.scoring.session import ScoringSession
from nuggets_trainer.signals.stored_values import (
    Wanted,
    compute_missing,
    find_missing,
    read_columns,
    read_values,
    rendered_batches,
)
from nuggets_trainer.signals.turns import choose_in_turn
from nuggets_trainer.store.score_store import PartWriter

Floats = npt.NDArray[np.float64]
Vectors = npt.NDArray[np.float32]
Signals = dict[str, Floats]  # each signal by name, `(n,)` over the pool's rows

# Names in the store; keys of anchors are hexadecimal. The name of a similarity has the hash of its anchors besides,
# and that of a cosine the key of its anchor.
LOSS, WITHOUT_PROMPT, NUM_TOKENS, SIMILARITY = "=loss", "=loss_without_prompt", "=num_tokens", "=similarity"
COSINE = "=cosine"


@dataclass(frozen=True)
class _Rendered:
    """A wanted row as the engine takes it."""

    wanted: Wanted
    row: RowAlone
    text_key: str


def row_signals(session: ScoringSession, anchor_set: AnchorSet, candidates: list[int]) -> Signals | None:
    """Compute the signals of all candidates, as far as they are not stored; all ranks must call it.

    - `loss`: mean negative log-prob per token of the completion behind the row's own prompt, nats;
    - `loss_without_prompt`: the same of the completion alone, behind BOS and the header of an answer;
    - `ifd`: `loss / loss_without_prompt`, the Instruction-Following Difficulty of Cherry LLM (arXiv 2308.12032, eq.
      5). Superfiltering (2402.00530) divides perplexities: that is `exp(loss - loss_without_prompt)`;
    - `similarity`: mean cosine between the embeddings of the row and of the anchors, those of its own text left out.
      An embedding is that of RDS+ (2503.01807), see `engine.portable.score_and_embed`;
    - `similarity_turn`, if it is wanted: the turn in which an anchor takes the row, see `choose_in_turn`. Turns are
      taken among all candidates, also those that a condition leaves out later, and in the order of the anchors;
    - `num_tokens`: number of scored tokens of the completion.

    Args:
        session: open session of the pool.
        anchor_set: the anchors; without any, rows have no `similarity` and no `similarity_turn`.
        candidates: pool indices of the candidates.

    Returns:
        Each signal by name, `(n,)` over the pool's rows, on the main process; NaN where it is not defined: a row
        without prompt has no `loss_without_prompt`, and one that cannot be rendered alone has no signal.
    """
    names = signal_names(session, anchor_set)
    wanted = session.ranks.on_main(lambda: find_missing(session, candidates, names))
    if wanted:
        compute_missing(
            session,
            wanted,
            "Row signals",
            lambda own, writer, phase: _compute(session, anchor_set, own, writer, phase),
        )
    return session.only_on_main(lambda: _read(session, anchor_set, candidates))


def signal_names(session: ScoringSession, anchor_set: AnchorSet) -> list[str]:
    """Return the names of the wanted signals in the store; those of similarities depend on the anchors."""
    names = _names_of_columns(anchor_set)
    if session.config.wants_similarity_turn:
        names += dict.fromkeys(_cosine_names(anchor_set))  # an anchor may be in several sets
    return names


def _names_of_columns(anchor_set: AnchorSet) -> list[str]:
    """Return the names of the values that are columns as they are; the last is a similarity, if there are anchors."""
    names = [LOSS, WITHOUT_PROMPT, NUM_TOKENS]
    if anchor_set.rows:
        names.append(_similarity_name(anchor_set))
    return names


def _similarity_name(anchor_set: AnchorSet) -> str:
    digest = hashlib.sha256(" ".join(sorted(anchor_set.keys)).encode()).hexdigest()
    return f"{SIMILARITY} {digest[:32]}"


def _cosine_names(anchor_set: AnchorSet) -> list[str]:
    """Return the name of the cosine with each anchor, `(m,)`."""
    return [f"{COSINE} {key}" for key in anchor_set.keys]


def _compute(
    session: ScoringSession, anchor_set: AnchorSet, own: list[Wanted], writer: PartWriter, phase: Phase
) -> None:
    """Compute what is wanted of this rank's rows into the store."""
    anchors = _Anchors(session, anchor_set) if own else None
    similarity_name, cosine_names = _similarity_name(anchor_set), _cosine_names(anchor_set)
    for batch in _batches(session, own, writer):
        assert anchors is not None
        log_probs, embeddings = session.engine.score_rows([rendered.row.segment for rendered in batch])
        without_prompt = _losses_without_prompt(session, batch)
        for rendered, log_prob, embedding, alone in zip(batch, log_probs, embeddings, without_prompt, strict=True):
            cosines = anchors.cosines(embedding, rendered.text_key)
            values = {
                LOSS: -log_prob,
                WITHOUT_PROMPT: alone,
                NUM_TOKENS: rendered.row.segment.num_completion_tokens,
                similarity_name: _mean(cosines),
                **dict(zip(cosine_names, cosines, strict=True)),
            }
            names = rendered.wanted.names
            found = np.array([values[name] for name in names], dtype=np.float32)
            writer.add(session.keys[rendered.wanted.index], names, found)
        writer.end_candidates(len(batch))
        phase.advance(len(batch))


def _batches(session: ScoringSession, own: list[Wanted], writer: PartWriter) -> Iterator[list[_Rendered]]:
    """Yield as many rows as fill some forward passes."""

    def render(wanted: Wanted) -> tuple[_Rendered, int]:
        row = render_signal_row(session, wanted.index)
        text_key = session.pool.texts[session.keys[wanted.index]]
        return _Rendered(wanted, row, text_key), len(row.segment.ids)

    def least_tokens() -> float:
        return CALL_BATCHES * session.engine.find_tokens_per_batch()

    return rendered_batches(session, own, writer, render, least_tokens)


def render_signal_row(session: ScoringSession, index: int) -> RowAlone:
    """Render a row alone.

    Raises:
        UnusableRowError: if it cannot be rendered, or is longer than the context.
    """
    row = session.template.row_alone(session.pool[index])
    if session.max_length is not None and len(row.segment.ids) > session.max_length:
        raise UnusableRowError("too_long")
    return row


def _losses_without_prompt(session: ScoringSession, batch: list[_Rendered]) -> Vectors:
    """Return the loss of each completion alone, `(len(batch),)`; NaN where it is not defined, or not wanted."""
    losses = np.full(len(batch), np.nan, dtype=np.float32)
    places, segments = [], []
    for place, rendered in enumerate(batch):
        segment = rendered.row.without_prompt()
        if segment is not None and WITHOUT_PROMPT in rendered.wanted.names:
            places.append(place)
            segments.append(segment)
    if segments:
        losses[places] = -session.engine.score_rows(segments)[0]
    return losses


class _Anchors:
    """Embeddings of the anchors, each rendered alone; every rank embeds all of them: they are few.

    Args:
        session: open session.
        anchor_set: the anchors; one that cannot be rendered whole is left out.
    """

    def __init__(self, session: ScoringSession, anchor_set: AnchorSet) -> None:
        rows: list[Segment] = []
        self._num_anchors = len(anchor_set.rows)
        self._whole: list[int] = []  # places of the anchors that can be rendered whole
        self._places: dict[str, list[int]] = {}  # of all anchors, by text
        for place, anchor in enumerate(anchor_set.rows):
            self._places.setdefault(anchor.text_key, []).append(place)
            try:
                row = session.template.row_alone(anchor)
            except UnusableRowError:
                continue
            if session.max_length is None or len(row.segment.ids) <= session.max_length:
                self._whole.append(place)
                rows.append(row.segment)
        self._directions = np.zeros((0, 1))
        if rows:
            self._directions = _directions(session.engine.score_rows(rows)[1])

    def cosines(self, embedding: Vectors, text_key: str) -> Floats:
        """Return the cosine of an embedding `(d,)` with that of each anchor, `(m,)`.

        It is NaN for an anchor of the same text, and for one that cannot be rendered whole.
        """
        cosines = np.full(self._num_anchors, np.nan)
        if self._whole:
            cosines[self._whole] = self._directions @ _directions(embedding[None])[0]
        cosines[self._places.get(text_key, [])] = np.nan
        return cosines


def _mean(cosines: Floats) -> float:
    """Return the mean of the cosines that are there; NaN if none is."""
    there = cosines[~np.isnan(cosines)]
    return float(there.mean()) if len(there) else float("nan")


def _directions(embeddings: Vectors) -> Floats:
    """Return embeddings `(n, d)` at length 1."""
    vectors = embeddings.astype(np.float64)
    directions: Floats = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return directions


def _read(session: ScoringSession, anchor_set: AnchorSet, candidates: list[int]) -> Signals:
    names = _names_of_columns(anchor_set)
    loss, without_prompt, num_tokens, *similarity = read_columns(session, candidates, names)
    with np.errstate(divide="ignore", invalid="ignore"):  # a completion that is certain without its prompt
        ifd = loss / without_prompt
    signals = {"loss": loss, "loss_without_prompt": without_prompt, "ifd": ifd}
    if similarity:
        signals["similarity"] = similarity[0]
        if session.config.wants_similarity_turn:
            signals["similarity_turn"] = _turns(session, anchor_set, candidates)
    return {**signals, "num_tokens": num_tokens}


def _turns(session: ScoringSession, anchor_set: AnchorSet, candidates: list[int]) -> Floats:
    """Let the anchors choose in turn, by the stored cosines; `(n,)` over the pool's rows."""
    cosines = read_values(session, candidates, _cosine_names(anchor_set))
    by_anchor = session.scratch.full(cosines.shape[::-1], np.nan, np.float32)
    for block in row_blocks(len(cosines)):
        by_anchor[:, block] = cosines[block].T  # each anchor's cosines lie together, or reading them would be slow
    column = np.full(len(session.pool), np.nan)
    column[candidates] = choose_in_turn(by_anchor)
    return column
