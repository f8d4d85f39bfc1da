"""Rows that are tokenized already are joined as token ids."""

from __future__ import annotations

import logging

import pytest

from nuggets_trainer.data.row import Row, UnusableRowError
from nuggets_trainer.prompts import pretokenized
from nuggets_trainer.prompts.pretokenized import TokensTemplate
from nuggets_trainer.prompts.segment import Segment
from nuggets_trainer.prompts.templates import make_template
from tests.support.renderings import pool_of


def tokenized(ids: list[int], scored: tuple[int, ...]) -> Row:
    return Row("", "", tokens=(tuple(ids), scored))


def test_token_ids_are_joined_without_inner_eos_and_bos(loaded):
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
def test_ids_outside_the_vocabulary_drop_the_row(token, loaded):
    template = TokensTemplate(loaded("demo"))
    with pytest.raises(UnusableRowError, match="^token_not_in_vocabulary$"):
        template.one_shot(tokenized([5, token], (1,)), tokenized([5, 6], (1,)))


def test_token_ids_and_text_are_not_joined(loaded):
    for first, second in (("tokenized", "messages"), ("text", "tokenized")):
        with pytest.raises(ValueError, match="both be tokenized already or neither, got .*train_dataset.*anchors"):
            make_template("auto", loaded("demo"), pool_of(first), pool_of(second, "anchors"))
    assert (
        make_template("auto", loaded("demo"), pool_of("tokenized"), pool_of("tokenized", "anchors")).name == "tokens"
    )


@pytest.mark.parametrize("template_name", ["chat", "plain", "nuggets", "tokens"])
def test_a_template_for_text_is_refused(template_name, loaded):
    with pytest.raises(ValueError, match=rf"`template='{template_name}'` renders text.*Leave `template` at 'auto'"):
        make_template(template_name, loaded("demo"), pool_of("tokenized"))


def test_joining_token_ids_warns_once(loaded, caplog):
    pretokenized._warn_about_joined_ids.cache_clear()
    with caplog.at_level(logging.WARNING, logger="nuggets_trainer"):
        for _ in range(3):
            make_template("auto", loaded("demo"), pool_of("tokenized"))
    assert caplog.text.count("so candidate and anchor are joined as token ids") == 1
