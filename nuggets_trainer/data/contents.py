"""Texts that nobody wants in a golden set: repeated prompts and completions, refusals, boilerplate.

Short lists of phrases, so that a reader can see what is counted. They are English, and they miss more than they find.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from nuggets_trainer.data.messages import calls_of
from nuggets_trainer.data.row import Row, joined_text

# How a refusal begins, in the first characters of a completion, in lower case.
REFUSALS = (
    "i'm sorry, but",
    "i am sorry, but",
    "i'm sorry, i",
    "sorry, but i",
    "i apologize, but",
    "i cannot",
    "i can't",
    "i can not",
    "i am not able to",
    "i'm not able to",
    "i am unable to",
    "i'm unable to",
    "i won't be able to",
    "i do not have the ability",
    "i don't have the ability",
    "unfortunately, i cannot",
    "unfortunately, i can't",
    "unfortunately, i am unable",
    "as an ai language model, i cannot",
    "as an ai language model, i can't",
    "as an ai, i cannot",
    "as an ai, i can't",
)
REFUSAL_WITHIN = 60  # characters: a refusal may follow a short greeting

# Phrases that stand in a completion whatever it is about, in lower case.
BOILERPLATE = (
    "as an ai language model",
    "as an artificial intelligence",
    "as a large language model",
    "i hope this helps",
    "let me know if you",
    "feel free to ask",
    "please provide more",
    "could you please provide",
    "lorem ipsum",
    "all rights reserved",
    "[insert ",
    "[your name]",
)
NUM_EXAMPLES = 5
SHORT = 40  # characters: answers such as "Yes." or a class are equal without being copies
KINDS = ("repeated_prompts", "repeated_completions", "refusals", "boilerplate")

Found = dict[str, Any]


def prompt_key(row: Row) -> str:
    """Return a text that is equal for two rows if they have the same prompt; "" for a row without a prompt.

    The prompt of a conversation is everything before its last turn, with the system message, tools and tool calls.
    Upper and lower case, runs of white space and curly apostrophes make no difference. The prompt of a row that is
    tokenized already is all tokens before its last run of scored ones.

    Example:
        >>> prompt_key(Row("Name a  COLOUR.", "Red.")) == prompt_key(Row("name a colour.", "Blue."))
        True
    """
    if row.tokens is not None:
        return _token_prompt(*row.tokens)
    text = joined_text(row.prompt)
    calls: list[Any] = []
    if isinstance(row.prompt, list):
        for message in row.prompt:
            calls += calls_of(message)
    if row.tools or calls:
        text += json.dumps([row.tools, calls], default=str, sort_keys=True)
    return _plain(text)


def _token_prompt(ids: tuple[int, ...], scored: tuple[int, ...]) -> str:
    """Write the token ids before the last run of scored tokens."""
    start = scored[-1]
    was_scored = set(scored)
    while start - 1 in was_scored:
        start -= 1
    if start == 1:  # the first token is never scored, so all tokens are the completion
        return ""
    return " ".join(map(str, ids[:start]))


def look_through(rows: Iterable[tuple[int, str, str]]) -> Found:
    """Count rows that repeat another one, refuse, or hold boilerplate.

    Args:
        rows: pool index, prompt (as `prompt_key` gives it, or its text) and completion of each row.

    Returns:
        `num_rows`, and for each of `repeated_prompts`, `repeated_completions`, `refusals` and `boilerplate` the number
        of rows (`num_rows`; of equal ones all but the first) and the first pool indices (`examples`).

    Example:
        >>> from nuggets_trainer.data.contents import look_through
        >>> found = look_through([(3, "Sing.", "I'm sorry, but no."), (7, "sing.", "La.")])
        >>> found["refusals"], found["repeated_prompts"]
        ({'num_rows': 1, 'examples': [3]}, {'num_rows': 1, 'examples': [7]})
    """
    places: dict[str, list[int]] = {name: [] for name in KINDS}
    prompts: set[str] = set()
    completions: set[str] = set()
    num_rows = 0
    for index, prompt, completion in rows:
        num_rows += 1
        said = _plain(completion)
        if _is_repeated(_plain(prompt), prompts):
            places["repeated_prompts"].append(index)
        if len(said) >= SHORT and _is_repeated(said, completions):
            places["repeated_completions"].append(index)
        if any(phrase in said[:REFUSAL_WITHIN] for phrase in REFUSALS):
            places["refusals"].append(index)
        if any(phrase in said for phrase in BOILERPLATE):
            places["boilerplate"].append(index)
    found: Found = {"num_rows": num_rows}
    for name, indices in places.items():
        found[name] = {"num_rows": len(indices), "examples": indices[:NUM_EXAMPLES]}
    return found


def _is_repeated(text: str, seen: set[str]) -> bool:
    """Whether a text was seen before; an empty one never was."""
    if not text or text in seen:
        return bool(text)
    seen.add(text)
    return False


def _plain(text: str) -> str:
    """Write a text in lower case, with single spaces and plain apostrophes."""
    return " ".join(text.lower().replace("\u2019", "'").split())
