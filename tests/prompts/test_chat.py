"""The template `chat` renders candidate and anchor as one conversation, as TRL renders it."""

from __future__ import annotations

from importlib.resources import files

import pytest

from nuggets_trainer.data.row import Row, UnusableRowError
from nuggets_trainer.prompts.chat import ChatTemplate
from tests.support.renderings import CONVERSATION, ROWS, alpaca, asked


@pytest.mark.parametrize("name", ["demo", "models/tiny-llama-icl", "tokenizers/mistral-v3"])
def test_bos_stands_once_though_two_write_it(name, loaded):
    tokenizer = loaded(name)
    template = ChatTemplate(tokenizer)
    for segment in (template.zero_shot(alpaca(ROWS[5])), template.one_shot(alpaca(ROWS[1]), alpaca(ROWS[5]))):
        assert segment.ids[0] == tokenizer.bos_token_id
        assert segment.ids.count(tokenizer.bos_token_id) == 1


@pytest.mark.parametrize("name", ["demo", "models/tiny-llama-icl", "tokenizers/minimind", "tokenizers/mistral-v3"])
def test_all_turns_of_the_candidate_come_first(name, loaded):
    tokenizer = loaded(name)
    candidate = Row([{"role": "user", "content": "blue?"}], [{"role": "assistant", "content": "day"}])
    turns = [*candidate.prompt, *candidate.completion, *CONVERSATION.prompt, *CONVERSATION.completion]
    text = tokenizer.apply_chat_template(turns, tokenize=False)
    one = ChatTemplate(tokenizer).one_shot(candidate, CONVERSATION)
    assert one.ids == tokenizer(text, add_special_tokens=False)["input_ids"]
    assert one.num_completion_tokens < len(one.ids) / 2  # the last answer alone


def test_text_becomes_one_turn_each(loaded):
    template = ChatTemplate(loaded("demo"))
    turns = Row([{"role": "user", "content": "Say red?"}], [{"role": "assistant", "content": "one"}])
    assert template.zero_shot(Row("Say red?", "one")) == template.zero_shot(turns)


@pytest.mark.parametrize(("shown", "own", "expected"), [("s1", "s2", "s2"), ("s1", None, "s1"), (None, "s2", "s2")])
def test_the_anchors_system_message_wins(shown, own, expected, loaded):
    tokenizer = loaded("demo")

    def row(system: str | None, user: str) -> Row:
        head = [] if system is None else [{"role": "system", "content": system}]
        return Row([*head, {"role": "user", "content": user}], [{"role": "assistant", "content": "one"}])

    texts = [("system", expected), ("user", "a"), ("assistant", "one"), ("user", "b"), ("assistant", "one")]
    turns = [{"role": role, "content": text} for role, text in texts]
    joint = tokenizer.apply_chat_template(turns, tokenize=False)
    found = ChatTemplate(tokenizer).one_shot(row(shown, "a"), row(own, "b"))
    assert found.ids == tokenizer(joint, add_special_tokens=False)["input_ids"]


# gpt-oss reads the first message alone, be it of the system or the developer
FIRST_ALONE = (
    "{% set first = messages[0] %}{% set head = first.role in ['system', 'developer'] %}"
    "{% if head %}<|system|> {{ first.content }}{% endif %}{% for m in (messages[1:] if head else messages) %}"
    "<|{{ m.role }}|> {{ m.content }}{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


@pytest.mark.parametrize("owner", ["candidate", "anchor", "both"])
def test_a_developer_message_counts_as_system_message(owner, loaded):
    """It stayed where it was, behind the candidate's turns, and was not shown by such a template at all."""
    tokenizer = loaded("demo")
    tokenizer.chat_template = FIRST_ALONE
    template, found = ChatTemplate(tokenizer), []
    for role in ("system", "developer"):
        head = [{"role": role, "content": "north"}]
        turns = [{"role": "user", "content": "Say?"}], [{"role": "assistant", "content": "one"}]
        with_head, bare = Row([*head, *turns[0]], turns[1]), Row(*turns)
        candidate = with_head if owner != "anchor" else bare
        anchor = with_head if owner != "candidate" else bare
        found.append(template.one_shot(candidate, anchor))
    assert found[0] == found[1]
    assert tokenizer.decode(found[0].ids).count("north") == 1


TOOLS = [{"type": "function", "function": {"name": "look"}}]


@pytest.mark.parametrize(
    ("shown", "own", "expected"),
    [
        ({}, {"tools": TOOLS}, {"tools": TOOLS}),
        ({"tools": TOOLS}, {}, {"tools": TOOLS}),
        ({"tools": TOOLS}, {"tools": []}, {"tools": TOOLS}),
        ({"tools": []}, {}, {"tools": None}),
        ({"tools": TOOLS}, {"tools": [{"name": "x"}]}, {"tools": [{"name": "x"}]}),
        ({"template_kwargs": {"style": "a"}}, {}, {"style": "a"}),
        ({"template_kwargs": {"style": "a"}}, {"template_kwargs": {"tone": "b"}}, {"tone": "b"}),
        (
            {"tools": TOOLS, "template_kwargs": {"style": "a"}},
            {"template_kwargs": {"style": "b"}},
            {"tools": TOOLS, "style": "b"},
        ),
    ],
)
def test_the_anchors_tools_and_options_win(shown, own, expected, loaded):
    tokenizer = loaded("demo")
    tokenizer.chat_template = "{{ [tools, style, tone] }}" + tokenizer.chat_template
    template = ChatTemplate(tokenizer)
    turns = [*asked("a").prompt, *asked("a").completion, *asked("b").prompt, *asked("b").completion]
    joint = tokenizer.apply_chat_template(turns, tokenize=False, **expected)
    one = template.one_shot(asked("a", **shown), asked("b", **own))
    assert one.ids == tokenizer(joint, add_special_tokens=False)["input_ids"]
    assert one.targets == template.zero_shot(asked("b", **own)).targets


def test_the_candidates_options_keep_the_scored_tokens(loaded):
    """With thinking switched off a generation prompt ends behind the empty block, with it on before it."""
    tokenizer = loaded("demo")
    path = files("trl").joinpath("chat_templates", "qwen3.jinja")
    tokenizer.chat_template = path.read_text(encoding="utf-8")
    template = ChatTemplate(tokenizer)
    quiet = {"template_kwargs": {"enable_thinking": False}}
    assert len(template.zero_shot(asked("b")).targets) > len(template.zero_shot(asked("b", **quiet)).targets)
    one = template.one_shot(asked("a", **quiet), asked("b"))
    assert one.targets == template.zero_shot(asked("b")).targets


@pytest.mark.parametrize("name", ["messages", "tokenize", "self", "conversation"])
def test_options_that_cannot_be_passed_drop_the_row(name, loaded):
    """TRL passes them on as keyword arguments, some of which are taken: one bad row would stop the run."""
    with pytest.raises(UnusableRowError, match="^not_tokenizable$"):
        ChatTemplate(loaded("demo")).zero_shot(asked("a", template_kwargs={name: "x"}))


def test_a_conversation_that_is_refused_is_dropped(loaded):
    tokenizer = loaded("demo")
    tokenizer.chat_template = (
        "{% for m in messages %}{% if m.content == 'bad' %}{{ raise_exception('no') }}{% endif %}"
        "{{ m.content }} {% endfor %}"
    )
    template = ChatTemplate(tokenizer)
    assert template.zero_shot(Row("Say red?", "one")).num_completion_tokens > 0
    with pytest.raises(UnusableRowError, match="^not_tokenizable$"):
        template.zero_shot(Row("bad", "one"))


def test_a_missing_answer_is_an_empty_completion(loaded):
    tokenizer = loaded("demo")
    tokenizer.chat_template = "{% for m in messages %}{% if m.role == 'user' %}{{ m.content }} {% endif %}{% endfor %}"
    with pytest.raises(UnusableRowError, match="^empty_completion$"):
        ChatTemplate(tokenizer).zero_shot(Row("Say red?", "one"))


def test_no_common_beginning_is_an_empty_prompt(loaded):
    tokenizer = loaded("demo")
    tokenizer.chat_template = "{% for m in messages|reverse %}{{ m.content }} {% endfor %}"
    with pytest.raises(UnusableRowError, match="^empty_prompt$"):
        ChatTemplate(tokenizer).zero_shot(Row("red", "one"))


def test_the_fingerprint_tells_jinja_texts_apart(loaded):
    tokenizer = loaded("demo")
    before = ChatTemplate(tokenizer).describe()
    tokenizer.chat_template += " "
    after = ChatTemplate(tokenizer).describe()
    assert before["chat_template_sha256"] != after["chat_template_sha256"]
