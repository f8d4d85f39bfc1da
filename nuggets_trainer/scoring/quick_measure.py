"""A short measurement for a plan on a slow device, where the run's own first steps would take minutes.

A run compares the engine's paths on its longest pairs, scores all anchors alone, and calls the engine for eight
forward passes at once. With 130 tokens per second this took two minutes before the first pair was counted. Here some
forward passes of random candidates are timed, and nothing is stored: paths that are compared on short pairs alone
could be wrong for long ones.
"""

from __future__ import annotations

import time
from functools import partial

import numpy as np

from nuggets_trainer.prompts.segment import CandidatePrompt, Segment
from nuggets_trainer.scoring.exact import ExactRun, MissingPairs
from nuggets_trainer.scoring.pair_scorer import CALL_BATCHES
from nuggets_trainer.scoring.progress import show_phase
from nuggets_trainer.scoring.rendering import Rendered
from nuggets_trainer.scoring.session import ScoringSession
from nuggets_trainer.scoring.watch import Watch

PAIRS_OF_CHECK = 9  # pairs that the engine's paths are compared on, each of them three times
MOST_TOKENS = 512  # of one timed forward pass: several must fit into the measurement


def seconds_before_measuring(session: ScoringSession, rendered: Rendered) -> float:
    """Estimate what a run takes before its first call of the engine returns, from two short forward passes.

    All ranks must call it.

    Returns:
        Seconds of the slowest rank; 0 for a model that is spread over the ranks, because they share each pass.
    """
    if session.passes.sharded:
        return 0.0

    def own_seconds() -> list[float]:
        if not rendered.prompts:
            return [0.0]
        shortest = min(rendered.prompts, key=lambda i: (rendered.prompts[i].num_tokens(), i))
        prefix, positions, segments = next(iter(rendered.shared.parts(rendered.prompts[shortest])))
        segment = segments[positions[0]]
        session.engine.score_plainly([(prefix, [segment])])  # the first pass warms up
        started = time.monotonic()
        session.engine.score_plainly([(prefix, [segment])])
        per_token = (time.monotonic() - started) / (len(prefix) + len(segment.ids))
        return [per_token * _tokens_before_measuring(session, rendered)]

    return max(session.ranks.gather_from(own_seconds))


def _tokens_before_measuring(session: ScoringSession, rendered: Rendered) -> int:
    """Count the tokens of the comparison of the paths, of the anchors alone, and of one call of the engine."""
    sizes = [len(segment.ids) for segment in rendered.anchor_set.segments]
    prompts = rendered.prompts.values()
    longest = max(map(CandidatePrompt.num_tokens, prompts)) + max(sizes)
    all_pairs = sum(map(CandidatePrompt.prefix_tokens, prompts)) + len(prompts) * sum(sizes)
    call = min(all_pairs, CALL_BATCHES * session.engine.find_tokens_per_batch())
    return 3 * PAIRS_OF_CHECK * longest // 2 + sum(sizes) + call


def measure_quickly(session: ScoringSession, rendered: Rendered, run: ExactRun, watch: Watch) -> None:
    """Time forward passes on pairs of random candidates, and store nothing; all ranks must call it.

    Args:
        session: open session.
        rendered: anchors and candidates.
        run: run that would score what is not stored.
        watch: times the passes, and says when they are enough.
    """
    ranks = session.ranks
    missing, tokens = run.missing()
    num_needed, all_tokens = np.sum(ranks.gather([(missing.num_pairs, tokens)]), axis=0).tolist()
    with show_phase("Measuring", "pairs", None, ranks.is_main and num_needed > 0) as phase:
        watch.start(phase, run.scorer.workload(num_needed, all_tokens), own_tokens=tokens)
        watch.finished = not missing.num_pairs
        ranks.gather_from(partial(_time_passes, session, rendered, missing, watch))


def _time_passes(session: ScoringSession, rendered: Rendered, missing: MissingPairs, watch: Watch) -> list[None]:
    candidates = list(missing)
    most_tokens = min(MOST_TOKENS, session.engine.find_tokens_per_batch())
    for i, anchors in candidates[1:] or candidates:  # the first one is the longest
        wanted = set(anchors.tolist())
        for prefix, positions, segments in rendered.shared.parts(rendered.prompts[i]):
            own = [segments[j] for j in positions if j in wanted]
            some = _that_fit(own, most_tokens - len(prefix))
            if not some:
                continue
            if session.engine.path is None:
                session.engine.choose_path([(prefix, some[:2])])
                watch.restart_clock()
            session.engine.score_prefixed([(prefix, some)])
            watch.scored(len(some), len(prefix) + sum(len(segment.ids) for segment in some))
            if watch.stopped:
                return []
    return []


def _that_fit(segments: list[Segment], num_tokens: int) -> list[Segment]:
    """Return the first segments of so many tokens together, at least one."""
    sizes = np.cumsum([len(segment.ids) for segment in segments])
    return segments[: max(1, int(np.searchsorted(sizes, num_tokens, side="right")))]
