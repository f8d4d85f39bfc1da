"""One sentence for each row: why it was kept, rejected, eliminated or dropped."""

from __future__ import annotations

from typing import Any

from nuggets_trainer.golden.limits import CONTAMINATED, DUPLICATE, FAILS_REQUIRE, NEAR_DUPLICATE, NO_SIGNAL
from nuggets_trainer.golden.ranking import RANKED_VALUES, RankedValue
from nuggets_trainer.store.stored_scores import StoredScores
from nuggets_trainer.wording import counted

# Meaning of each reason to drop a row.
REASONS = {
    "chat_template_kwargs_not_a_dict": "its options of the chat template are not a mapping",
    "completion_changes": "the template writes an anchor's completion differently after this row",
    "completion_cut_away": "the template's token limit leaves nothing of the completion",
    "completion_not_messages": "its completion is not a list of messages",
    "completion_not_text": "its completion is not text",
    CONTAMINATED: "it holds a question of a test that `decontaminate` names",
    DUPLICATE: "an earlier row says the same, word for word (`deduplicate`)",
    "empty_completion": "its completion is empty",
    "empty_prompt": "its prompt is empty",
    NO_SIGNAL: "it has no value of the signal that rows are ranked by",
    FAILS_REQUIRE: "it does not meet the condition `require`, and a race scores only rows that do",
    "function_call_not_a_call": "a message from `function_call` is not a call in JSON",
    "history_not_pairs": "its history is not a list of pairs of an instruction and its answer",
    "input_ids_not_token_ids": "its token ids are not a list of whole numbers",
    "last_message_not_assistant": "its last message is not from the assistant",
    "mask_not_as_long_as_input_ids": "one of its masks is not as long as its token ids",
    NEAR_DUPLICATE: "it is nearly the same as an earlier row (`deduplicate=near`)",
    "no_assistant_tokens": "the chat template marks no token as the assistant's",
    "no_scored_anchor": "no anchor could be scored after it",
    "non_finite_log_prob": "the model gave a log-prob that is not a finite number after it",
    "not_shown": "the chat template leaves out what one of its turns says",
    "not_text": "it contains something that is not text (image, audio, video)",
    "not_tokenizable": "the tokenizer or the chat template failed on it",
    "prompt_not_messages": "its prompt is not a list of messages",
    "prompt_not_text": "its prompt is not text",
    "repeated_anchor": "an equal anchor stands before it",
    "system_not_text": "its system message is not text",
    "text_behind_completion": "the chat template writes more than an end mark behind its completion",
    "token_not_in_vocabulary": "it has a token id that the model's vocabulary lacks",
    "too_long": "it does not fit into the model's context together with the longest anchor",
    "tools_not_a_list": "its tools are not a list",
    "tools_not_json": "its tools are not JSON",
    "unknown_role": "one of its messages comes from a role without a known meaning",
}
UNKNOWN_REASON = "it could not be scored"


def verdict(scores: StoredScores, i: int, cut: dict[str, Any], ranked: RankedValue) -> tuple[str, str]:
    """Return what became of a row, and why.

    Args:
        scores: stored scores of the pool.
        i: pool index of the row.
        cut: `score` and `tie_breaker` of the last row kept, and `ties`, `ties_kept`.
        ranked: value that rows are ranked by.

    Returns:
        `kept`, `tied` (at the cut, and not kept), `below` (or left out by `require`), `eliminated` or `dropped`; and
        a sentence.
    """
    if scores.reason[i] >= 0:
        reason = scores.reasons[scores.reason[i]]
        return "dropped", f"Dropped ({reason}): {REASONS.get(reason, UNKNOWN_REASON)}."
    if scores.eliminated[i] and not scores.has_score[i]:
        return "eliminated", _eliminated(float(scores.upper_bound[i]), int(scores.num_anchors[i]), cut["score"])
    score = float(ranked.of(scores)[i])
    won = ""
    if scores.has_score[i]:
        won = _won(float(scores.golden_score[i]), int(scores.num_anchors[i]))
    if scores.eliminated[i]:
        won = f"predicted after {counted(int(scores.num_anchors[i]), 'anchor')}"
    if ranked.is_signal:
        won = f"{ranked.words} {ranked.write(score)}{ranked.unit}"
    elif ranked.name != "golden_score":
        won = f"{ranked.words} {ranked.write(score)}{ranked.unit}, {won}"
    if scores.selected[i]:
        sentence = f"Kept: rank {scores.rank[i]:,}, {won}."
        if score == cut["score"] and cut["ties"] > 1:
            sentence += f" It is one of {cut['ties']:,} rows that tie at the cut."
        return "kept", sentence
    if scores.meets_require is not None and not scores.meets_require[i]:
        return "below", f"Left out: it does not meet the condition `require` ({won})."
    if score == cut["score"]:
        others = counted(cut["ties"] - 1, "other row")
        tie_breaker = float(getattr(scores, ranked.tie_breaker)[i])
        return "tied", f"Tied at the cut with {others} ({won}): {_tie_break(tie_breaker, cut, ranked)}."
    if ranked.sign * score > ranked.sign * cut["score"]:
        than_it = "lower" if ranked.sign > 0 else "higher"
        return (
            "below",
            f"Rejected by the selection rule, although the last row kept has a {than_it} {ranked.words} ({won}).",
        )
    if ranked.name != "golden_score":
        side = "Below" if ranked.sign > 0 else "Above"
        return "below", f"{side} the cut: {won}; the last row kept has {ranked.write(cut['score'])}."
    return (
        "below",
        f"Below the cut: {won}; its golden score is {score:.2f}, that of the last row kept {cut['score']:.2f}.",
    )


def _won(score: float, num_anchors: int) -> str:
    wins = score * num_anchors
    if abs(wins - round(wins)) < 1e-6:
        return f"won {round(wins):,} of {counted(num_anchors, 'anchor')}"
    # Several anchor sets were combined: the score is no longer a share of all anchors.
    return f"golden score {score:.3f} over {counted(num_anchors, 'anchor')}"


def _eliminated(bound: float, num_anchors: int, cut: float) -> str:
    scored = counted(num_anchors, "anchor")
    if bound < cut:
        return (
            f"Eliminated after {scored}: even if it had won all other anchors, its golden score would be {bound:.3f}, "
            f"and the last row kept has {cut:.3f}."
        )
    return f"Stopped after {scored} because it was unlikely to be kept; its golden score would be at most {bound:.3f}."


def _tie_break(value: float, cut: dict[str, Any], ranked: RankedValue) -> str:
    """Say what decided against a row at the cut."""
    if ranked.is_signal:
        return "a row of the same value is kept because it comes before it in the pool, or a limit decided against it"
    words, of_last = RANKED_VALUES[ranked.tie_breaker].words, cut["tie_breaker"]
    if value < of_last:
        return f"its {words}, {value:+.5f}, is below that of the last row kept, {of_last:+.5f}"
    if value > of_last:
        return "coverage, a quota or a near-duplicate that was kept decided against it"
    return f"its {words} equals that of the last row kept, which comes before it in the pool"
