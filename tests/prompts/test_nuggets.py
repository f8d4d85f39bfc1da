"""The template `nuggets` is the reference implementation's, with its cut at 200 tokens."""

from __future__ import annotations

import pytest
from tokenizers import Tokenizer
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerFast

from nuggets_trainer.data.row import Row, UnusableRowError
from nuggets_trainer.prompts.nuggets import NUGGETS_MAX_ANCHOR_TOKENS, NuggetsTemplate
from tests.support.renderings import ROWS, alpaca


def words(count: int) -> str:
    return " ".join(["red"] * count)


@pytest.mark.parametrize("name", ["demo", "models/tiny-llama-icl"])
def test_bos_stands_in_one_shot_only_and_eos_nowhere(name, loaded):
    tokenizer = loaded(name)
    template = NuggetsTemplate(tokenizer)
    zero, one = template.zero_shot(alpaca(ROWS[5])), template.one_shot(alpaca(ROWS[1]), alpaca(ROWS[5]))
    assert zero.ids.count(tokenizer.bos_token_id) == 0
    assert (one.ids[0], one.ids.count(tokenizer.bos_token_id)) == (tokenizer.bos_token_id, 1)
    assert tokenizer.eos_token_id not in zero.ids + one.ids


def test_anchors_are_cut_at_200_tokens_candidates_never(loaded):
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


def test_an_anchor_of_exactly_200_tokens_is_not_cut(loaded):
    template = NuggetsTemplate(loaded("demo"))
    anchors = [alpaca({"instruction": "Say", "output": words(n)}) for n in range(60, 240)]
    lengths = [len(template._uncut(anchor)[0]) for anchor in anchors]
    assert lengths[0] < 200 < lengths[-1]
    assert 200 in lengths
    assert [template.cuts(anchor) for anchor in anchors] == [length > 200 for length in lengths]
    assert [len(template.zero_shot(anchor).ids) for anchor in anchors] == [min(length, 200) for length in lengths]


def test_a_prompt_of_200_tokens_cuts_its_completion_away(loaded):
    anchor = alpaca({"instruction": words(300), "output": "one"})
    with pytest.raises(UnusableRowError, match="^completion_cut_away$"):
        NuggetsTemplate(loaded("demo")).zero_shot(anchor)


def test_a_completion_that_merges_into_its_prompt_is_empty():
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
