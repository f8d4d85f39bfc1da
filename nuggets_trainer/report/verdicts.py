"""Why a row was kept or not, in a sentence. Knows no files."""

from __future__ import annotations

from typing import Any

from nuggets_trainer.store.read_results import StoredScores

# What a reason to drop a row means, and what can be done.
REASONS = {
    "completion_changes": "the template writes an anchor's completion differently behind this row",
    "completion_cut_away": "the template's token limit leaves nothing of the completion",
    "completion_not_text": "its completion is no text",
    "empty_completion": "its completion is empty",
    "empty_prompt": "its prompt is empty",
    "last_message_not_assistant": "its last message is not the assistant's",
    "no_assistant_tokens": "the chat template marks no token as the assistant's",
    "no_scored_anchor": "no anchor could be scored behind it",
    "non_finite_log_prob": "the model gave no finite log-prob behind it",
    "not_text": "it holds something that is no text (image, audio, video)",
    "not_tokenizable": "the tokenizer or chat template failed on it",
    "prompt_not_text": "its prompt is no text",
    "too_long": "it does not fit the model's context together with the longest anchor",
}


def verdict(table: StoredScores, i: int, cut: dict[str, Any]) -> tuple[str, str]:
    """Return what became of a row, and why.

    Args:
        table: the scores.
        i: pool index.
        cut: `score`, `mean_gain` (of the last row kept), `ties`, `ties_kept`.

    Returns:
        `kept`, `tied` (at the cut, and not kept), `below`, `eliminated` or `dropped`; and a sentence.
    """
    if table.reason[i] >= 0:
        reason = table.reasons[table.reason[i]]
        return "dropped", f"Dropped ({reason}): {REASONS.get(reason, 'it could not be scored')}."
    if table.eliminated[i]:
        return "eliminated", _eliminated(float(table.upper_bound[i]), int(table.num_anchors[i]), cut["score"])
    score, number = float(table.golden_score[i]), int(table.num_anchors[i])
    won = _won(score, number)
    if table.selected[i]:
        tie = f" At the cut, where {cut['ties']:,} rows tie." if score == cut["score"] and cut["ties"] > 1 else ""
        return "kept", f"Kept: rank {table.rank[i]:,}, {won}.{tie}"
    if score == cut["score"]:
        return "tied", f"Tied at the cut with {cut['ties'] - 1:,} others ({won}): {_tie(table, i, cut)}."
    if score > cut["score"]:
        return "below", f"Not chosen by the rule, though the last row kept has a lower golden score ({won})."
    return "below", f"Below the cut: {won}, {score:.2f} where the last row kept has {cut['score']:.2f}."


def _won(score: float, number: int) -> str:
    wins = score * number
    if abs(wins - round(wins)) < 1e-6:
        return f"won {round(wins):,} of {number:,} anchors"
    return f"golden score {score:.3f} over {number:,} anchors"  # several anchor sets, combined


def _eliminated(bound: float, num_anchors: int, cut: float) -> str:
    if bound < cut:
        return (
            f"Eliminated after {num_anchors:,} anchors: with all others won it would have had {bound:.3f}, and the "
            f"last row kept has {cut:.3f}."
        )
    return f"Stopped after {num_anchors:,} anchors as unlikely to be kept; it could have had {bound:.3f} at most."


def _tie(table: StoredScores, i: int, cut: dict[str, Any]) -> str:
    gain = float(table.mean_gain[i])
    if gain < cut["mean_gain"]:
        return f"its mean gain, {gain:+.3f}, is below that of the last row kept, {cut['mean_gain']:+.3f}"
    if gain > cut["mean_gain"]:
        return "coverage, a quota or a near-duplicate that was kept stood against it"
    return "its mean gain is the same as that of the last row kept, and it stands behind it in the pool"
