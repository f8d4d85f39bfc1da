"""Every template writes the tokens that an independent oracle writes; `auto` chooses one by the rows."""

from __future__ import annotations

import pytest
from datasets import Dataset

from nuggets_trainer.data.pool import Pool
from nuggets_trainer.data.read_row import read_row
from nuggets_trainer.data.row import Row, UnusableRowError
from nuggets_trainer.prompts import templates
from nuggets_trainer.prompts.chat import ChatTemplate
from nuggets_trainer.prompts.templates import make_template, resolve_alpaca_template, resolve_pool_template
from tests.support.oracle import render
from tests.support.renderings import POOLS, ROWS, SETUPS, TEMPLATES, alpaca, asked, pool_of


@pytest.mark.parametrize(("name", "template_name"), SETUPS)
def test_both_shots_are_what_the_oracle_writes(name, template_name, loaded):
    tokenizer = loaded(name)
    template = TEMPLATES[template_name](tokenizer)
    contexts = set()
    for anchor in ROWS:
        context, completion = render(tokenizer, template_name, anchor, None)
        zero = template.zero_shot(alpaca(anchor))
        assert (zero.ids, zero.start) == ([*context, *completion], len(context))
        for candidate in ROWS:
            context, completion = render(tokenizer, template_name, anchor, candidate)
            one = template.one_shot(alpaca(candidate), alpaca(anchor))
            assert (one.ids, one.start) == ([*context, *completion], len(context))
            contexts.add(tuple(context))
    assert len(contexts) == len(ROWS) ** 2  # each candidate is seen before each anchor


@pytest.mark.parametrize(("name", "template_name"), SETUPS)
def test_both_shots_score_the_same_tokens(name, template_name, loaded):
    template = TEMPLATES[template_name](loaded(name))
    for anchor in map(alpaca, ROWS):
        zero = template.zero_shot(anchor)
        for candidate in map(alpaca, ROWS):
            one = template.one_shot(candidate, anchor)
            assert one.ids[one.start :] == zero.ids[zero.start :]
            assert one.start > zero.start >= 1
            assert one.num_completion_tokens == zero.num_completion_tokens >= 1


@pytest.mark.parametrize(("name", "template_name"), SETUPS)
def test_the_texts_can_be_read_back_from_the_tokens(name, template_name, loaded):
    tokenizer = loaded(name)
    segment = TEMPLATES[template_name](tokenizer).one_shot(alpaca(ROWS[1]), alpaca(ROWS[5]))
    text = tokenizer.decode(segment.ids)
    assert "42" in tokenizer.decode(segment.ids[segment.start :])
    for word in ROWS[1]["instruction"].strip("?").split():
        assert word in text


@pytest.mark.parametrize("template_name", ["chat", "plain", "nuggets"])
def test_a_message_without_content_is_rendered_or_dropped(template_name, loaded):
    """A tool call has null content, and Arrow's null keys are dropped: such a message has no `content` at all."""
    turns = [
        {"role": "user", "content": "Say red?"},
        {"role": "assistant", "content": None, "name": "tool"},
        {"role": "user", "content": "blue?"},
        {"role": "assistant", "content": "one"},
    ]
    row = read_row({"messages": turns}, "messages")
    template = TEMPLATES[template_name](loaded("demo"))
    try:
        assert template.zero_shot(row).num_completion_tokens > 0
        assert template.one_shot(row, row).num_completion_tokens > 0
    except UnusableRowError as error:
        assert str(error) == "not_tokenizable"


@pytest.mark.parametrize("template_name", ["chat", "plain", "nuggets"])
@pytest.mark.parametrize("part", ["prompt", "completion"])
def test_text_that_the_tokenizer_refuses_is_dropped(template_name, part, loaded):
    row = Row(**{"prompt": "Say red?", "completion": "one", part: "lone surrogate \ud800"})
    with pytest.raises(UnusableRowError, match="^not_tokenizable$"):
        TEMPLATES[template_name](loaded("demo")).zero_shot(row)


def test_parts_are_rendered_like_their_text(loaded):
    tokenizer = loaded("demo")
    parts = [{"type": "text", "text": "Say "}, {"type": "text", "text": "red?"}]
    row, text = asked("Say red?"), asked(parts)
    for name in ("plain", "nuggets"):
        template = TEMPLATES[name](tokenizer)
        assert template.one_shot(text, text) == template.one_shot(row, row)
    tokenizer.chat_template = (
        "{% for m in messages %}<|{{ m.role }}|>{% if m.content is string %}{{ m.content }}{% else %}"
        "{% for part in m.content %}{{ part.text }}{% endfor %}{% endif %}{% endfor %}"
    )
    template = ChatTemplate(tokenizer)
    assert template.one_shot(text, text) == template.one_shot(row, row)


@pytest.mark.parametrize("template_name", ["plain", "nuggets"])
def test_an_eos_at_a_candidates_end_is_not_shown(template_name, loaded):
    """TRL writes EOS into the text of prepared rows: a candidate then told the model that nothing follows."""
    tokenizer = loaded("demo")
    template = TEMPLATES[template_name](tokenizer)
    eos, anchor = tokenizer.eos_token, Row("Say?", "one")
    closed, bare = (Row("Say red?", f" blue{end}") for end in (eos, ""))
    assert template.one_shot(closed, anchor) == template.one_shot(bare, anchor)
    assert template.one_shot(closed, anchor).ids.count(tokenizer.eos_token_id) == int(template_name == "plain")
    assert template.zero_shot(closed).targets[-1] == tokenizer.eos_token_id
    inside = template.one_shot(Row("Say red?", f"blue{eos} one"), anchor)
    assert tokenizer.eos_token_id in inside.ids[:-1]  # only the end is TRL's


@pytest.mark.parametrize("template_name", ["plain", "nuggets"])
def test_a_tool_call_alone_has_no_text(template_name, loaded):
    template = TEMPLATES[template_name](loaded("demo"))
    call = Row(
        [{"role": "user", "content": "a"}], [{"role": "assistant", "tool_calls": [{"function": {"name": "f"}}]}]
    )
    with pytest.raises(UnusableRowError, match="^empty_completion$"):
        template.zero_shot(call)
    with pytest.raises(UnusableRowError, match="^empty_completion$"):
        template.one_shot(call, asked("b"))


@pytest.mark.parametrize(
    ("pool_name", "has_chat_template", "expected"),
    [
        ("alpaca", True, "chat"),
        ("alpaca", False, "plain"),
        ("text", True, "plain"),  # TRL trains on that text without the chat template
        ("text", False, "plain"),
        ("messages", True, "chat"),
        ("messages", False, "plain"),
        ("message lists", True, "chat"),
        ("message lists", False, "plain"),
        ("sharegpt", True, "chat"),
        ("sharegpt", False, "plain"),
        ("text alone", True, "plain"),
        ("tokenized", True, "tokens"),
        ("tokenized", False, "tokens"),
    ],
)
def test_auto_is_chat_if_tokenizer_and_rows_allow_it(pool_name, has_chat_template, expected, loaded):
    pool = Pool(Dataset.from_list(POOLS[pool_name]))
    assert resolve_pool_template("auto", pool, has_chat_template) == expected
    if pool_name == "alpaca":
        assert resolve_alpaca_template("auto", has_chat_template) == expected
    for name in TEMPLATES:
        assert resolve_pool_template(name, pool, has_chat_template) == name
    tokenizer = loaded("demo")
    tokenizer.chat_template = tokenizer.chat_template if has_chat_template else None
    assert make_template("auto", tokenizer, pool).name == expected


def test_messages_without_a_chat_template_are_told_once(loaded, caplog):
    caplog.set_level("INFO")
    tokenizer = loaded("demo")
    tokenizer.chat_template = None
    templates._log_no_chat_template.cache_clear()
    make_template("auto", tokenizer, pool_of("alpaca"))
    make_template("plain", tokenizer, pool_of("messages"))  # the user asked for it
    assert not caplog.records
    for _ in range(2):
        make_template("auto", tokenizer, pool_of("messages"))
    assert caplog.text.count("has messages, but the tokenizer has no chat template: they are scored under") == 1


@pytest.mark.parametrize("template_name", list(TEMPLATES))
def test_the_fingerprint_has_the_templates_name(template_name, loaded):
    template = make_template(template_name, loaded("demo"), Pool(Dataset.from_list(POOLS["alpaca"])))
    assert isinstance(template, TEMPLATES[template_name])
    assert template.describe()["template"] == template.name == template_name


@pytest.mark.parametrize(("template_name", "stands_for"), [("chat", ""), ("nuggets", ""), ("auto", "`auto` stands")])
def test_text_alone_is_refused_if_a_prompt_is_needed(template_name, stands_for, loaded):
    with pytest.raises(ValueError, match=rf"{stands_for}.*but `anchors` has rows of text alone.*template='plain'"):
        make_template(template_name, loaded("demo"), pool_of("messages"), pool_of("text alone", "anchors"))
    if template_name != "auto":
        with pytest.raises(ValueError, match="`train_dataset` has rows of text alone.*`response_field`"):
            make_template(template_name, loaded("demo"), pool_of("text alone"))


def test_a_formatting_func_may_need_a_response_field(loaded):
    rows = Dataset.from_list([{"q": "a", "a": "b"}])
    split, whole = (Pool(rows, "pool", lambda row: row["q"] + row["a"], field) for field in ("a", None))
    for pool in (split, whole):
        assert make_template("auto", loaded("demo"), pool).name == "plain"
    assert make_template("nuggets", loaded("demo"), split).name == "nuggets"
    with pytest.raises(ValueError, match="`pool` has rows of text alone"):
        make_template("nuggets", loaded("demo"), whole)
