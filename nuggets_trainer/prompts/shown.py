"""What a rendered conversation shows of its messages, found by a search for each of their texts."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import escape

from nuggets_trainer.data.messages import calls_of
from nuggets_trainer.data.row import SYSTEM_ROLES, Message, content_text

REASONING_FIELDS = ("reasoning_content", "thinking", "reasoning")  # transformers gives templates the first under all
TOOL_ROLES = ("tool", "function", "observation", "ipython")
REASONING = re.compile(r"(?:<think>|\A(?!.*<think>))(.*?)</think>", re.DOTALL)  # R1's generation prompt opens the tag

MOST_PLACES = 50  # of one text in a conversation; a text of one letter may have thousands

NOT_SHOWN = "not_shown"  # the reason of a row whose rendering lacks what a turn says
TEXT_BEHIND = "text_behind_completion"  # the reason of a row behind whose last answer more than an end mark stands


def hint_on(reasons: Iterable[str]) -> str:
    """Return what to do about rows that a chat template does not fit, with a space before it; "" if there are none.

    Args:
        reasons: reasons of dropped rows.
    """
    found, hint = set(reasons), ""
    if NOT_SHOWN in found:
        hint += (
            f" `{NOT_SHOWN}` means that the template leaves out what a turn says: its text, a tool call or a tool's "
            "result. Name a chat template that shows it (`chat_template_path`, SFTConfig), or write it into the "
            "messages' text."
        )
    if TEXT_BEHIND in found:
        hint += (
            f" `{TEXT_BEHIND}` means that the template writes more than an end mark behind the last answer, such as "
            "the beginning of a next turn, which would be scored and trained on as a part of the answer. Name a chat "
            "template that ends with the answer (`chat_template_path`, SFTConfig)."
        )
    return hint


@dataclass(frozen=True)
class TextPiece:
    """A text of a message that a rendering should show.

    Attributes:
        kind: `text`, `reasoning`, `system` or `tool`. Texts and reasoning have their order in the conversation; some
            templates move a system message, a call or a result.
        text: what to search for, without white space at its ends.
    """

    kind: str
    text: str

    @property
    def is_ordered(self) -> bool:
        """Whether the piece must stand behind the pieces before it."""
        return self.kind in ("text", "reasoning")


def pieces_of(messages: Sequence[Message]) -> list[TextPiece]:
    """List what the messages say, in order: reasoning, text, calls.

    Example:
        >>> pieces_of([{"role": "assistant", "content": "<think> Twice 2. </think> 4"}])
        [TextPiece(kind='reasoning', text='Twice 2.'), TextPiece(kind='text', text='4')]
    """
    found = []
    for message in messages:
        for kind, text in _texts(message):
            if text.strip():
                found.append(TextPiece(kind, text.strip()))
    return found


def find_pieces(text: str, pieces: Sequence[TextPiece]) -> list[int | None]:
    """Find each piece in a rendered conversation.

    Reasoning counts as found only if all texts behind it are found behind it: a template may leave it out, and the
    same words may stand in another turn.

    Args:
        text: rendered conversation.
        pieces: what it should show.

    Returns:
        The position behind each piece; None for a piece that is not shown.
    """
    ends: list[int | None] = []
    position = 0
    for number, piece in enumerate(pieces):
        end = _find(text, piece.text, position if piece.is_ordered else 0)
        if end is not None and piece.kind == "reasoning" and not _are_behind(text, pieces[number + 1 :], end):
            end = None
        if end is not None and piece.is_ordered:
            position = end
        ends.append(end)
    return ends


def hidden_pieces(text: str, pieces: Sequence[TextPiece]) -> list[TextPiece]:
    """Return the pieces that a rendered conversation does not show."""
    return [piece for piece, end in zip(pieces, find_pieces(text, pieces), strict=True) if end is None]


def _are_behind(text: str, pieces: Sequence[TextPiece], position: int) -> bool:
    """Whether all texts stand behind a position, in order."""
    for piece in pieces:
        if piece.kind != "text":
            continue
        end = _find(text, piece.text, position)
        if end is None:
            return False
        position = end
    return True


def _find(text: str, piece: str, start: int) -> int | None:
    """Return the position behind the first place of a piece; white space and escapes of JSON and HTML may differ."""
    for written in _spellings(piece):
        place = text.find(written, start)
        if place >= 0:
            return place + len(written)
    for pattern in _with_any_space(piece):
        found = pattern.search(text, start)
        if found is not None:
            return found.end()
    return None


def texts_behind(text: str, piece: str) -> list[str]:
    """Return what stands behind each place of a piece in a rendered conversation, the last place first.

    Args:
        text: rendered conversation.
        piece: text of a piece.

    Example:
        >>> texts_behind("a cat sat.", "a")
        ['t.', 't sat.', ' cat sat.']
    """
    ends: list[int] = []
    for written in _spellings(piece):
        ends += _ends(text, written)
    if not ends:
        for pattern in _with_any_space(piece):
            ends += [found.end() for found in pattern.finditer(text)]
    return [text[end:] for end in sorted(set(ends), reverse=True)[:MOST_PLACES]]


def _ends(text: str, written: str) -> list[int]:
    """Return the positions behind each place of a text in another one. A compiled pattern takes ten times as long."""
    ends: list[int] = []
    place = text.find(written)
    while place >= 0:
        ends.append(place + len(written))
        place = text.find(written, ends[-1])
    return ends


def _spellings(piece: str) -> list[str]:
    """Return a text as it is, in JSON (with and without other letters than ASCII) and in HTML, each once."""
    as_json = [json.dumps(piece, ensure_ascii=ascii_alone)[1:-1] for ascii_alone in (False, True)]
    return list(dict.fromkeys([piece, *as_json, str(escape(piece))]))


def _with_any_space(piece: str) -> list[re.Pattern[str]]:
    """Return patterns of a text, and of the text in HTML, between whose words any white space may stand, or none."""
    patterns = []
    for written in dict.fromkeys([piece, str(escape(piece))]):
        patterns.append(re.compile(r"\s*".join(re.escape(word) for word in written.split())))
    return patterns


def _texts(message: Message) -> Iterator[tuple[str, str]]:
    """Yield the kind and the text of all that a message says."""
    role, content = message["role"], content_text(message)
    parts = [content]
    if isinstance(message.get("content"), list):  # a template may write something between them
        parts = [part["text"] for part in message["content"]]
    if role in SYSTEM_ROLES:
        for part in parts:
            yield "system", part
        return
    if role in TOOL_ROLES:
        for part in parts:
            yield "tool", part
        return
    for field in REASONING_FIELDS:
        if isinstance(message.get(field), str) and message[field].strip():
            yield "reasoning", message[field]
            break
    if role == "assistant" and "</think>" in content:
        # The groups of a split: text, reasoning, text, ...
        for number, part in enumerate(REASONING.split(content)):
            yield ("reasoning" if number % 2 else "text"), part
    else:
        for part in parts:
            yield "text", part
    for call in calls_of(message):
        for text in _call_texts(call):
            yield "tool", text


def _call_texts(call: Any) -> list[str]:
    """Return the name of a call, and the values of its arguments that look alike in JSON, XML and plain text."""
    function = call.get("function", call) if isinstance(call, dict) else {}
    texts = [function.get("name")]
    arguments = function.get("arguments")
    if isinstance(arguments, dict):
        texts += [value for value in arguments.values() if isinstance(value, str) and json.dumps(value)[1:-1] == value]
    return [text for text in texts if isinstance(text, str)]
