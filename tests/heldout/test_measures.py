"""All measures of one model, on the demo's model."""

from __future__ import annotations

import hashlib
import json

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from nuggets_trainer import load_rows
from nuggets_trainer.demo import demo_path
from nuggets_trainer.heldout.measures import Measures
from nuggets_trainer.prompts.segment import Segment


class Tasks:
    """Stands for tasks of lm-evaluation-harness, which have a test of their own."""

    def __init__(self):
        self.key = {"version": "1"}

    def measure(self, model, tokenizer):
        return {"arc acc": [1.0, 0.0]}


@pytest.fixture(scope="module")
def model_and_sets():
    kinds = (AutoModelForCausalLM, AutoTokenizer)
    model, tokenizer = (kind.from_pretrained(demo_path("model")) for kind in kinds)
    segments = []
    for row in load_rows("nuggets-demo/heldout").select(range(6)):
        question = [{"role": "user", "content": row["instruction"]}]
        prompt = tokenizer.apply_chat_template(question, add_generation_prompt=True, return_dict=True)["input_ids"]
        answer = tokenizer(" " + row["output"] + tokenizer.eos_token, add_special_tokens=False)["input_ids"]
        segments.append(Segment(prompt + answer, len(prompt)))
    return model, tokenizer, {"in_domain": segments[:4], "other": segments[4:]}


def test_each_set_and_task_has_values_of_its_own(model_and_sets):
    model, tokenizer, sets = model_and_sets
    both = Measures(sets, tokenizer, ("exact_match", 1), Tasks())
    found = both.measure(model)
    assert {name: len(values) for name, values in found.measures.items()} == {
        "loss of other": 2, "exact_match of in_domain": 1, "exact_match of other": 1, "arc acc": 2,
    }  # fmt: skip
    assert found.generation == found.measures["exact_match of in_domain"][0]
    other = Measures({"": sets["other"]}, tokenizer, ("exact_match", 2)).measure(model)
    assert other.losses == pytest.approx(found.measures["loss of other"], abs=1e-5)
    assert other.measures.keys() == {"exact_match"} and other.generation == sum(other.measures["exact_match"]) / 2
    assert both.weights(None, 4).tolist() == [segment.num_completion_tokens for segment in sets["in_domain"]]
    assert both.weights("loss of other", 2).tolist() == [segment.num_completion_tokens for segment in sets["other"]]
    assert both.weights("arc acc", 2).tolist() == [1, 1]


def test_one_set_has_the_key_of_earlier_versions(model_and_sets):
    """Finished runs of earlier versions are not run again."""
    _, tokenizer, sets = model_and_sets
    content = [[segment.ids, list(segment.positions)] for segment in sets["other"]]
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    for name in ("", "other"):
        assert Measures({name: sets["other"]}, tokenizer, None).key == {"heldout_sha256": digest, "generation": None}
    assert "heldout_sets" in Measures(sets, tokenizer, None).key
    assert Measures({"": sets["other"]}, tokenizer, None, Tasks()).key["lm_eval"] == {"version": "1"}
