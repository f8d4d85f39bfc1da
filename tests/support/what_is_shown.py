"""What chat templates show of a candidate's turns, as tables: `python -m tests.support.what_is_shown`."""

from __future__ import annotations

from typing import Any

from transformers import AutoTokenizer

from nuggets_trainer.data.row import Row, UnusableRowError
from nuggets_trainer.demo import demo_path
from nuggets_trainer.prompts.chat import ChatTemplate
from nuggets_trainer.prompts.segment import Remark
from tests.support.launch import SHARED
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
TOKENIZERS = ("minimind", "mistral-v3")
ANCHOR = Row([{"role": "user", "content": "blue?"}], [_answer("day night")])
SAYS = {
    Remark.REASONING_LEFT_OUT: "left out",
    Remark.SYSTEM_LEFT_OUT: "left out",
    Remark.AS_TRAINED: "as trained",
    Remark.PARTS_JOINED: "as text",
}


def table() -> list[str]:
    """Return the lines of the table of TRL's templates, in Markdown."""
    lines = _head()
    for name, source in SOURCES.items():
        lines.append(_line(name, _demo_tokenizer(source), source if name.endswith("_training") else None))
    return lines


def table_of_tokenizers() -> list[str]:
    """Return the lines of the table of real tokenizers with their own templates; they lie beside the project."""
    lines = _head()
    for name in TOKENIZERS:
        lines.append(_line(name, AutoTokenizer.from_pretrained(SHARED / "tokenizers" / name), None))
    return lines


def _head() -> list[str]:
    heads = ["template", *FORMATS, "scored of an answer `day night`"]
    return [f"| {' | '.join(heads)} |", f"|{' --- |' * len(heads)}"]


def _demo_tokenizer(source: str) -> Any:
    tokenizer = AutoTokenizer.from_pretrained(demo_path("model"))
    tokenizer.chat_template = source
    return tokenizer


def _line(name: str, tokenizer: Any, training_template: str | None) -> str:
    template = ChatTemplate(tokenizer, training_template)
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
    print("\n".join([*table_of_tokenizers(), "", *table()]))
