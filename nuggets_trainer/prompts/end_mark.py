"""What a chat template writes behind the last answer: an end mark, or text that would be scored with the answer."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from nuggets_trainer.data.row import UnusableRowError
from nuggets_trainer.prompts.render_chat import PROBE, ChatRenderer
from nuggets_trainer.prompts.segment import common_prefix_length
from nuggets_trainer.prompts.shown import TEXT_BEHIND

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Marks of a model that is not the tokenizer's own are no special tokens of it.
MARK = re.compile(r"<[^<>\s]+>|\[/?[A-Z_]+\]")
PART_OF_MARK = re.compile(r"\A[^<>\s]*>")  # the end of two different ones, e.g. of `<|eot_id|>` and `<|eom_id|>`


class EndMarks:
    """Tell an end mark from other text behind an answer.

    An end mark is white space, special tokens and what looks like them (`<|im_end|>`, `</s>`, `[/INST]`), signs
    without a letter or a digit, and any text that the template also writes behind an answer which another turn
    follows (`### End`). The beginning of a next turn is none: some templates open one behind each conversation.

    Args:
        renderer: renders conversations under the template.
        tokenizer: tokenizer that has the special tokens.
    """

    def __init__(self, renderer: ChatRenderer, tokenizer: PreTrainedTokenizerBase) -> None:
        self._renderer = renderer
        special = {*tokenizer.all_special_tokens, *tokenizer.get_added_vocab()}
        longest_first = sorted(special, key=len, reverse=True)
        self._marks = re.compile("|".join([*map(re.escape, longest_first), MARK.pattern]))
        first, second = (_turn(number) for number in ("user", "assistant"))
        self._usual = self._behind([first, second], second)
        third = _turn("user", "next")
        self._before_next = self._between([first, second, third], second, third)
        alone, opened = self._behind([first], first), self._behind([first], first, add_generation_prompt=True)
        # What opens an answer, with what ends the turn before it, and without.
        self._openings = {self._between([first, second], first, second), opened}
        if opened != alone:
            self._openings.add(opened.removeprefix(alone).strip())
        # Without a mark of its own for the assistant this is what ends a turn.
        closings = {opening for opening in self._openings if self._before_next.startswith(opening)}
        self._openings -= closings

    def check(self, texts: Sequence[str], not_scored: str = "") -> None:
        """Check that one of these texts is an end mark: what stands behind each place of an answer's last words.

        A short answer has many places. `a` stands in `assistant` too.

        Args:
            texts: texts up to the end of the conversation.
            not_scored: text at the end of the conversation that is not scored.

        Raises:
            UnusableRowError: if none is.
        """
        for text in texts:
            if self._is_end_mark(_without_end(text, not_scored)):
                return
        raise UnusableRowError(TEXT_BEHIND)

    def check_usual(self, text: str, not_scored: str = "") -> None:
        """Check how much of what the template writes behind a short answer stands at the end of a conversation.

        A tool call often has an end mark of its own, but what stands behind all answers stands behind it too.

        Args:
            text: rendered conversation.
            not_scored: text at its end that is not scored.

        Raises:
            UnusableRowError: if it is more than an end mark.
        """
        usual = PART_OF_MARK.sub("", common_end(text.strip(), self._usual))
        self.check([usual], not_scored)

    def _is_end_mark(self, text: str) -> bool:
        if self._before_next.startswith(text) and self._before_next != text:
            return True  # the template ends every answer like this
        if any(character.isalnum() for character in self._marks.sub("", text)):
            return False
        for opening in self._openings:
            if text.endswith(opening) and not self._before_next.endswith(opening):
                return False  # of an answer
        # One mark ends the answer, another opens the user's turn. (GLM's `<|user|>` alone does both.)
        return text != self._before_next or len(self._marks.findall(text)) <= 1

    def _behind(self, turns: list[dict[str, Any]], last: dict[str, Any], **options: Any) -> str:
        return self._write(turns, options).rpartition(last["content"])[2].strip()

    def _between(self, turns: list[dict[str, Any]], one: dict[str, Any], other: dict[str, Any]) -> str:
        """Return what stands between two turns, without white space at its ends; "" if they are not shown."""
        _, found, rest = self._write(turns, {}).partition(one["content"])
        between, also_found, _ = rest.partition(other["content"])
        return between.strip() if found and also_found else ""

    def _write(self, turns: list[dict[str, Any]], options: dict[str, Any]) -> str:
        try:
            return self._renderer.text(turns, options)
        except UnusableRowError:  # each row shows for itself whether it can be rendered
            return ""


def _turn(role: str, name: str = "") -> dict[str, Any]:
    return {"role": role, "content": f"{PROBE}{role}{name}"}


def common_end(text: str, other: str) -> str:
    """Return what two texts have in common at their end.

    Example:
        >>> common_end("</s> Bye.", "Oh. Bye.")
        ' Bye.'
    """
    length = common_prefix_length(text[::-1], other[::-1])
    return text[len(text) - length :]


def _without_end(text: str, end: str) -> str:
    """Return a text without what it has in common with another one at its end, and without white space there."""
    text = text.strip()
    return text.removesuffix(common_end(text, end.strip())).strip()
