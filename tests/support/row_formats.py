"""The same question and answer in the row formats of TRL."""

from __future__ import annotations


def messages(question: str, answer: str, **more: object) -> list[dict[str, object]]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer, **more}]


def as_messages(pair):
    return {"messages": messages(*pair)}


def as_sharegpt(pair):
    return {"conversations": [{"from": m["role"], "value": m["content"]} for m in messages(*pair)]}


def as_text_parts(pair):
    return {"prompt": pair[0] + "\n", "completion": pair[1]}


def as_text(pair):
    return {"text": f"{pair[0]}\n{pair[1]}"}
