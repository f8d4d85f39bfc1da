"""With `assistant_only_loss` the scored tokens are those that TRL trains on."""

from __future__ import annotations

import pytest
from datasets import Dataset

from nuggets_trainer.data.pool import Pool
from nuggets_trainer.data.row import UnusableRowError
from nuggets_trainer.prompts.chat import ChatTemplate
from nuggets_trainer.prompts.segment import Segment
from nuggets_trainer.prompts.templates import make_template
from tests.support.renderings import CONVERSATION, asked, pool_of

MARKED = (
    "{% for m in messages %}<|{{ m.role }}|> {% if m.role == 'assistant' %}{% generation %}{{ m.content }}"
    "{{ eos_token }}{% endgeneration %}{% else %}{{ m.content }}{% endif %} {% endfor %}"
)


def test_all_that_the_anchors_assistant_says_is_scored(loaded):
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
def test_the_prompt_counts_if_trl_trains_on_it(pool_name, completion_only_loss, scored, loaded):
    """TRL lets the masks of completion and assistant both through; all that the assistant says was scored."""
    tokenizer = loaded("demo")
    pool = Pool(pool_of(pool_name).dataset, completion_only_loss=completion_only_loss)
    template = make_template("auto", tokenizer, pool, training_chat_template=MARKED)
    zero, one = template.zero_shot(CONVERSATION), template.one_shot(CONVERSATION, CONVERSATION)
    assert tokenizer.decode(zero.targets).replace(tokenizer.eos_token, "").split() == scored.split()
    assert zero.targets == one.targets
    assert ("assistant_tokens" in template.describe()) == (scored == "three")


def test_token_ids_beside_messages_are_accepted(loaded):
    rows = Dataset.from_list([{"input_ids": [5, 6], "labels": [-100, 6], "messages": CONVERSATION.prompt}])
    assert make_template("auto", loaded("demo"), Pool(rows), training_chat_template=MARKED).name == "tokens"


def test_a_training_template_enters_the_fingerprint(loaded):
    tokenizer = loaded("demo")
    plain = ChatTemplate(tokenizer).describe()
    marked, other = (ChatTemplate(tokenizer, text).describe() for text in (MARKED, MARKED + " "))
    assert set(marked) - set(plain) == {"training_chat_template_sha256"}
    assert marked["training_chat_template_sha256"] != other["training_chat_template_sha256"]


def test_marking_nothing_or_other_tokens_drops_the_row(loaded):
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
def test_rows_that_are_no_conversations_are_refused(pool_name, template_name, loaded):
    with pytest.raises(ValueError, match="`assistant_only_loss=True` needs conversations, but .* `train_dataset`"):
        make_template(template_name, loaded("demo"), pool_of(pool_name), training_chat_template=MARKED)


@pytest.mark.parametrize("pool_name", ["alpaca", "messages", "message lists"])
def test_every_conversational_format_is_accepted(pool_name, loaded):
    pool = pool_of(pool_name)
    template = make_template("auto", loaded("demo"), pool, training_chat_template=MARKED)
    assert template.zero_shot(pool[0]).num_completion_tokens >= 2
