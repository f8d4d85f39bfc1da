"""What a tuned model generates: where its turn ends, and which part is the answer."""

from __future__ import annotations

from pathlib import Path

import pytest
import trl
from transformers import AutoTokenizer

from nuggets_trainer.prompts.generated import (
    decode_with_reasoning,
    find_turn_end,
    opens_reasoning,
    without_reasoning,
)

TEMPLATES = Path(trl.__file__).parent / "chat_templates"
TURN_ENDS = {
    "qwen3": "<|im_end|>",
    "qwen2_5": "<|im_end|>",
    "llama3": "<|eot_id|>",
    "gemma": "<end_of_turn>",
    "phi3": "<|end|>",
    "gptoss": "<|return|>",  # `<|end|>` ends its reasoning too
    "cohere": "<|END_OF_TURN_TOKEN|>",
    "smolvlm": "<end_of_utterance>",  # reads contents as lists of parts alone
    "glm4moe": None,  # writes nothing behind the last answer
}


@pytest.fixture
def tokenizer(shared):
    return AutoTokenizer.from_pretrained(shared / "tokenizers/minimind")


@pytest.mark.parametrize(("name", "token"), TURN_ENDS.items())
def test_the_turn_ends_as_the_template_writes_it(name, token, tokenizer):
    path = TEMPLATES / f"{name}.jinja"
    if not path.is_file():
        pytest.skip(f"this version of TRL has no template {name}")
    tokenizer.chat_template = path.read_text()
    tokenizer.eos_token = "<|endoftext|>"
    tokenizer.add_tokens([end for end in TURN_ENDS.values() if end is not None], special_tokens=True)
    found = find_turn_end(tokenizer)
    assert (None if found is None else tokenizer.convert_ids_to_tokens(found)) == token


@pytest.mark.parametrize(
    "template",
    [None, "{{ raise_exception('no') }}", "{% for m in messages %}{{ m['content'] }}\n### {% endfor %}", "a constant"],
)
def test_a_template_without_an_end_token_has_none(template, tokenizer):
    tokenizer.chat_template = template
    assert find_turn_end(tokenizer) is None


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("A crow.", "A crow."),
        ("<think>\n\n</think>\n\nA crow.", "A crow."),
        (" <think>a bird\nblack</think>A crow.\n", "A crow."),
        ("<think></think><think>b</think>A crow.", "A crow."),
        ("[THINK]a bird[/THINK]A crow.", "A crow."),
        ("<think>a bird, let me", ""),
        ("A crow. Write </think> behind <think>.", "A crow. Write </think> behind <think>."),
        ("", ""),
    ],
)
def test_the_answer_is_what_follows_the_reasoning(text, answer):
    assert without_reasoning(text) == answer


def test_a_prompt_may_open_the_reasoning():
    """Templates of thinking models write `<think>` themselves, so that only the closing mark is generated."""
    assert opens_reasoning("<|im_start|>assistant\n<think>\n")
    assert not opens_reasoning("<|im_start|>assistant\n<think>\n\n</think>\n\n") and not opens_reasoning("Q: ")
    assert without_reasoning("a bird</think>A crow.", is_opened=True) == "A crow."
    assert without_reasoning("A crow.", is_opened=True) == "A crow."
    assert without_reasoning("a bird</think>A crow.") == "a bird</think>A crow."


@pytest.mark.parametrize("special", [True, False])
def test_marks_are_decoded_special_or_not(special, tokenizer):
    """Without its marks, which decoding leaves out, reasoning would be judged as the answer."""
    tokenizer.add_tokens(["[THINK]", "[/THINK]"], special_tokens=special)
    ids = tokenizer("[THINK]a bird[/THINK]A crow.<|im_end|>", add_special_tokens=False)["input_ids"]
    assert without_reasoning(decode_with_reasoning(tokenizer, ids)) == "A crow."
    plain = tokenizer("A crow, black.", add_special_tokens=False)["input_ids"]
    assert decode_with_reasoning(tokenizer, plain) == tokenizer.decode(plain, skip_special_tokens=True)
