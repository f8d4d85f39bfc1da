"""What a chat template leaves out of rows and anchors is counted in run.json and told by the report."""

from __future__ import annotations

import copy
import json

from datasets import Dataset

from nuggets_trainer import NuggetsConfig, score_pool
from tests.support.trl_templates import SOURCES


def turns(question, answer):
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


def test_what_is_left_out_is_counted(llama, tokenizer, tmp_path):
    """It was logged alone."""
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.chat_template = SOURCES["deepseek_r1_distill"]
    questions = ["red?", "blue?", "day?", "night?"]
    pool = Dataset.from_list([turns(text, f"<think>sun</think>{text[:-1]}") for text in questions[:3]] + [
        turns(questions[3], "one")
    ])  # fmt: skip
    anchors = Dataset.from_list([turns("cat?", "dog"), turns("dog?", "<think>rain</think>cat")])
    config = NuggetsConfig(top_k=2, schedule="exact", signal_check=False)
    scores, _ = score_pool(llama, tokenizer, pool, anchors, config, tmp_path)
    run = json.loads((tmp_path / "run.json").read_text())
    assert run["remarks"] == {"candidates": {"reasoning_left_out": 3}, "anchors": {"reasoning_left_out": 1}}
    told = {caution["title"]: caution["text"] for caution in scores.cautions}
    assert "3 candidates and 1 anchor" in told["The template leaves out reasoning"]
