"""Files of rows as people have them: odd names, wrappers, compressions, encodings and nested texts."""

from __future__ import annotations

import gzip
import json
import lzma
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
from datasets import Dataset, DatasetDict

PAIRS = [("Say red?", "red"), ("Name a cat.", "Tom, a cat."), ("One and two?", "three")]
ALPACA = [{"instruction": question, "input": "", "output": answer} for question, answer in PAIRS]
CALL = {"name": "weather", "arguments": {"city": "Oslo"}}
TOOLS = [{"type": "function", "function": {"name": "weather", "description": "Weather of a city."}}]
RULES = "Be brief."

Write = Callable[[Path], Path]


@dataclass(frozen=True)
class PeopleFile:
    """One file, or directory of files, and the options that it is read with.

    Attributes:
        name: name of the file, unique.
        what: what is special about it, for the table.
        write: function that writes it to a path.
        options: words of the command line that it needs.
        load: arguments of `load_rows`.
        template: name of the chat template of TRL to render with; None for that of the demo's tokenizer.
    """

    name: str
    what: str
    write: Callable[[Path], Any]
    options: dict[str, Any] = field(default_factory=dict)
    load: dict[str, Any] = field(default_factory=dict)
    template: str | None = None


def lines(*rows: Any, end: str = "\n", start: str = "") -> Callable[[Path], Any]:
    text = start + "".join(json.dumps(row, ensure_ascii=False) + end for row in rows)
    return lambda path: path.write_bytes(text.encode())


def text(content: str, encoding: str = "utf-8") -> Callable[[Path], Any]:
    return lambda path: path.write_bytes(content.encode(encoding))


def zstd(path: Path) -> None:
    with pa.output_stream(path, compression="zstd") as stream:
        stream.write("".join(json.dumps(row) + "\n" for row in ALPACA).encode())


def arrow(path: Path) -> None:
    table = pa.Table.from_pylist(ALPACA)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)


def conversation(question: str, answer: str, **options: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer, **options}]


def shards(path: Path) -> None:
    path.mkdir()
    for number, row in enumerate(ALPACA):
        lines(row)(path / f"train-{number:05}-of-{len(ALPACA):05}.jsonl")


def turns(*texts: str, role: str = "role", content: str = "content", roles=("user", "assistant")) -> list[dict]:
    return [{role: roles[number % 2], content: said} for number, said in enumerate(texts)]


SHAREGPT = {"role": "from", "content": "value", "roles": ("human", "gpt")}
FILES = [
    PeopleFile("alpaca.jsonl", "Alpaca's columns", lines(*ALPACA)),
    PeopleFile("array.json", "a JSON array over several lines", text(json.dumps(ALPACA, indent=2))),
    PeopleFile(
        "questions.jsonl",
        "columns with other names",
        lines(*({"id": i, "question": question, "answer": answer} for i, (question, answer) in enumerate(PAIRS))),
        {"columns": "instruction=question output=answer"},
    ),
    PeopleFile(
        "numbers.jsonl",
        "whole numbers as answers",
        lines({"question": "6 x 7?", "answer": 42}, {"question": "3 - 5?", "answer": -2}),
        {"columns": "instruction=question output=answer"},
    ),
    PeopleFile(
        "export.csv",
        "a CSV with line breaks, quotes and `007`",
        text('prompt,completion\nNumber? ,007\nWhat? ,NA\n"Say:\n""red""? ",red\n'),
    ),
    PeopleFile(
        "excel.csv",
        "a CSV as Excel writes it: `;`, byte order mark, CRLF",
        text("question;answer\r\nSay red?;red, and blue\r\nWhy?;so\r\n", "utf-8-sig"),
        {"columns": "instruction=question output=answer"},
    ),
    PeopleFile("table.tsv", "values with tabs between them", text("instruction\toutput\nSay red?\tred\nWhy?\tso\n")),
    PeopleFile("bom.jsonl", "a byte order mark", lines(*ALPACA, start="\ufeff")),
    PeopleFile("crlf.jsonl", "CRLF at the ends of lines, and empty lines", lines(*ALPACA, end="\r\n\r\n")),
    PeopleFile(
        "nulls.jsonl",
        "nulls, in an input and in an answer",
        lines({**ALPACA[0], "input": None}, {**ALPACA[1], "output": None}, {**ALPACA[2], "output": "  "}),
    ),
    PeopleFile(
        "packed.jsonl.gz",
        "compressed by gzip",
        lambda path: path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in ALPACA).encode())),
    ),
    PeopleFile("packed.jsonl.zst", "compressed by zstd", zstd),
    PeopleFile("shards", "a directory of shards", shards),
    PeopleFile(
        "saved",
        "`save_to_disk`, with splits",
        lambda path: DatasetDict(train=Dataset.from_list(ALPACA), test=Dataset.from_list(ALPACA[:1])).save_to_disk(
            path
        ),
    ),
    PeopleFile("stream.jsonl", "a stream", lines(*ALPACA), {"pool_size": 2}, {"streaming": True}),
    PeopleFile(
        "sharegpt.jsonl",
        "ShareGPT, with several turns and a system message",
        lines(
            {
                "id": "a",
                "conversations": [
                    {"from": "system", "value": RULES},
                    *turns("Red?", "Yes.", "Blue?", "No.", **SHAREGPT),
                ],
            },
            {"id": "b", "conversations": turns("Red?", "Yes.", "Blue?", **SHAREGPT)},
        ),
    ),
    PeopleFile(
        "system_column.jsonl",
        "ShareGPT with a column `system`",
        lines(
            {"system": RULES, "conversations": turns(*PAIRS[0], **SHAREGPT)},
            {"system": "", "conversations": turns(*PAIRS[1], **SHAREGPT)},
        ),
    ),
    PeopleFile(
        "tools.jsonl",
        "ShareGPT with calls, results and tools as JSON text",
        lines(
            {
                "tools": json.dumps(TOOLS),
                "conversations": [
                    {"from": "human", "value": "Rain in Oslo?"},
                    {"from": "function_call", "value": json.dumps(CALL)},
                    {"from": "observation", "value": "rain"},
                    {"from": "gpt", "value": "Yes."},
                ],
            },
            {"tools": "", "conversations": turns(*PAIRS[0], **SHAREGPT)},
        ),
        template="qwen2_5",
    ),
    PeopleFile(
        "openai.jsonl",
        "`messages` with `tool_calls`, as OpenAI has them",
        lines(
            {
                "messages": [
                    {"role": "user", "content": "Rain in Oslo?"},
                    {
                        "role": "assistant",
                        "content": None,
                        "tool_calls": [
                            {
                                "id": "1",
                                "type": "function",
                                "function": {**CALL, "arguments": json.dumps(CALL["arguments"])},
                            }
                        ],
                    },
                    {"role": "tool", "tool_call_id": "1", "content": "rain"},
                    {"role": "assistant", "content": "Yes."},
                ],
                "tools": TOOLS,
            }
        ),
        template="qwen2_5",
    ),
    PeopleFile(
        "json_text.jsonl",
        "`messages` as JSON text",
        lines(*({"messages": json.dumps(turns(*pair))} for pair in PAIRS)),
    ),
    PeopleFile(
        "json_text.csv",
        "`conversations` as JSON text in a CSV",
        lambda path: pd.DataFrame({"conversations": [json.dumps(turns(*pair, **SHAREGPT)) for pair in PAIRS]}).to_csv(
            path, index=False
        ),
    ),
    PeopleFile(
        "dialogs.jsonl",
        "odd keys and roles inside messages, and a column with the rules",
        lines(
            *(
                {"rules": RULES, "turns": turns(*pair, role="speaker", content="says", roles=("customer", "agent"))}
                for pair in PAIRS
            )
        ),
        {"columns": "messages=turns role=speaker content=says role.user=customer role.assistant=agent system=rules"},
    ),
    PeopleFile(
        "capitals.jsonl",
        "roles in capital letters: `User`, `Assistant`",
        lines(*({"messages": turns(*pair, roles=("User", "Assistant"))} for pair in PAIRS)),
        {"columns": "role.user=User role.assistant=Assistant"},
    ),
    PeopleFile(
        "prompt_messages.jsonl",
        "`prompt` and `completion` as lists of messages",
        lines(*({"prompt": turns(*pair)[:1], "completion": turns(*pair)[1:]} for pair in PAIRS)),
    ),
    PeopleFile(
        "half_messages.jsonl",
        "`prompt` as messages, `completion` as text",
        lines(*({"prompt": turns(*pair)[:1], "completion": pair[1]} for pair in PAIRS)),
    ),
    PeopleFile(
        "pairs.jsonl",
        "`prompt` and `completion` as text",
        lines(*({"prompt": q + "\n", "completion": a} for q, a in PAIRS)),
    ),
    PeopleFile(
        "text.parquet",
        "texts alone",
        lambda path: Dataset.from_list([{"text": f"{q} {a}"} for q, a in PAIRS]).to_parquet(path),
    ),
    PeopleFile("raw.txt", "a text file, one text a line", text("Say red? red\nName a cat. Tom\n")),
    PeopleFile(
        "history.jsonl",
        "LLaMA-Factory's `system` and `history`",
        lines({**ALPACA[0], "system": RULES, "history": [["Hi?", "Hi."]]}, {**ALPACA[1], "system": "", "history": []}),
    ),
    PeopleFile(
        "long.jsonl", "a row of 100,000 characters", lines(ALPACA[0], {**ALPACA[1], "output": "red " * 25_000})
    ),
    PeopleFile(
        "tokens.parquet",
        "token ids with labels",
        lambda path: Dataset.from_list([{"input_ids": [1, 40, 50, 60], "labels": [-100, -100, 50, 60]}]).to_parquet(
            path
        ),
    ),
    PeopleFile(
        "stanford.jsonl",
        "Alpaca's columns and a column `text`",
        lines(*({**row, "text": f"Q: {row['instruction']} A: {row['output']}"} for row in ALPACA)),
        {"columns": "instruction=instruction output=output"},
    ),
    PeopleFile(
        "categories.parquet",
        "texts as pandas' categories",
        lambda path: pd.DataFrame(ALPACA).astype("category").to_parquet(path),
    ),
    PeopleFile(
        "ragged.jsonl",
        "extra columns that differ from row to row",
        lines(
            {**ALPACA[0], "meta": {"a": 1}},
            {**ALPACA[1], "meta": {"b": [2]}, "score": 0.5},
            {**ALPACA[2], "meta": "x"},
        ),
    ),
    PeopleFile("wrapped.json", "an array inside an object", text(json.dumps({"version": 1, "data": ALPACA}))),
    PeopleFile("latin.jsonl", "Latin-1", text('{"instruction": "Grün?", "output": "ja"}\n', "latin-1")),
    PeopleFile(
        "preference.jsonl",
        "`prompt`, `chosen` and `rejected`",
        lines(*({"prompt": q, "chosen": a, "rejected": "no"} for q, a in PAIRS)),
        {"columns": "instruction=prompt output=chosen"},
    ),
    PeopleFile(
        "weights.jsonl",
        "OpenAI's `weight` in messages, which is not read",
        lines({"messages": [*conversation("Say red?", "blue", weight=0), *conversation("No.", "red", weight=1)]}),
    ),
    PeopleFile(
        "older_calls.jsonl",
        "OpenAI's older `function_call`",
        lines(
            {
                "messages": [
                    {"role": "user", "content": "Rain?"},
                    {"role": "assistant", "content": "", "function_call": CALL},
                ]
            },
            {"messages": conversation("Say red?", "red")},
        ),
        template="qwen2_5",
    ),
    PeopleFile(
        "history_null.json",
        "Alpaca's columns, with null for `system` and `history`",
        text(json.dumps([{**row, "system": None, "history": None} for row in ALPACA], indent=1)),
    ),
    PeopleFile(
        "conversations_chosen.jsonl",
        "whole conversations in `chosen` and `rejected`",
        lines(*({"chosen": conversation(q, a), "rejected": conversation(q, "no")} for q, a in PAIRS)),
        {"columns": "messages=chosen"},
    ),
    PeopleFile(
        "greeting.jsonl",
        "ShareGPT that begins with an answer",
        lines(
            {
                "conversations": [
                    {"from": "gpt", "value": "Hello."},
                    {"from": "human", "value": "Say red?"},
                    {"from": "gpt", "value": "red"},
                ]
            }
        ),
    ),
    PeopleFile(
        "parts.jsonl",
        "contents as lists of text parts",
        lines(
            *(
                {"messages": conversation([{"type": "text", "text": q}], [{"type": "text", "text": a}])}
                for q, a in PAIRS
            )
        ),
    ),
    PeopleFile("cached.arrow", "an Arrow file, as datasets keeps in its cache", arrow),
    PeopleFile(
        "kto.jsonl", "KTO's `label`", lines(*({"prompt": q + "\n", "completion": a, "label": True} for q, a in PAIRS))
    ),
    PeopleFile(
        "packed.jsonl.xz",
        "compressed by xz",
        lambda path: path.write_bytes(lzma.compress("".join(json.dumps(row) + "\n" for row in ALPACA).encode())),
    ),
    PeopleFile("unicode.csv", "Excel's Unicode text", text("instruction\toutput\r\nSay red?\tred\r\n", "utf-16")),
    PeopleFile("header.csv", "a header without rows", text("instruction,output\n")),
    PeopleFile("nothing.jsonl", "no rows", text("")),
]
