"""Which anchors a pool is scored on: those that the user gave, or some chosen from the pool, once."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from nuggets_trainer.config.anchor_options import DEFAULT_NUM_ANCHORS
from nuggets_trainer.data.pool import Pool
from nuggets_trainer.data.row import Row, UnusableRowError, hash_of_keys
from nuggets_trainer.golden.anchors import kmeans_anchors, random_anchors
from nuggets_trainer.golden.limits import CONTAMINATED, NEAR_DUPLICATE
from nuggets_trainer.prompts.shared_prefix import AnchorSet
from nuggets_trainer.prompts.shown import hint_on
from nuggets_trainer.scoring.embeddings import embed_rows, render_alone
from nuggets_trainer.scoring.session import AnchorPools, ScoringSession
from nuggets_trainer.store.score_store import ZERO_SHOT
from nuggets_trainer.wording import counted, tally

logger = logging.getLogger(__name__)

SHOWN_REPEATS = 5  # anchors named in a warning


def find_anchors(session: ScoringSession, passed_over: Collection[str] | None = None) -> AnchorSet:
    """Take the anchors of the request, or choose them from its pool; on all ranks.

    Args:
        session: open session.
        passed_over: keys of given anchors that are drawn last, see `drawn_places`.
    """
    anchors = session.request.anchors
    return chosen_anchors(session) if anchors is None else given_anchors(session, anchors, passed_over)


def given_anchors(
    session: ScoringSession, anchor_sets: AnchorPools, passed_over: Collection[str] | None = None
) -> AnchorSet:
    """Take the anchors that the user gave, set after set, or as many of them at random as the config says.

    An anchor that cannot be scored whole keeps its place, with the reason, and so does one that is listed twice in its
    set. Neither is drawn.

    Args:
        session: open session.
        anchor_sets: the anchors by the name of their set.
        passed_over: keys of anchors that are drawn last, see `drawn_places`.

    Raises:
        ValueError: if a set has fewer anchors that can be drawn than the config says.
    """
    rows: list[Row | str] = []
    set_names: list[str] = []
    for name, anchors in anchor_sets.items():
        places = drawn_places(session, anchors, passed_over)
        set_names += [name] * len(places)
        for j in places:
            try:
                rows.append(anchors[j])
            except UnusableRowError as error:
                rows.append(str(error))
    anchor_set = AnchorSet(session.template, rows, [None] * len(rows), session.max_length, set_names)
    if session.ranks.is_main:
        _warn_of_repeats(anchor_set)
    return anchor_set


def drawn_places(session: ScoringSession, anchors: Pool, passed_over: Collection[str] | None = None) -> Sequence[int]:
    """Draw the anchors of a set at random; all of them, in order, where the config gives no number.

    More anchors drawn with the same seed are the same ones and others, so that stored pairs are used again. As in a
    pool, only rows of at most half the context are drawn, and of equal rows one.

    Args:
        session: open session.
        anchors: the set.
        passed_over: keys of anchors that are drawn only if there are too few others, where the number is not the
            user's: fewer are drawn if there are not enough. None where it is.

    Returns:
        Row numbers, in order.

    Raises:
        ValueError: if there are none, or fewer than the user's number.
    """
    number = session.config.num_anchors
    if not isinstance(number, int):
        return range(len(anchors))
    keys, unreadable = anchors.read_keys()
    order = np.random.default_rng(session.config.anchor_seed).permutation(len(anchors)).tolist()
    last = set(passed_over or ())
    seen: set[str] = set()
    drawn: list[int] = []
    for j in sorted(order, key=lambda j: keys[j] in last):
        if len(drawn) == number:
            break
        if j in unreadable or keys[j] in seen or not _is_eligible(session, anchors[j]):
            continue
        seen.add(keys[j])
        drawn.append(j)
    if len(drawn) < number and (passed_over is None or not drawn):
        raise ValueError(
            f"`num_anchors={number:,}` anchors must be drawn from `anchors`, but only {len(drawn):,} of "
            f"{counted(len(anchors), 'row')} can be: each once, with a prompt and a completion, and at most half as "
            "long as the context. Lower it, or leave it out to take all anchors."
        )
    return sorted(drawn)


def _is_eligible(session: ScoringSession, anchor: Row) -> bool:
    """Whether an anchor can be scored alone, in half of the context."""
    try:
        length = len(session.template.zero_shot(anchor).ids)
    except UnusableRowError:
        return False
    return session.max_length is None or length <= session.max_length // 2


def _warn_of_repeats(anchor_set: AnchorSet) -> None:
    """Say which anchors are listed twice."""
    if not anchor_set.repeats:
        return
    named = []
    for j, earlier in list(anchor_set.repeats.items())[:SHOWN_REPEATS]:
        name = anchor_set.set_names[j]
        offset = anchor_set.set_names.index(name)  # the anchors of a set stand together
        named.append(f"row {j - offset} equals row {earlier - offset}" + (f" in `{name}`" if name else ""))
    left = len(anchor_set.repeats) - len(named)
    more = f", and {left:,} more" if left else ""
    logger.warning(
        "%s listed twice, which would count twice in each golden score: %s%s (rows are numbered from 0). Each counts "
        "once. Remove the others.",
        counted(len(anchor_set.repeats), "anchor is", "anchors are"),
        ", ".join(named),
        more,
    )


def chosen_anchors(session: ScoringSession) -> AnchorSet:
    """Choose anchors from the pool, once: a resumed run reads the choice from the store.

    Only rows of at most half the context are eligible. A candidate is dropped if it does not fit together with every
    anchor, so one very long anchor would drop most of the pool.
    """
    pool, store = session.pool, session.store
    usable = _usable(session)
    choice = _choice(session, pool)
    indices = session.ranks.on_main(lambda: _stored_choice(session, pool))
    if indices is None:
        config = session.config
        if config.anchor_selection == "random":
            indices = _random_choice(session, usable, choice["num_anchors"], config.anchor_seed)
        else:
            indices = _kmeans_choice(session, usable, choice["num_anchors"])
        session.ranks.on_main(lambda: store.write_note(choice, indices))
    return _from_pool(session, pool, indices)


def anchors_for_plan(
    session: ScoringSession, whole: Pool, passed_over: Collection[str] | None = None
) -> tuple[AnchorSet, bool]:
    """Find anchors for a plan, without reading all rows of a large pool.

    The anchors of the run are taken where they are given, or chosen already, or cheap to choose. Else rows drawn at
    random stand in for them, other ones each time.

    Args:
        session: session of the pool or of a sample of it.
        whole: pool that the plan is for.
        passed_over: keys of given anchors that are drawn last, see `drawn_places`.

    Returns:
        The anchors, and whether they stand in for others.
    """
    pool, store, config = session.pool, session.store, session.config
    if session.request.anchors is not None:
        return given_anchors(session, session.request.anchors, passed_over), False
    if pool is whole and config.anchor_selection == "random":
        return chosen_anchors(session), False
    usable = _usable(session)

    def read() -> list[int] | None:
        if pool is not whole and not store.has_notes():
            return None  # without hashing all rows of a large pool
        return _stored_choice(session, whole)

    indices = session.ranks.on_main(read)
    if indices is not None:
        return _from_pool(session, whole, indices), False
    seed = session.ranks.on_main(lambda: int(np.random.default_rng().integers(2**31)))
    indices = _random_choice(session, usable, _num_anchors(session), seed)
    return _from_pool(session, pool, indices), True


def _num_anchors(session: ScoringSession) -> int:
    number = session.config.num_anchors
    return number if isinstance(number, int) else DEFAULT_NUM_ANCHORS


def _choice(session: ScoringSession, pool: Pool) -> dict[str, Any]:
    """Return all that a choice of anchors depends on; the store keeps the choice under it.

    Rows that hold questions of tests, or nearly repeat others, are no anchors where they are left out. Where none are,
    the choice has the name that it always had. A row that equals an earlier one is never chosen.
    """
    choice: dict[str, Any] = {
        "anchor_selection": session.config.anchor_selection,
        "num_anchors": _num_anchors(session),
        "anchor_seed": session.config.anchor_seed,
        "pool_sha256": pool.content_hash,
        "pool_rows": len(pool),
    }
    _, dropped = pool.read_keys()
    left_out = sorted(i for i, reason in dropped.items() if reason in (NEAR_DUPLICATE, CONTAMINATED))
    if left_out:
        choice["left_out"] = hash_of_keys(f"{i}," for i in left_out)
    return choice


def _stored_choice(session: ScoringSession, pool: Pool) -> list[int] | None:
    """Read the choice of an earlier run on this pool; None if there is none.

    Earlier versions kept a choice under a hash that does not see where unreadable rows stand, so that its pool indices
    may be those of other rows. It counts only if the rows were anchors before: then their zero-shot log-probs are
    stored.
    """
    store, choice = session.store, _choice(session, pool)
    indices: list[int] | None = store.read_note(choice)
    if indices is not None:
        return indices
    earlier = {**choice, "pool_sha256": pool.hash_without_places}
    del earlier["pool_rows"]
    indices = store.read_note(earlier)
    keys, dropped = pool.read_keys()
    if indices is None or any(i >= len(pool) or i in dropped for i in indices):
        return None
    _, known = store.read([ZERO_SHOT], [keys[i] for i in indices])
    if not known.all():
        return None
    store.write_note(choice, indices)
    return indices


def _usable(session: ScoringSession) -> list[int]:
    """Rows that can be read.

    Raises:
        ValueError: if there are fewer of them than anchors; before any forward pass.
    """
    _, dropped = session.pool.read_keys()
    usable = sorted(set(range(len(session.pool))).difference(dropped))
    random_anchors(len(usable), _num_anchors(session), session.config.anchor_seed)
    return usable


def _from_pool(session: ScoringSession, pool: Pool, indices: list[int]) -> AnchorSet:
    return AnchorSet(session.template, [pool[i] for i in indices], list(indices), session.max_length)


def _random_choice(session: ScoringSession, usable: list[int], num_anchors: int, seed: int) -> list[int]:
    different = _first_of_equal(session, usable)
    rows = sorted(session.ranks.gather(list(_eligible(session, session.ranks.share(different)))))
    _check_enough_eligible(session, usable, len(rows))
    return [rows[p] for p in random_anchors(len(rows), num_anchors, seed)]


def _first_of_equal(session: ScoringSession, indices: list[int]) -> list[int]:
    """Return the first of each group of equal rows: a repeated anchor would count twice."""
    first: dict[str, int] = {}
    for i in indices:
        first.setdefault(session.keys[i], i)
    return sorted(first.values())


def _kmeans_choice(session: ScoringSession, usable: list[int], num_anchors: int) -> list[int]:
    """Return the pool indices of the rows nearest to the centroids of the rows' embeddings."""
    embedded = embed_rows(session, usable, _eligible)
    _check_enough_eligible(session, usable, len(embedded))

    def choose() -> list[int]:
        rows, vectors = zip(*embedded, strict=True) if embedded else ((), ())
        return [rows[p] for p in kmeans_anchors(np.array(vectors), num_anchors, session.config.anchor_seed)]

    return session.ranks.on_main(choose)


def _check_enough_eligible(session: ScoringSession, usable: list[int], num_eligible: int) -> None:
    """Refuse a pool most of whose rows the template does not fit, with the reasons.

    Raises:
        ValueError: if fewer rows than anchors can be scored alone, and some have a reason.
    """
    num_anchors = _num_anchors(session)
    if num_eligible >= num_anchors:
        return
    reasons: Counter[str] = Counter()
    for i in usable:
        try:
            session.template.zero_shot(session.pool[i])
        except UnusableRowError as error:
            reasons[str(error)] += 1
    if reasons:
        raise ValueError(
            f"`num_anchors={num_anchors:,}` anchors must be chosen from the pool, but only "
            f"{counted(num_eligible, 'row')} can be scored alone ({tally(reasons)}).{hint_on(reasons)} Lower "
            "`num_anchors`, or give `anchors`."
        )


def _eligible(session: ScoringSession, indices: list[int]) -> dict[int, list[int]]:
    """Return the zero-shot token ids of those rows that may become anchors, by pool index."""
    sequences = render_alone(session, indices)
    if session.max_length is None:
        return sequences
    return {i: ids for i, ids in sequences.items() if len(ids) <= session.max_length // 2}
