"""Rows, pools and tokenizers that templates are tested on."""

from __future__ import annotations

from datasets import Dataset

from nuggets_trainer.data.pool import Pool
from nuggets_trainer.data.read_row import read_row
from nuggets_trainer.data.row import Row
from nuggets_trainer.prompts.chat import ChatTemplate
from nuggets_trainer.prompts.nuggets import NuggetsTemplate
from nuggets_trainer.prompts.plain import PlainTemplate
from tests.support.rows import alpaca_rows

TEMPLATES = {"chat": ChatTemplate, "plain": PlainTemplate, "nuggets": NuggetsTemplate}
SETUPS = [
    ("demo", "chat"),
    ("demo", "plain"),
    ("demo", "nuggets"),
    ("demo without BOS", "plain"),
    ("models/tiny-llama-icl", "chat"),  # the tokenizer adds BOS by itself and the chat template writes it
    ("models/tiny-llama-icl", "plain"),
    ("models/tiny-llama-icl", "nuggets"),
    ("tokenizers/gpt2", "plain"),  # BOS and EOS are one token
    ("tokenizers/gpt2", "nuggets"),
    ("tokenizers/minimind", "chat"),  # writes an empty <think> block before every answer
    ("tokenizers/mistral-v3", "chat"),  # sentencepiece-like: spaces belong to tokens
]
ROWS = [
    *alpaca_rows(5, seed=3),
    {"instruction": "Sum: 12 + 30 = ?", "input": "", "output": "42"},
    {
        "instruction": "  Übersetze „naïve“\n\n",
        "input": "日本語 \U0001f600\n\tx",
        "output": "\n\n  ok\n\nsecond part \n",
    },
    {"instruction": "Write HTML", "input": "<b>", "output": "<|user|> not a turn: </b>\\n"},
]
# Earlier user turns end with a mark that depends on the last user message: nothing of a candidate can be shared.
BREAKING = (
    "{% set last = namespace(text='') %}"
    "{% for m in messages %}{% if m.role == 'user' %}{% set last.text = m.content %}{% endif %}{% endfor %}"
    "{% for m in messages %}<|{{ m.role }}|> {{ m.content }}"
    "{% if m.role == 'user' and not m.content == last.text %} before {{ last.text }}{% endif %}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|> {% endif %}"
)
CONVERSATION = Row(
    [
        {"role": "user", "content": "Say red?"},
        {"role": "assistant", "content": "one"},
        {"role": "user", "content": "two?"},
    ],
    [{"role": "assistant", "content": "three"}],
)
POOLS = {
    "text alone": [{"text": "a"}],
    "tokenized": [{"input_ids": [5, 6]}],
    "sharegpt": [{"conversations": [{"from": "user", "value": "a"}, {"from": "assistant", "value": "b"}]}],
    "alpaca": [{"instruction": "a", "output": "b"}],
    "text": [{"prompt": "a", "completion": "b"}],
    "messages": [{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}],
    "message lists": [
        {"prompt": [{"role": "user", "content": "a"}], "completion": [{"role": "assistant", "content": "b"}]}
    ],
}


def alpaca(row: dict[str, str]) -> Row:
    return read_row(row, "alpaca")


def asked(text: str, **fields: object) -> Row:
    return Row([{"role": "user", "content": text}], [{"role": "assistant", "content": "one"}], **fields)


def pool_of(name: str, called: str = "train_dataset") -> Pool:
    return Pool(Dataset.from_list(POOLS[name]), called)
