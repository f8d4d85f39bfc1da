"""Generated completions against given ones."""

from __future__ import annotations

import pytest
from transformers import AutoTokenizer

from nuggets_trainer.heldout.generation import compare_texts, generated_quality
from nuggets_trainer.prompts.segment import Segment
from tests.support.models import chat_model


@pytest.mark.parametrize(("metric", "right", "close"), [("exact_match", 1, 0), ("rouge_l", 1, 0.8)])
def test_generated_texts_are_held_against_the_given_ones(metric, right, close):
    assert compare_texts("a b c", "a b c", metric) == right
    assert compare_texts("a b", "a b c", metric) == pytest.approx(close)


@pytest.mark.parametrize("eos_token", ["<|im_end|>", "<|endoftext|>"])
def test_completions_stop_where_the_template_ends(eos_token, shared):
    """Under the EOS of Qwen's base models a right completion ran on to the length of the longest and was wrong."""
    tokenizer = AutoTokenizer.from_pretrained(shared / "tokenizers/minimind")
    tokenizer.eos_token = eos_token
    model = chat_model(tokenizer, "Say blue.", "blue!")
    question = [{"role": "user", "content": "Say blue."}]
    prompt = tokenizer.apply_chat_template(question, add_generation_prompt=True, return_dict=True)["input_ids"]
    right, longer = (
        Segment(prompt + tokenizer(text, add_special_tokens=False)["input_ids"], len(prompt))
        for text in ("blue!<|im_end|>", "blue and green and red and white and black!<|im_end|>")
    )
    assert generated_quality(model, tokenizer, [right, longer], "exact_match") == [1.0, 0.0]
