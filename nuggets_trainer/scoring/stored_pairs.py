"""A check of a store that has pairs: some of them are computed again before any others are added.

The fingerprint is a list of fields, and a list forgets: a buffer that is in no state dict, a flag of the tokenizer, a
kernel. Whatever it is, it shows in the log-probs.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from nuggets_trainer.engine.precision import describe_difference
from nuggets_trainer.prompts.segment import PrefixedSegments
from nuggets_trainer.scoring.rendering import Rendered
from nuggets_trainer.scoring.session import ScoringSession
from nuggets_trainer.store.score_store import ZERO_SHOT
from nuggets_trainer.wording import counted

NUM_ANCHORS = 8  # anchors that are computed again alone: the longest, and those of the smallest hashes
NUM_CANDIDATES = 3  # candidates that are computed again, each before two anchors
LOOKED_UP = 32  # candidates that may be among those: both schedules score the smallest hashes first


def check_stored_pairs(session: ScoringSession, rendered: Rendered, key_of: Mapping[int, str]) -> None:
    """Compute some stored pairs again by the naive path and compare them.

    A stored log-prob and one of today may each be off by what the engine allows for rounding, because paths, devices
    and kernels round differently. So twice the engine's tolerance is allowed.

    Args:
        session: open session; the store is read.
        rendered: anchors and candidates.
        key_of: content hashes of this process's candidates, by number.

    Raises:
        ValueError: if they differ by more than rounding.
    """
    positions: list[tuple[int, int]] = []
    prefixed: list[PrefixedSegments] = []
    anchor_keys = rendered.anchor_set.keys
    candidates = _candidates(rendered, key_of)
    looked_up = [ZERO_SHOT] + [key_of[i] for i in candidates]
    stored, there = session.store.read(looked_up, anchor_keys)
    anchors = _sample(rendered, there[0], NUM_ANCHORS)
    positions += [(0, j) for j in anchors]
    prefixed.append(([], [rendered.anchor_set.segments[j] for j in anchors]))
    num_found = 0
    for row, i in enumerate(candidates, start=1):
        anchors = _sample(rendered, there[row], 2)
        if not len(anchors) or num_found == NUM_CANDIDATES:
            continue
        num_found += 1
        wanted = set(anchors.tolist())
        for prefix, sharing, segments in rendered.shared.parts(rendered.prompts[i]):
            own = [j for j in sharing if j in wanted]
            positions += [(row, j) for j in own]
            prefixed.append((prefix, [segments[j] for j in own]))
    expected = np.array([stored[position] for position in positions], dtype=np.float32)
    found = np.concatenate(session.engine.score_plainly(prefixed))
    if np.isnan(found).all() and np.isnan(expected).all():
        return
    tolerances = 2 * session.engine.tolerances(segment for _, segments in prefixed for segment in segments)
    problem = describe_difference(found, expected, tolerances)
    if problem is not None:
        raise ValueError(_refusal(session, len(found), problem))


def _candidates(rendered: Rendered, key_of: Mapping[int, str]) -> list[int]:
    """Candidates that may have stored pairs: the longest, and those of the smallest hashes."""
    prompts = rendered.prompts
    by_hash = heapq.nsmallest(LOOKED_UP, prompts, key=lambda i: (key_of[i], i))
    longest = heapq.nsmallest(1, prompts, key=lambda i: (-prompts[i].num_tokens(), i))
    return list(dict.fromkeys(longest + by_hash))


def _sample(rendered: Rendered, stored: npt.NDArray[np.bool_], number: int) -> npt.NDArray[np.int64]:
    """Anchors with a stored pair, at most `number` of them: the longest, and those of the smallest hashes."""
    anchor_set = rendered.anchor_set
    places = np.flatnonzero(stored).tolist()
    by_hash = sorted(places, key=lambda j: (anchor_set.keys[j], j))
    longest = sorted(places, key=lambda j: (-len(anchor_set.segments[j].ids), j))[:1]
    return np.array(list(dict.fromkeys(longest + by_hash))[:number], dtype=np.int64)


def _refusal(session: ScoringSession, number: int, problem: str) -> str:
    store = session.store
    reason = "Something has changed that its fingerprint does not name."
    if store.differences:
        reason = f"It was written with other versions and differs in {store.differences}."
    return (
        f"The scores in {store.directory} must be those of this model and template, but {counted(number, 'pair')} of "
        f"it were computed again, and {problem}. {reason} Use another `score_dir` "
        "to score again, or go back to the model, tokenizer, template and versions that the scores were computed with."
    )
