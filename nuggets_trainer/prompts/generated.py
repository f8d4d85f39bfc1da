"""What a tuned model generates after a chat prompt: the token that ends its turn, the reasoning, the answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from nuggets_trainer.prompts.render_chat import as_parts

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Marks around reasoning: Qwen, DeepSeek, GLM and many others; Mistral; Seed; Cohere.
REASONING_MARKS = (
    ("<think>", "</think>"),
    ("[THINK]", "[/THINK]"),
    ("<seed:think>", "</seed:think>"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
)
PROBE = "nuggets"  # an answer that no template holds


def find_turn_end(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """Find the token that the chat template writes behind the last answer; None if it writes no special token there.

    A model that is tuned with the template ends its answers with this token. It is often the EOS token, but base
    models with ChatML have `<|im_end|>` here and `<|endoftext|>` as EOS.
    """
    if not tokenizer.chat_template:
        return None
    for as_content in (str, as_parts):
        messages = [{"role": "user", "content": as_content("a")}, {"role": "assistant", "content": as_content(PROBE)}]
        try:
            rendered = str(tokenizer.apply_chat_template(messages, tokenize=False))
        except Exception:  # noqa: BLE001 - chat templates raise what they like
            continue
        _, found, rest = rendered.rpartition(PROBE)
        if found:
            special = tokenizer.get_added_vocab()
            ends = [token for token in special if rest.lstrip().startswith(token)]
            return special[max(ends, key=len)] if ends else None
    return None


def decode_with_reasoning(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    """Decode generated tokens without special tokens, but with the marks around reasoning.

    Some tokenizers have these marks as special tokens. Without them the reasoning would look like the answer.
    """
    marks = {mark for pair in REASONING_MARKS for mark in pair}
    mark_of = {token_id: token for token, token_id in tokenizer.get_added_vocab().items() if token in marks}
    text = ""
    start = 0
    for position, token_id in enumerate(ids):
        if token_id in mark_of:
            text += _decode(tokenizer, ids[start:position]) + mark_of[token_id]
            start = position + 1
    return text + _decode(tokenizer, ids[start:])


def opens_reasoning(prompt: str) -> bool:
    """Tell whether a rendered prompt ends with the mark that opens reasoning, as templates of thinking models do."""
    return prompt.rstrip().endswith(tuple(opening for opening, _ in REASONING_MARKS))


def without_reasoning(text: str, is_opened: bool = False) -> str:
    """Return the answer alone, without the blocks of reasoning before it.

    Reasoning that was cut off leaves an empty answer. Marks behind the beginning of the answer are part of it.

    Args:
        text: generated text.
        is_opened: whether the prompt has the opening mark.

    Example:
        >>> without_reasoning("<think></think> A crow."), without_reasoning("<think>A bird, let me")
        ('A crow.', '')
    """
    answer = text.strip()
    for opening, closing in REASONING_MARKS:
        if is_opened and closing in answer and not answer.startswith(opening):
            answer = answer.partition(closing)[2].strip()
        while answer.startswith(opening):
            answer = answer.partition(closing)[2].strip()
    return answer


def _decode(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    text: str = tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return text
