"""Which anchors a template writes a candidate differently before, found with candidates of every form."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from nuggets_trainer.data.row import Message, Row, UnusableRowError


def _user(text: str) -> Message:
    return {"role": "user", "content": text}


def _assistant(text: str, **fields: object) -> Message:
    return {"role": "assistant", "content": text, **fields}


_CALLS = [{"type": "function", "function": {"name": "look", "arguments": {"at": "it"}}}]
_RESULT = {"role": "tool", "name": "look", "content": "seen"}
_THOUGHT = "<think>\nthought\n</think>\n\n"

# Templates that write earlier turns in another way look at reasoning, at calls and their results, and at the place of
# the last question, which is not a result that is given as a user's text.
PROBES = (
    Row(
        [_user("one"), _assistant(f"{_THOUGHT}two"), _user("three")],
        [_assistant(f"{_THOUGHT}four")],
    ),
    Row(
        [_user("one"), _assistant("", reasoning_content="thought", tool_calls=_CALLS), _RESULT],
        [_assistant("two", reasoning_content="thought")],
    ),
    Row([_user("<tool_response>\none\n</tool_response>")], [_assistant("two")]),
    Row([_user("one")], [_assistant("two")]),
)


def first_of_each_kind(prefix: Callable[[Row, int], list[int]], positions: Sequence[int]) -> list[int]:
    """Return the first anchor of each kind: before anchors of one kind all probes are written alike.

    Args:
        prefix: gives what is left of a candidate's one-shot prompt without the anchor's suffix, by candidate and
            position of the anchor.
        positions: positions of the anchors.
    """
    first: dict[str, int] = {}
    for j in positions:
        first.setdefault(str([_prefix_or_reason(prefix, probe, j) for probe in PROBES]), j)
    return list(first.values())


def _prefix_or_reason(prefix: Callable[[Row, int], list[int]], probe: Row, j: int) -> list[int] | str:
    try:
        return prefix(probe, j)
    except UnusableRowError as error:
        return str(error)
