"""A completion without its prompt: what stands before it, and which rows have none."""

from __future__ import annotations

import copy

import pytest

from nuggets_trainer.data.row import Row
from nuggets_trainer.prompts.chat import ChatTemplate
from nuggets_trainer.prompts.row_alone import RowAlone
from nuggets_trainer.prompts.segment import Segment
from tests.support.trl_templates import SOURCES

PROMPT, COMPLETION = "wherefore?", "thereupon."
# They write neither BOS nor anything else before what is scored; the first token then has no context.
NO_OPENING = {"llava_next", "llava_next_training", "gptoss_training"}


def row(*turns: str) -> Row:
    messages = [{"role": ("user", "assistant")[i % 2], "content": turn} for i, turn in enumerate(turns)]
    return Row(messages[:-1], messages[-1:])


@pytest.mark.parametrize("name", sorted(SOURCES))
def test_an_answer_opens_as_the_template_writes_it(name, tokenizer):
    """Under every template of TRL the same tokens are scored, behind nothing that the prompt says."""
    own = copy.deepcopy(tokenizer)
    own.chat_template = SOURCES[name]
    training = SOURCES[name] if name.endswith("_training") else None
    template = ChatTemplate(own, training)
    found = template.row_alone(row(PROMPT, COMPLETION))
    alone = found.without_prompt()
    assert alone is not None and alone.ids == [*found.opening, *found.segment.targets]
    assert alone.targets == found.segment.targets[name in NO_OPENING :]
    opening = own.decode(found.opening)
    assert PROMPT not in opening and COMPLETION in own.decode(found.segment.targets)
    assert (opening == "") == (name in NO_OPENING)
    several = template.row_alone(row(PROMPT, COMPLETION, PROMPT, COMPLETION)).without_prompt()
    assert (several is None) == (training is not None)  # all that the assistant says is scored: prompts are between


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (RowAlone(Segment([1, 5, 6, 7], 2), [1]), Segment([1, 6, 7], 1)),
        (RowAlone(Segment([1, 6, 7], 1), [1]), None),  # BOS alone is no prompt
        (RowAlone(Segment([6, 7], 1), []), None),
        (RowAlone(Segment([4, 5, 6, 7], 2), []), Segment([6, 7], 1)),  # the first token has no context
        (RowAlone(Segment([4, 5, 6], 2), []), None),
        (RowAlone(Segment([1, 4, 5, 6, 7], 2, (2, 4)), [1]), None),  # two turns
        (RowAlone(Segment([1, 4, 5, 6, 7], 2, (2, 3)), [1]), Segment([1, 5, 6], 1)),
    ],
)
def test_rows_without_prompt_or_of_several_turns_have_no_completion_alone(found, expected):
    assert found.without_prompt() == expected
