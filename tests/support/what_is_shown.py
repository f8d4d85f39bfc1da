"""What each chat template of TRL shows of a candidate's turns, as a table: `python -m tests.support.what_is_shown`."""

from __future__ import annotations

from transformers import AutoTokenizer

from nuggets_trainer.data.row import Row, UnusableRowError
from nuggets_trainer.demo import demo_path
from nuggets_trainer.prompts.chat import ChatTemplate
from nuggets_trainer.prompts.segment import Remark
from tests.support.trl_templates import SOURCES

CALLS = [{"type": "function", "function": {"name": "weather", "arguments": {"city": "Oslo"}}}]
USER = {"role": "user", "content": "red?"}


def _answer(text: str, **fields: object) -> dict[str, object]:
    return {"role": "assistant", "content": text, **fields}


FORMATS = {
    "text": Row([USER], [_answer("two three")]),
    "system": Row([{"role": "system", "content": "north"}, USER], [_answer("two three")]),
    "parts": Row(
        [{"role": "user", "content": [{"type": "text", "text": "red?"}]}],
        [{"role": "assistant", "content": [{"type": "text", "text": "two three"}]}],
    ),
    "`<think>`": Row([USER], [_answer("<think>\nsun\n</think>\n\ntwo three")]),
    "`reasoning_content`": Row([USER], [_answer("two three", reasoning_content="sun")]),
    "call": Row([USER], [_answer("", tool_calls=CALLS)]),
    "call and result": Row(
        [USER, _answer("", tool_calls=CALLS), {"role": "tool", "name": "weather", "content": "rain"}],
        [_answer("two three")],
    ),
}
ANCHOR = Row([{"role": "user", "content": "blue?"}], [_answer("day night")])
SAYS = {
    Remark.REASONING_LEFT_OUT: "left out",
    Remark.SYSTEM_LEFT_OUT: "left out",
    Remark.AS_TRAINED: "as trained",
    Remark.PARTS_JOINED: "as text",
}


def table() -> list[str]:
    """Return the lines of the table, in Markdown."""
    heads = ["template", *FORMATS, "scored of an answer `day night`"]
    lines = [f"| {' | '.join(heads)} |", f"|{' --- |' * len(heads)}"]
    for name, source in SOURCES.items():
        lines.append(_line(name, source))
    return lines


def _line(name: str, source: str) -> str:
    tokenizer = AutoTokenizer.from_pretrained(demo_path("model"))
    tokenizer.chat_template = source
    template = ChatTemplate(tokenizer, source if name.endswith("_training") else None)
    cells = [_cell(template, row) for row in FORMATS.values()]
    scored = tokenizer.decode(template.zero_shot(ANCHOR).targets).replace("\n", "⏎").replace("|", "\\|")
    return f"| {' | '.join([name, *cells, f'`{scored}`'])} |"


def _cell(template: ChatTemplate, row: Row) -> str:
    try:
        segment = template.one_shot(row, ANCHOR)
    except UnusableRowError as error:
        return {"not_shown": "dropped", "not_tokenizable": "refused"}[str(error)]
    return ", ".join(sorted(SAYS[remark] for remark in segment.remarks)) or "shown"


if __name__ == "__main__":
    print("\n".join(table()))
