"""Has the engine of each rank choose how it computes, and all ranks take the same. Knows no schedule."""

from __future__ import annotations

from nuggets_trainer.engine.log_probs import PATHS
from nuggets_trainer.prompts.segment import PrefixedSegments
from nuggets_trainer.prompts.shared_prefix import AnchorSet, CandidatePrompt, SharedPrefix
from nuggets_trainer.scoring.session import ScoringSession


def choose_path(
    session: ScoringSession, anchor_set: AnchorSet, shared: SharedPrefix, prompts: dict[int, CandidatePrompt]
) -> None:
    """Have the engine hold its paths against the naive one: longest and shortest prefix, longest anchors.

    Args:
        session: its engine takes the path.
        anchor_set: the anchors.
        shared: their suffixes.
        prompts: the candidates of this rank.
    """
    prefixed: list[PrefixedSegments] = [([], anchor_set.segments[:3])]
    by_length = sorted(prompts, key=lambda i: (-prompts[i].num_tokens(), i))
    for i in by_length[:1] + by_length[-1:]:
        for prefix, sharing in prompts[i].prefixes[:3]:
            segments = shared.suffixes if prefix else prompts[i].unshared
            longest_first = sorted(sharing, key=lambda j: (-len(segments[j].ids), j))
            prefixed.append((prefix, [segments[j] for j in longest_first[:1] + longest_first[-2:]]))
    if session.passes.sharded:
        # The same passes on all ranks: a path that fails does so everywhere at once.
        prefixed = session.ranks.on_main(lambda: prefixed)
    anchor_tokens = sum(len(segment.ids) for segment in shared.suffixes.values())
    num_tokens = sum(prompt.prefix_tokens() + anchor_tokens for prompt in prompts.values())
    engine, ranks = session.engine, session.ranks

    def choose() -> list[tuple[str, bool]]:
        with session.passes.in_step():
            return [(engine.choose_path(prefixed, num_tokens), engine.compiles)]

    choices = ranks.gather_from(choose)
    # One choice for all ranks: the slowest path that one needs.
    engine.path = max((path for path, _ in choices), key=list(PATHS).index)
    engine.compiles = all(compiles for _, compiles in choices)
