"""TRL trains on the very tokens that scoring reads, whatever form the contents of a row have."""

from __future__ import annotations

import copy

import pytest
from datasets import Dataset
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM
from trl import SFTTrainer

from nuggets_trainer import NuggetsConfig, SelectedSFTTrainer
from nuggets_trainer.data.pool import Pool
from nuggets_trainer.prompts.chat import ChatTemplate
from nuggets_trainer.training.rows import rows_for_trl
from tests.support.launch import SHARED
from tests.support.training import arguments
from tests.support.trl_templates import SOURCES

pytestmark = pytest.mark.filterwarnings("ignore")  # what TRL and torch announce of their own options is theirs

QUESTION, ANSWER = ("What is 5", " plus 5?"), ("ten", ", I think")


def as_parts(texts):
    return [{"type": "text", "text": text} for text in texts]


def turns(key, role, texts, as_content):
    return [{role: "user", key: as_content(texts[0])}, {role: "assistant", key: as_content(texts[1])}]


TEXTS = [(QUESTION, ANSWER), (("blue?",), ("one",))]
FORMS = {
    "messages": lambda t: {"messages": turns("content", "role", t, as_parts)},
    "prompt and completion": lambda t: {
        "prompt": turns("content", "role", t, as_parts)[:1],
        "completion": turns("content", "role", t, as_parts)[1:],
    },
    "sharegpt": lambda t: {"conversations": turns("value", "from", t, as_parts)},
    "text": lambda t: {"messages": turns("content", "role", t, "".join)},
    "alpaca": lambda t: {"instruction": "".join(t[0]), "output": "".join(t[1])},
}
# Templates that write a list of parts as Python prints it, as nothing, and those that show nothing else.
CASES = [
    ("demo", "llama3", "messages"),
    ("demo", "llama3", "sharegpt"),
    ("demo", "qwen3", "messages"),
    ("demo", "qwen3", "prompt and completion"),
    ("demo", "gemma3", "messages"),
    ("demo", "idefics3", "text"),
    ("demo", "idefics3", "messages"),
    ("demo", "llava_next", "alpaca"),
    ("tokenizers/minimind", None, "messages"),
    ("tokenizers/mistral-v3", None, "messages"),
    ("models/tiny-llama-icl", None, "prompt and completion"),
]


@pytest.fixture(scope="module")
def tiny():
    config = {"hidden_size": 4, "intermediate_size": 4, "num_hidden_layers": 1, "num_attention_heads": 1}
    return LlamaForCausalLM(LlamaConfig(vocab_size=64, num_key_value_heads=1, **config))


@pytest.fixture()
def tokenizer_with(request, tokenizer):
    def load(name, template):
        if name == "demo":
            found = copy.deepcopy(tokenizer)
        else:
            request.getfixturevalue("shared")
            found = AutoTokenizer.from_pretrained(SHARED / name)
        if template is not None:
            found.chat_template = SOURCES[template]
        found.pad_token = found.pad_token or found.eos_token
        return found

    return load


@pytest.mark.parametrize(("name", "template", "form"), CASES)
def test_training_reads_contents_as_they_are_scored(name, template, form, tokenizer_with, tiny, tmp_path):
    """TRL trained on Python's text of a list of parts under Llama 3's template, and on nothing under Qwen3's."""
    found, args = tokenizer_with(name, template), arguments(tmp_path, max_length=None)
    rows = Dataset.from_list([FORMS[form](texts) for texts in TEXTS])
    config = NuggetsConfig(top_k=1)
    trainer = SelectedSFTTrainer(
        tiny, args, train_dataset=rows, eval_dataset=rows, processing_class=found, nuggets_config=config,
        anchor_dataset=rows,
    )  # fmt: skip
    trained = trainer._prepare_rows(rows, packing=None)
    converted = rows_for_trl(rows, "auto", args, found)
    elsewhere = SFTTrainer(tiny, args, train_dataset=converted, processing_class=found).train_dataset
    pool, chat = Pool(rows), ChatTemplate(found)
    for i in range(len(rows)):
        scored = chat.zero_shot(pool[i])
        for prepared in (trained, trainer.eval_dataset, elsewhere):
            assert prepared[i]["input_ids"] == scored.ids
        text = found.decode(scored.ids)
        assert "".join(TEXTS[i][1]) in text and "'type'" not in text
