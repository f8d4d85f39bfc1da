"""The option `columns`: one form on the command line, in YAML and in Python, and errors that say what to write."""

from __future__ import annotations

import pytest

from nuggets_trainer import NuggetsConfig
from nuggets_trainer.commands.arguments import parse_arguments
from nuggets_trainer.commands.parser import make_parser

WORDS = ["messages=turns", "role=who", "role.user=customer,client", "system=the rules"]


def parse(*argv: str) -> NuggetsConfig:
    return parse_arguments(make_parser([NuggetsConfig], "nuggets score", ""), argv)[0]


def test_all_forms_give_one_mapping(tmp_path):
    yaml_mapping, yaml_words = tmp_path / "mapping.yaml", tmp_path / "words.yaml"
    yaml_mapping.write_text(
        "columns:\n  messages: turns\n  role: who\n  role.user: [customer, client]\n  system: the rules\n"
    )
    yaml_words.write_text("columns: messages=turns role=who role.user=customer,client 'system=the rules'\n")
    python = {"messages": "turns", "role": "who", "role.user": ["customer", "client"], "system": "the rules"}
    configs = [
        parse("--columns", *WORDS, "--top_k", "3"),
        parse("--config", str(yaml_mapping)),
        parse("--config", str(yaml_words)),
        NuggetsConfig(columns=python),
        NuggetsConfig(columns=WORDS),
    ]
    first = configs[0].column_mapping
    assert first.columns == {"messages": "turns", "system": "the rules"} and first.format == "messages"
    assert first.keys == {"who": "role"} and first.roles == {"customer": "user", "client": "user"}
    assert all(config.column_mapping == first for config in configs)
    assert NuggetsConfig().column_mapping is None
    assert NuggetsConfig(columns="role.user=user,client").column_mapping.roles == {"user": "user", "client": "user"}


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ("prompt=a messages=b", "several formats.*`prompt` and `completion` or `messages`"),
        ("prmpt=a", "must map to prompt, .*got 'prmpt'. Did you mean `prompt`"),
        (["prompt"], "got 'prompt', which has no `=`"),
        ("text=a role=b", "no messages"),
        ({"prompt": ""}, "a column for `prompt`, got nothing"),
        ("prompt=a prompt=b", "`prompt` twice"),
        ([], "is empty"),
        ("prompt=completion completion=prompt", "takes `prompt` from the column 'completion', and gives"),
        (
            "role.user=assistant role.assistant=user",
            "reads the role 'assistant' as 'user', and another role as 'assist",
        ),
        ("role.user=bot role.assistant=user", "reads the role 'user' as 'assistant', and another role as 'user'"),
        ("role=content content=role", "reads the key 'content' as 'role', and another key as 'content'"),
    ],
)
def test_what_cannot_be_mapped_is_refused(columns, message):
    with pytest.raises(ValueError, match=message):
        NuggetsConfig(columns=columns)


def test_another_type_is_refused():
    with pytest.raises(TypeError, match="words such as `prompt=question completion=answer`, or a mapping, got 3"):
        NuggetsConfig(columns=3)
