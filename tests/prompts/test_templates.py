"""What is scored is, token by token, what DESIGN says; and the completion is the same in both shots."""

from __future__ import annotations

import copy
import functools
import logging
from importlib.resources import files

import pytest
from datasets import Dataset
from tokenizers import Tokenizer
from tokenizers.models import BPE, WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from nuggets_trainer.data.pool import Pool
from nuggets_trainer.data.read_row import read_row
from nuggets_trainer.data.row import Row, UnusableRowError
from nuggets_trainer.prompts import pretokenized
from nuggets_trainer.prompts.chat import ChatTemplate
from nuggets_trainer.prompts.nuggets import NUGGETS_MAX_ANCHOR_TOKENS, NuggetsTemplate
from nuggets_trainer.prompts.plain import PlainTemplate
from nuggets_trainer.prompts.pretokenized import TokensTemplate
from nuggets_trainer.prompts.segment import Segment
from nuggets_trainer.prompts.templates import make_template, resolve_alpaca_template, resolve_pool_template
from nuggets_trainer.prompts.trl_columns import train_columns
from tests.support.launch import SHARED
from tests.support.oracle import render
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


@functools.cache
def _load(path: str):
    return AutoTokenizer.from_pretrained(path)


@pytest.fixture()
def loaded(request, tokenizer):
    """Load a tokenizer by name: the demo's, or a real one beside the project."""

    def load(name: str):
        if name.startswith("demo"):
            found = copy.deepcopy(tokenizer)
            if name == "demo without BOS":
                found.bos_token = None
            return found
        request.getfixturevalue("shared")
        return _load(str(SHARED / name))

    return load


def alpaca(row: dict[str, str]) -> Row:
    return read_row(row, "alpaca")


# ---------------------------------------------------------------- against the oracle


@pytest.mark.parametrize(("name", "template_name"), SETUPS)
def test_both_shots_are_the_tokens_that_the_oracle_writes(name, template_name, loaded):
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
def test_the_completion_is_the_same_tokens_in_both_shots(name, template_name, loaded):
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


# ---------------------------------------------------------------- special tokens


@pytest.mark.parametrize("name", ["demo", "models/tiny-llama-icl", "tokenizers/gpt2", "tokenizers/mistral-v3"])
def test_plain_has_bos_once_at_the_beginning_and_eos_once_at_the_end(name, loaded):
    tokenizer = loaded(name)
    template = PlainTemplate(tokenizer)
    zero = template.zero_shot(alpaca(ROWS[5]))
    one = template.one_shot(alpaca(ROWS[1]), alpaca(ROWS[5]))
    for ids in (zero.ids, one.ids):
        assert ids[0] == tokenizer.bos_token_id
        assert ids[-1] == tokenizer.eos_token_id
        assert not {tokenizer.bos_token_id, tokenizer.eos_token_id} & set(ids[1:-1])


def test_plain_without_a_bos_token_begins_with_the_prompt(loaded):
    with_bos, without = PlainTemplate(loaded("demo")), PlainTemplate(loaded("demo without BOS"))
    segment, bare = with_bos.zero_shot(alpaca(ROWS[5])), without.zero_shot(alpaca(ROWS[5]))
    assert (bare.ids, bare.start) == (segment.ids[1:], segment.start - 1)


@pytest.mark.parametrize("name", ["demo", "models/tiny-llama-icl", "tokenizers/gpt2"])
def test_plain_does_not_double_an_eos_that_the_completion_ends_with(name, loaded):
    tokenizer = loaded(name)
    template = PlainTemplate(tokenizer)
    closed = template.zero_shot(Row("Say red?", "one" + tokenizer.eos_token))
    assert closed == template.zero_shot(Row("Say red?", "one"))
    assert closed.ids[closed.start :].count(tokenizer.eos_token_id) == 1


@pytest.mark.parametrize("name", ["demo", "models/tiny-llama-icl", "tokenizers/mistral-v3"])
def test_chat_has_bos_once_though_tokenizer_and_template_both_write_it(name, loaded):
    tokenizer = loaded(name)
    template = ChatTemplate(tokenizer)
    for segment in (template.zero_shot(alpaca(ROWS[5])), template.one_shot(alpaca(ROWS[1]), alpaca(ROWS[5]))):
        assert segment.ids[0] == tokenizer.bos_token_id
        assert segment.ids.count(tokenizer.bos_token_id) == 1


@pytest.mark.parametrize("name", ["demo", "models/tiny-llama-icl"])
def test_nuggets_has_bos_in_the_one_shot_sequence_only_and_no_eos(name, loaded):
    tokenizer = loaded(name)
    template = NuggetsTemplate(tokenizer)
    zero, one = template.zero_shot(alpaca(ROWS[5])), template.one_shot(alpaca(ROWS[1]), alpaca(ROWS[5]))
    assert zero.ids.count(tokenizer.bos_token_id) == 0
    assert (one.ids[0], one.ids.count(tokenizer.bos_token_id)) == (tokenizer.bos_token_id, 1)
    assert tokenizer.eos_token_id not in zero.ids + one.ids


# ---------------------------------------------------------------- TRL's own columns, messages


def test_plain_puts_nothing_between_the_text_of_trls_columns(loaded):
    tokenizer = loaded("demo")
    template = PlainTemplate(tokenizer)
    pieces = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in ("Say red? ", "one")]
    segment = template.zero_shot(Row("Say red? ", "one"))
    assert segment.ids == [tokenizer.bos_token_id, *pieces[0], *pieces[1], tokenizer.eos_token_id]
    assert segment.ids != template.zero_shot(Row("Say red? ", "one", separator="\n\n")).ids


def test_plain_joins_messages_by_blank_lines(loaded):
    tokenizer = loaded("demo")
    turns = [{"role": "system", "content": "two"}, {"role": "user", "content": "Say red?"}]
    segment = PlainTemplate(tokenizer).zero_shot(Row(turns, [{"role": "assistant", "content": "one"}]))
    pieces = [
        tokenizer(text, add_special_tokens=False)["input_ids"] for text in ("two", "\n\n", "Say red?", "\n\n", "one")
    ]
    assert segment.ids == [
        tokenizer.bos_token_id,
        *(token for piece in pieces for token in piece),
        tokenizer.eos_token_id,
    ]
    assert segment.num_completion_tokens == len(pieces[-1]) + 1


CONVERSATION = Row(
    [
        {"role": "user", "content": "Say red?"},
        {"role": "assistant", "content": "one"},
        {"role": "user", "content": "two?"},
    ],
    [{"role": "assistant", "content": "three"}],
)


@pytest.mark.parametrize("name", ["demo", "models/tiny-llama-icl", "tokenizers/minimind", "tokenizers/mistral-v3"])
def test_chat_shows_all_turns_of_the_candidate_before_all_turns_of_the_anchor(name, loaded):
    tokenizer = loaded(name)
    candidate = Row([{"role": "user", "content": "blue?"}], [{"role": "assistant", "content": "day"}])
    turns = [*candidate.prompt, *candidate.completion, *CONVERSATION.prompt, *CONVERSATION.completion]
    text = tokenizer.apply_chat_template(turns, tokenize=False)
    one = ChatTemplate(tokenizer).one_shot(candidate, CONVERSATION)
    assert one.ids == tokenizer(text, add_special_tokens=False)["input_ids"]
    assert one.num_completion_tokens < len(one.ids) / 2  # the last answer alone


def test_chat_wraps_text_into_one_turn_each(loaded):
    template = ChatTemplate(loaded("demo"))
    turns = Row([{"role": "user", "content": "Say red?"}], [{"role": "assistant", "content": "one"}])
    assert template.zero_shot(Row("Say red?", "one")) == template.zero_shot(turns)


@pytest.mark.parametrize(("shown", "own", "expected"), [("s1", "s2", "s2"), ("s1", None, "s1"), (None, "s2", "s2")])
def test_chat_keeps_one_system_message_the_anchors_or_else_the_candidates(shown, own, expected, loaded):
    tokenizer = loaded("demo")

    def row(system: str | None, user: str) -> Row:
        head = [] if system is None else [{"role": "system", "content": system}]
        return Row([*head, {"role": "user", "content": user}], [{"role": "assistant", "content": "one"}])

    texts = [("system", expected), ("user", "a"), ("assistant", "one"), ("user", "b"), ("assistant", "one")]
    turns = [{"role": role, "content": text} for role, text in texts]
    joint = tokenizer.apply_chat_template(turns, tokenize=False)
    found = ChatTemplate(tokenizer).one_shot(row(shown, "a"), row(own, "b"))
    assert found.ids == tokenizer(joint, add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize("template_name", ["chat", "plain", "nuggets"])
def test_a_message_without_content_is_rendered_or_dropped_with_a_reason(template_name, loaded):
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
def test_text_that_the_tokenizer_refuses_is_dropped_as_not_tokenizable(template_name, part, loaded):
    row = Row(**{"prompt": "Say red?", "completion": "one", part: "lone surrogate \ud800"})
    with pytest.raises(UnusableRowError, match="^not_tokenizable$"):
        TEMPLATES[template_name](loaded("demo")).zero_shot(row)


def test_an_error_of_the_tokenizer_itself_drops_the_row():
    """A word-level tokenizer without an unknown token raises a plain `Exception` at a word that it does not know."""
    backend = Tokenizer(WordLevel({"red": 0, "one": 1, "</s>": 2}))
    backend.pre_tokenizer = Whitespace()
    template = PlainTemplate(PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>"))
    assert template.zero_shot(Row("red", "one")).ids == [0, 1, 2]
    with pytest.raises(UnusableRowError, match="^not_tokenizable$"):
        template.zero_shot(Row("red", "zebra"))


def test_a_completion_without_any_token_is_not_scored_on_its_eos_alone():
    """A BPE tokenizer without an unknown token gives nothing for letters that it does not know."""
    backend = Tokenizer(BPE({"r": 0, "o": 1, "</s>": 2}, []))
    template = PlainTemplate(PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>"))
    assert template.zero_shot(Row("r", "o")).ids == [0, 1, 2]
    with pytest.raises(UnusableRowError, match="^(not_tokenizable|empty_completion)$"):
        template.zero_shot(Row("r", "zzz"))


def test_a_nuggets_completion_that_merges_into_its_prompt_has_an_empty_span():
    """The span starts at the length of the prompt's own ids, and prompt + completion may have fewer."""
    letters = sorted({*"Instruction:\nRespoxyz"})
    vocabulary = {piece: i for i, piece in enumerate([*letters, "\nx", ":\nx", "e:\nx", "<s>"])}
    backend = Tokenizer(BPE(vocabulary, [("\n", "x"), (":", "\nx"), ("e", ":\nx")]))
    template = NuggetsTemplate(PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>"))
    ids, start = template._uncut(Row("n", "x"))
    assert len(ids) < start
    with pytest.raises(UnusableRowError, match="^empty_completion$"):
        template.zero_shot(Row("n", "x"))
    assert template.zero_shot(Row("n", "yz")).num_completion_tokens == 2


def test_a_conversation_that_the_chat_template_refuses_is_dropped_as_not_tokenizable(loaded):
    tokenizer = loaded("demo")
    tokenizer.chat_template = (
        "{% for m in messages %}{% if m.content == 'bad' %}{{ raise_exception('no') }}{% endif %}"
        "{{ m.content }} {% endfor %}"
    )
    template = ChatTemplate(tokenizer)
    assert template.zero_shot(Row("Say red?", "one")).num_completion_tokens > 0
    with pytest.raises(UnusableRowError, match="^not_tokenizable$"):
        template.zero_shot(Row("bad", "one"))


def test_a_chat_template_that_leaves_the_answer_out_gives_an_empty_completion(loaded):
    tokenizer = loaded("demo")
    tokenizer.chat_template = "{% for m in messages %}{% if m.role == 'user' %}{{ m.content }} {% endif %}{% endfor %}"
    with pytest.raises(UnusableRowError, match="^empty_completion$"):
        ChatTemplate(tokenizer).zero_shot(Row("Say red?", "one"))


def test_a_chat_template_without_any_common_beginning_gives_an_empty_prompt(loaded):
    tokenizer = loaded("demo")
    tokenizer.chat_template = "{% for m in messages|reverse %}{{ m.content }} {% endfor %}"
    with pytest.raises(UnusableRowError, match="^empty_prompt$"):
        ChatTemplate(tokenizer).zero_shot(Row("red", "one"))


# ---------------------------------------------------------------- the cut of `nuggets`


def words(count: int) -> str:
    return " ".join(["red"] * count)


def test_nuggets_cuts_anchors_at_200_tokens_and_never_candidates(loaded):
    tokenizer = loaded("demo")
    template = NuggetsTemplate(tokenizer)
    long, short = alpaca({"instruction": "Say", "output": words(300)}), alpaca({"instruction": "Say", "output": "one"})
    zero = template.zero_shot(long)
    assert NUGGETS_MAX_ANCHOR_TOKENS == len(zero.ids) == 200
    assert zero.start == len(tokenizer("Instruction:\nSay\nResponse:\n", add_special_tokens=False)["input_ids"])
    assert template.cuts(long)
    assert not template.cuts(short)
    assert len(template.one_shot(long, short).ids) > 300
    assert len(template.one_shot(long, long).ids) > 300 + 200


def test_nuggets_does_not_cut_an_anchor_of_exactly_200_tokens(loaded):
    template = NuggetsTemplate(loaded("demo"))
    anchors = [alpaca({"instruction": "Say", "output": words(n)}) for n in range(60, 240)]
    lengths = [len(template._uncut(anchor)[0]) for anchor in anchors]
    assert lengths[0] < 200 < lengths[-1]
    assert 200 in lengths
    assert [template.cuts(anchor) for anchor in anchors] == [length > 200 for length in lengths]
    assert [len(template.zero_shot(anchor).ids) for anchor in anchors] == [min(length, 200) for length in lengths]


def test_a_nuggets_anchor_whose_prompt_fills_the_limit_has_its_completion_cut_away(loaded):
    anchor = alpaca({"instruction": words(300), "output": "one"})
    with pytest.raises(UnusableRowError, match="^completion_cut_away$"):
        NuggetsTemplate(loaded("demo")).zero_shot(anchor)


# ---------------------------------------------------------------- which template


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
def test_auto_is_chat_where_tokenizer_and_rows_allow_it(pool_name, has_chat_template, expected, loaded):
    pool = Pool(Dataset.from_list(POOLS[pool_name]))
    assert resolve_pool_template("auto", pool, has_chat_template) == expected
    if pool_name == "alpaca":
        assert resolve_alpaca_template("auto", "x" if has_chat_template else None) == expected
    for name in TEMPLATES:
        assert resolve_pool_template(name, pool, has_chat_template) == name
    tokenizer = loaded("demo")
    tokenizer.chat_template = tokenizer.chat_template if has_chat_template else None
    assert make_template("auto", tokenizer, pool).name == expected


@pytest.mark.parametrize("template_name", list(TEMPLATES))
def test_a_template_made_by_name_has_that_name_in_the_fingerprint(template_name, loaded):
    template = make_template(template_name, loaded("demo"), Pool(Dataset.from_list(POOLS["alpaca"])))
    assert isinstance(template, TEMPLATES[template_name])
    assert template.describe()["template"] == template.name == template_name


def test_the_fingerprint_of_chat_tells_two_jinja_texts_apart(loaded):
    tokenizer = loaded("demo")
    before = ChatTemplate(tokenizer).describe()
    tokenizer.chat_template += " "
    after = ChatTemplate(tokenizer).describe()
    assert before["chat_template_sha256"] != after["chat_template_sha256"]


def pool_of(name: str, called: str = "train_dataset") -> Pool:
    return Pool(Dataset.from_list(POOLS[name]), called)


@pytest.mark.parametrize(("template_name", "stands_for"), [("chat", ""), ("nuggets", ""), ("auto", "`auto` stands")])
def test_text_alone_is_refused_where_a_prompt_is_needed(template_name, stands_for, loaded):
    with pytest.raises(ValueError, match=rf"{stands_for}.*but `anchors` has rows of text alone.*template='plain'"):
        make_template(template_name, loaded("demo"), pool_of("messages"), pool_of("text alone", "anchors"))
    if template_name != "auto":
        with pytest.raises(ValueError, match="`train_dataset` has rows of text alone.*`response_field`"):
            make_template(template_name, loaded("demo"), pool_of("text alone"))


def test_a_formatting_func_needs_a_response_field_under_a_template_with_a_prompt(loaded):
    rows = Dataset.from_list([{"q": "a", "a": "b"}])
    split, whole = (Pool(rows, "pool", lambda row: row["q"] + row["a"], field) for field in ("a", None))
    for pool in (split, whole):
        assert make_template("auto", loaded("demo"), pool).name == "plain"
    assert make_template("nuggets", loaded("demo"), split).name == "nuggets"
    with pytest.raises(ValueError, match="`pool` has rows of text alone"):
        make_template("nuggets", loaded("demo"), whole)


def test_token_ids_and_text_are_not_joined(loaded):
    for first, second in (("tokenized", "messages"), ("text", "tokenized")):
        with pytest.raises(ValueError, match="both be tokenized already or neither, got .*train_dataset.*anchors"):
            make_template("auto", loaded("demo"), pool_of(first), pool_of(second, "anchors"))
    assert (
        make_template("auto", loaded("demo"), pool_of("tokenized"), pool_of("tokenized", "anchors")).name == "tokens"
    )


@pytest.mark.parametrize("template_name", ["chat", "plain", "nuggets", "tokens"])
def test_no_template_is_named_for_rows_that_are_tokenized_already(template_name, loaded):
    with pytest.raises(ValueError, match=rf"`template='{template_name}'` renders text.*Leave `template` at 'auto'"):
        make_template(template_name, loaded("demo"), pool_of("tokenized"))


def test_joining_token_ids_is_warned_of_once(loaded, caplog):
    pretokenized._warn_about_joined_ids.cache_clear()
    with caplog.at_level(logging.WARNING, logger="nuggets_trainer"):
        for _ in range(3):
            make_template("auto", loaded("demo"), pool_of("tokenized"))
    assert caplog.text.count("so candidate and anchor are joined as token ids") == 1


@pytest.mark.parametrize("template_name", ["plain", "nuggets"])
def test_an_eos_that_a_candidates_text_ends_in_is_not_shown(template_name, loaded):
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


def test_a_candidate_of_eos_alone_has_nothing_to_show(loaded):
    with pytest.raises(UnusableRowError, match="^empty_completion$"):
        PlainTemplate(loaded("demo")).one_shot(Row("Say?", "</s>"), Row("Say?", "one"))


# gpt-oss reads the first message alone, be it of the system or the developer
FIRST_ALONE = (
    "{% set first = messages[0] %}{% set head = first.role in ['system', 'developer'] %}"
    "{% if head %}<|system|> {{ first.content }}{% endif %}{% for m in (messages[1:] if head else messages) %}"
    "<|{{ m.role }}|> {{ m.content }}{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


@pytest.mark.parametrize("owner", ["candidate", "anchor", "both"])
def test_a_developer_message_stands_where_a_system_message_would(owner, loaded):
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


# ---------------------------------------------------------------- text alone, token ids


@pytest.mark.parametrize("name", ["demo", "demo without BOS"])
def test_all_tokens_of_text_alone_are_scored_but_one_without_context(name, loaded):
    tokenizer = loaded(name)
    template = PlainTemplate(tokenizer)
    ids = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in ("red cat", "\n\n", "blue dog")]
    bos = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    left_out = 1 - len(bos)
    zero = template.zero_shot(Row("", "blue dog"))
    one = template.one_shot(Row("", "red cat"), Row("", "blue dog"))
    assert zero.ids == [*bos, *ids[2], tokenizer.eos_token_id]
    assert one.ids == [*bos, *ids[0], *ids[1], *ids[2], tokenizer.eos_token_id]
    assert zero.targets == one.targets == [*ids[2][left_out:], tokenizer.eos_token_id]


def tokenized(ids: list[int], scored: tuple[int, ...]) -> Row:
    return Row("", "", tokens=(tuple(ids), scored))


def test_token_ids_are_joined_without_the_candidates_eos_and_the_anchors_bos(loaded):
    tokenizer = loaded("demo")
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    template = TokensTemplate(tokenizer)
    closed, open_ended = tokenized([bos, 20, 21, eos], (1,)), tokenized([20, 21], (1,))
    anchor, bare = tokenized([bos, 30, 31, 32], (1, 3)), tokenized([30, 31, 32], (1, 2))
    assert template.zero_shot(anchor) == Segment([bos, 30, 31, 32], 1, (1, 3))
    assert template.one_shot(closed, anchor) == Segment([bos, 20, 21, 30, 31, 32], 3, (3, 5))
    assert template.one_shot(open_ended, anchor) == Segment([20, 21, 30, 31, 32], 2, (2, 4))
    assert template.one_shot(closed, bare) == Segment([bos, 20, 21, 30, 31, 32], 4)
    for row in (anchor, bare):
        assert template.one_shot(closed, row).targets == template.zero_shot(row).targets


@pytest.mark.parametrize("token", [-1, 10**9])
def test_token_ids_that_are_not_in_the_vocabulary_drop_the_row(token, loaded):
    template = TokensTemplate(loaded("demo"))
    with pytest.raises(UnusableRowError, match="^token_not_in_vocabulary$"):
        template.one_shot(tokenized([5, token], (1,)), tokenized([5, 6], (1,)))


# ---------------------------------------------------------------- tools, options, parts

TOOLS = [{"type": "function", "function": {"name": "look"}}]


def asked(text: str, **fields: object) -> Row:
    return Row([{"role": "user", "content": text}], [{"role": "assistant", "content": "one"}], **fields)


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
def test_chat_renders_with_the_anchors_tools_and_options_or_else_the_candidates(shown, own, expected, loaded):
    tokenizer = loaded("demo")
    tokenizer.chat_template = "{{ [tools, style, tone] }}" + tokenizer.chat_template
    template = ChatTemplate(tokenizer)
    turns = [*asked("a").prompt, *asked("a").completion, *asked("b").prompt, *asked("b").completion]
    joint = tokenizer.apply_chat_template(turns, tokenize=False, **expected)
    one = template.one_shot(asked("a", **shown), asked("b", **own))
    assert one.ids == tokenizer(joint, add_special_tokens=False)["input_ids"]
    assert one.targets == template.zero_shot(asked("b", **own)).targets


def test_options_of_the_candidate_do_not_change_which_tokens_are_scored(loaded):
    """With thinking switched off a generation prompt ends behind the empty block, with it on before it."""
    tokenizer = loaded("demo")
    path = files("trl").joinpath("chat_templates", "qwen3.jinja")
    tokenizer.chat_template = path.read_text(encoding="utf-8")
    template = ChatTemplate(tokenizer)
    quiet = {"template_kwargs": {"enable_thinking": False}}
    assert len(template.zero_shot(asked("b")).targets) > len(template.zero_shot(asked("b", **quiet)).targets)
    one = template.one_shot(asked("a", **quiet), asked("b"))
    assert one.targets == template.zero_shot(asked("b")).targets


def test_parts_of_text_are_rendered_by_the_chat_template_and_joined_as_text(loaded):
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


@pytest.mark.parametrize("name", ["messages", "tokenize", "self", "conversation"])
def test_options_that_no_template_can_take_drop_the_row(name, loaded):
    """TRL passes them on as keyword arguments, some of which are taken: one bad row would stop the run."""
    with pytest.raises(UnusableRowError, match="^not_tokenizable$"):
        ChatTemplate(loaded("demo")).zero_shot(asked("a", template_kwargs={name: "x"}))


@pytest.mark.parametrize("template_name", ["plain", "nuggets"])
def test_a_tool_call_alone_has_no_text_to_show_or_to_score(template_name, loaded):
    template = TEMPLATES[template_name](loaded("demo"))
    call = Row(
        [{"role": "user", "content": "a"}], [{"role": "assistant", "tool_calls": [{"function": {"name": "f"}}]}]
    )
    with pytest.raises(UnusableRowError, match="^empty_completion$"):
        template.zero_shot(call)
    with pytest.raises(UnusableRowError, match="^empty_completion$"):
        template.one_shot(call, asked("b"))


# ---------------------------------------------------------------- assistant_only_loss

MARKED = (
    "{% for m in messages %}<|{{ m.role }}|> {% if m.role == 'assistant' %}{% generation %}{{ m.content }}"
    "{{ eos_token }}{% endgeneration %}{% else %}{{ m.content }}{% endif %} {% endfor %}"
)


def test_under_a_training_template_all_that_the_anchors_assistant_says_is_scored(loaded):
    tokenizer = loaded("demo")
    template = make_template("auto", tokenizer, pool_of("messages"), training_chat_template=MARKED)

    def said(segment: Segment) -> str:
        return tokenizer.decode(segment.targets).replace(" ", "")

    eos = tokenizer.eos_token
    zero, one = template.zero_shot(CONVERSATION), template.one_shot(asked("red"), CONVERSATION)
    assert said(zero) == said(one) == f"one{eos}three{eos}"
    turns = [*CONVERSATION.prompt, *CONVERSATION.completion]
    joint = tokenizer.apply_chat_template(turns, chat_template=MARKED, tokenize=False)
    assert zero.ids == tokenizer(joint, add_special_tokens=False)["input_ids"]
    assert ChatTemplate(tokenizer).zero_shot(CONVERSATION).ids != zero.ids


@pytest.mark.parametrize(
    ("pool_name", "completion_only_loss", "scored"),
    [
        ("message lists", None, "three"),
        ("message lists", True, "three"),
        ("message lists", False, "one three"),
        ("alpaca", None, "three"),  # given to TRL as prompt and completion
        ("messages", None, "one three"),
        ("messages", True, "one three"),
    ],
)
def test_under_a_training_template_the_prompt_counts_where_trl_trains_on_it(
    pool_name, completion_only_loss, scored, loaded
):
    """TRL lets the masks of completion and assistant both through; all that the assistant says was scored."""
    tokenizer = loaded("demo")
    pool = Pool(pool_of(pool_name).dataset, completion_only_loss=completion_only_loss)
    template = make_template("auto", tokenizer, pool, training_chat_template=MARKED)
    zero, one = template.zero_shot(CONVERSATION), template.one_shot(CONVERSATION, CONVERSATION)
    assert tokenizer.decode(zero.targets).replace(tokenizer.eos_token, "").split() == scored.split()
    assert zero.targets == one.targets
    assert ("assistant_tokens" in template.describe()) == (scored == "three")


def test_token_ids_beside_messages_are_taken_with_assistant_only_loss_as_trl_does(loaded):
    rows = Dataset.from_list([{"input_ids": [5, 6], "labels": [-100, 6], "messages": CONVERSATION.prompt}])
    assert make_template("auto", loaded("demo"), Pool(rows), training_chat_template=MARKED).name == "tokens"


def test_a_training_template_enters_the_fingerprint_only_where_there_is_one(loaded):
    tokenizer = loaded("demo")
    plain = ChatTemplate(tokenizer).describe()
    marked, other = (ChatTemplate(tokenizer, text).describe() for text in (MARKED, MARKED + " "))
    assert set(marked) - set(plain) == {"training_chat_template_sha256"}
    assert marked["training_chat_template_sha256"] != other["training_chat_template_sha256"]


def test_a_training_template_that_marks_nothing_or_other_tokens_drops_the_row(loaded):
    tokenizer = loaded("demo")
    user_only = MARKED.replace("m.role == 'assistant' %}{% gen", "m.role == 'nobody' %}{% gen")
    with pytest.raises(UnusableRowError, match="^no_assistant_tokens$"):
        ChatTemplate(tokenizer, user_only).zero_shot(CONVERSATION)
    counted = MARKED.replace("{% generation %}", "{% generation %}{{ messages|length }} ")
    with pytest.raises(UnusableRowError, match="^completion_changes$"):
        ChatTemplate(tokenizer, counted).one_shot(asked("red"), CONVERSATION)


@pytest.mark.parametrize(
    ("pool_name", "template_name"),
    [
        ("text", "auto"),
        ("text", "chat"),
        ("text alone", "auto"),
        ("tokenized", "auto"),
        ("alpaca", "plain"),
        ("sharegpt", "auto"),
    ],
)
def test_assistant_only_loss_wants_conversations_as_trl_does(pool_name, template_name, loaded):
    with pytest.raises(ValueError, match="`assistant_only_loss=True` needs conversations, but .* `train_dataset`"):
        make_template(template_name, loaded("demo"), pool_of(pool_name), training_chat_template=MARKED)


@pytest.mark.parametrize("pool_name", ["alpaca", "messages", "message lists"])
def test_assistant_only_loss_takes_every_conversational_format(pool_name, loaded):
    pool = pool_of(pool_name)
    template = make_template("auto", loaded("demo"), pool, training_chat_template=MARKED)
    assert template.zero_shot(pool[0]).num_completion_tokens >= 2


# ---------------------------------------------------------------- what training sees


def test_alpaca_rows_are_given_to_trl_as_they_were_scored(loaded):
    tokenizer = loaded("demo")
    row = alpaca({"instruction": " Say ", "input": " red\n", "output": " one \n"})
    assert train_columns("chat", row) == {
        "prompt": [{"role": "user", "content": "Say\n\nred"}],
        "completion": [{"role": "assistant", "content": "one"}],
    }
    assert train_columns("plain", row) == {"prompt": "Say\n\nred\n\n", "completion": "one"}
    nuggets = train_columns("nuggets", row)
    assert nuggets == {"prompt": "Instruction:\nSay\nInput:\nred\nResponse:\n", "completion": "one"}
    scored = NuggetsTemplate(tokenizer).zero_shot(row)
    assert tokenizer(nuggets["prompt"] + nuggets["completion"], add_special_tokens=False)["input_ids"] == scored.ids
    chat = train_columns("chat", row)
    text = tokenizer.apply_chat_template([*chat["prompt"], *chat["completion"]], tokenize=False)
    assert tokenizer(text, add_special_tokens=False)["input_ids"] == ChatTemplate(tokenizer).zero_shot(row).ids
