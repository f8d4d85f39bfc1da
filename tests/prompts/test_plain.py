"""The template `plain` joins text by a blank line, with one BOS and one EOS."""

from __future__ import annotations

import pytest
from tokenizers import Tokenizer
from tokenizers.models import BPE, WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import PreTrainedTokenizerFast

from nuggets_trainer.data.row import Row, UnusableRowError
from nuggets_trainer.prompts.plain import PlainTemplate
from tests.support.renderings import ROWS, alpaca


@pytest.mark.parametrize("name", ["demo", "models/tiny-llama-icl", "tokenizers/gpt2", "tokenizers/mistral-v3"])
def test_bos_is_first_and_eos_last(name, loaded):
    tokenizer = loaded(name)
    template = PlainTemplate(tokenizer)
    zero = template.zero_shot(alpaca(ROWS[5]))
    one = template.one_shot(alpaca(ROWS[1]), alpaca(ROWS[5]))
    for ids in (zero.ids, one.ids):
        assert ids[0] == tokenizer.bos_token_id
        assert ids[-1] == tokenizer.eos_token_id
        assert not {tokenizer.bos_token_id, tokenizer.eos_token_id} & set(ids[1:-1])


def test_without_bos_the_prompt_is_first(loaded):
    with_bos, without = PlainTemplate(loaded("demo")), PlainTemplate(loaded("demo without BOS"))
    segment, bare = with_bos.zero_shot(alpaca(ROWS[5])), without.zero_shot(alpaca(ROWS[5]))
    assert (bare.ids, bare.start) == (segment.ids[1:], segment.start - 1)


@pytest.mark.parametrize("name", ["demo", "models/tiny-llama-icl", "tokenizers/gpt2"])
def test_an_eos_in_the_text_is_not_doubled(name, loaded):
    tokenizer = loaded(name)
    template = PlainTemplate(tokenizer)
    closed = template.zero_shot(Row("Say red?", "one" + tokenizer.eos_token))
    assert closed == template.zero_shot(Row("Say red?", "one"))
    assert closed.ids[closed.start :].count(tokenizer.eos_token_id) == 1


def test_nothing_stands_between_trls_columns(loaded):
    tokenizer = loaded("demo")
    template = PlainTemplate(tokenizer)
    pieces = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in ("Say red? ", "one")]
    segment = template.zero_shot(Row("Say red? ", "one"))
    assert segment.ids == [tokenizer.bos_token_id, *pieces[0], *pieces[1], tokenizer.eos_token_id]
    assert segment.ids != template.zero_shot(Row("Say red? ", "one", separator="\n\n")).ids


def test_messages_are_joined_by_blank_lines(loaded):
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


@pytest.mark.parametrize("name", ["demo", "demo without BOS"])
def test_all_of_text_alone_with_context_is_scored(name, loaded):
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


def test_a_completion_without_tokens_is_dropped():
    """A BPE tokenizer without an unknown token gives nothing for letters that it does not know."""
    backend = Tokenizer(BPE({"r": 0, "o": 1, "</s>": 2}, []))
    template = PlainTemplate(PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>"))
    assert template.zero_shot(Row("r", "o")).ids == [0, 1, 2]
    with pytest.raises(UnusableRowError, match="^(not_tokenizable|empty_completion)$"):
        template.zero_shot(Row("r", "zzz"))


def test_an_error_of_the_tokenizer_drops_the_row():
    """A word-level tokenizer without an unknown token raises a plain `Exception` at a word that it does not know."""
    backend = Tokenizer(WordLevel({"red": 0, "one": 1, "</s>": 2}))
    backend.pre_tokenizer = Whitespace()
    template = PlainTemplate(PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>"))
    assert template.zero_shot(Row("red", "one")).ids == [0, 1, 2]
    with pytest.raises(UnusableRowError, match="^not_tokenizable$"):
        template.zero_shot(Row("red", "zebra"))


def test_a_candidate_of_eos_alone_is_dropped(loaded):
    with pytest.raises(UnusableRowError, match="^empty_completion$"):
        PlainTemplate(loaded("demo")).one_shot(Row("Say?", "</s>"), Row("Say?", "one"))
