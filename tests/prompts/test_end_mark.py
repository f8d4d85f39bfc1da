"""Nothing but an end mark is scored behind a completion, under every chat template of TRL and of real tokenizers."""

from __future__ import annotations

import copy

import pytest
from datasets import Dataset

from nuggets_trainer import NuggetsConfig, score_pool
from nuggets_trainer.data.row import Row, UnusableRowError
from nuggets_trainer.prompts.chat import ChatTemplate
from nuggets_trainer.prompts.shared_prefix import AnchorSet
from tests.support.renderings import asked
from tests.support.rows import alpaca_rows
from tests.support.trl_templates import SOURCES

ROW = Row([{"role": "user", "content": "blue?"}], [{"role": "assistant", "content": "day night"}])
CALLS = [{"type": "function", "function": {"name": "weather", "arguments": {"city": "Oslo", "days": 3}}}]
CALL = Row(ROW.prompt, [{"role": "assistant", "content": "", "tool_calls": CALLS}])
REAL = ["demo", "models/tiny-llama-icl", "tokenizers/minimind", "tokenizers/mistral-v3"]
# Templates that open an answer whether or not they are asked to, as the first one of Llama 3 did.
ALWAYS_OPEN = "{% set add_generation_prompt = true %}"


def reason(tokenizer, source: str, row: Row = ROW, is_training: bool = False) -> str:
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.chat_template = source
    try:
        ChatTemplate(tokenizer, source if is_training else None).zero_shot(row)
    except UnusableRowError as error:
        return str(error)
    return "scored"


@pytest.mark.parametrize("name", sorted(SOURCES))
def test_more_than_an_end_mark_drops_the_row(name, tokenizer):
    """It was scored as a part of the answer."""
    assert reason(tokenizer, SOURCES[name] + "\n### Question:") == "text_behind_completion"
    if not name.startswith("llava"):  # opens no answer
        assert reason(tokenizer, ALWAYS_OPEN + SOURCES[name]) == "text_behind_completion"


@pytest.mark.parametrize("name", sorted(name for name in SOURCES if name.endswith("_training")))
def test_text_that_the_mask_leaves_out_drops_nothing(name, tokenizer):
    assert reason(tokenizer, ALWAYS_OPEN + SOURCES[name] + "Bye.", is_training=True) == "scored"


@pytest.mark.parametrize("name", ["diffusion_gemma_training", "gptoss_training", "qwen3_training"])
def test_text_that_the_mask_leaves_out_of_a_call_drops_nothing(name, tokenizer):
    assert reason(tokenizer, ALWAYS_OPEN + SOURCES[name], CALL, is_training=True) == "scored"
    assert reason(tokenizer, SOURCES[name] + "Bye.", CALL, is_training=True) == "scored"


@pytest.mark.parametrize("name", ["qwen3", "llama3_1", "glm4moe", "gptoss", "gemma4", "nemotron_3_nano"])
def test_an_anchor_that_is_a_call_is_checked_too(name, tokenizer):
    assert reason(tokenizer, SOURCES[name], CALL) == "scored"
    assert reason(tokenizer, SOURCES[name] + "Bye.", CALL) == "text_behind_completion"


@pytest.mark.parametrize("name", REAL)
def test_a_real_template_ends_with_an_end_mark(name, loaded):
    tokenizer = loaded(name)
    source = tokenizer.chat_template
    assert reason(tokenizer, source) == "scored"
    assert reason(tokenizer, source + "{{ 'Next question' }}") == "text_behind_completion"


TURNS = "{% for m in messages %}"
ENDS = {
    "nothing": ("{{ m.role }}: {{ m.content }}\n{% endfor %}", "scored"),
    "a sign": ("{{ m.role }}: {{ m.content }}\n---\n{% endfor %}", "scored"),
    "a text behind every turn": ("### {{ m.role }}\n{{ m.content }}\n### End\n{% endfor %}", "scored"),
    "one mark for all": ("{{ m.content }}</s>{% endfor %}", "scored"),
    "the next user's turn": ("### {{ m.role }}\n{{ m.content }}\n{% endfor %}### user\n", "text_behind_completion"),
    "the same in marks": (
        "<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}<|user|>",
        "text_behind_completion",
    ),
    "an answer in marks": (
        "<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}<|assistant|>",
        "text_behind_completion",
    ),
    "a text at the end": ("{{ m.content }}</s>{% endfor %}The end.", "text_behind_completion"),
}


@pytest.mark.parametrize("name", ENDS)
def test_an_end_mark_is_told_from_other_text(name, tokenizer):
    source, expected = ENDS[name]
    assert reason(tokenizer, TURNS + source) == expected
    quoted = asked("What is a </s>?")
    assert reason(tokenizer, TURNS + source, quoted) == expected


def test_an_option_of_a_row_counts(tokenizer):
    source = TURNS + "{{ m.role }}: {{ m.content }}\n{% endfor %}{{ footer }}"
    assert reason(tokenizer, source, asked("a", template_kwargs={"footer": "Bye."})) == "text_behind_completion"
    assert reason(tokenizer, source, asked("a", template_kwargs={"footer": " "})) == "scored"


def test_the_error_says_what_to_do(tokenizer):
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.chat_template = ALWAYS_OPEN + SOURCES["llama3"]
    with pytest.raises(ValueError, match=r"text_behind_completion 1.*beginning of a next turn.*`chat_template_path`"):
        AnchorSet(ChatTemplate(tokenizer), [ROW], [None], None)


@pytest.mark.parametrize("selection", ["random", "kmeans"])
def test_anchors_cannot_be_chosen_under_such_a_template(selection, llama, tokenizer, tmp_path):
    """The error said that none of the pool's rows is usable, and not why."""
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.chat_template = ALWAYS_OPEN + SOURCES["llama3"]
    config = NuggetsConfig(top_k=2, num_anchors=3, anchor_selection=selection, template="chat")
    with pytest.raises(ValueError, match=r"only 0 rows can be scored alone \(text_behind_completion 9\).*next turn"):
        score_pool(llama, tokenizer, Dataset.from_list(alpaca_rows(9, seed=1)), None, config, tmp_path)


@pytest.mark.parametrize("name", ["qwen3", "llama3", "gemma3", "glm4moe", "phi3", "deepseekv3"])
@pytest.mark.parametrize("answer", ["a", "e", "1", "assistant", "user", "end", "."])
def test_a_short_answer_is_found_where_it_stands(answer, name, tokenizer):
    """It stands in the marks of the template, or in the question, too."""
    row = Row([{"role": "user", "content": f"Say {answer}!"}], [{"role": "assistant", "content": answer}])
    assert reason(tokenizer, SOURCES[name], row) == "scored"
    assert reason(tokenizer, SOURCES[name] + "\n### Question:", row) == "text_behind_completion"


@pytest.mark.parametrize("name", ["deepseek_r1_distill", "deepseekv3"])
def test_a_completion_of_which_nothing_is_shown_is_dropped(name, tokenizer):
    """The template cuts reasoning in the last turn too, so that the end mark alone was scored."""
    row = Row(ROW.prompt, [{"role": "assistant", "content": "<think>\nsun\n</think>"}])
    assert reason(tokenizer, SOURCES[name], row) == "not_shown"
