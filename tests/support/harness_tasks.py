"""A folder with two tasks of lm-evaluation-harness on held-out rows of the demo."""

from __future__ import annotations

import json
from pathlib import Path

from nuggets_trainer import load_rows

TASK = """
dataset_path: json
dataset_kwargs: {{data_files: {{test: {docs}}}}}
test_split: test
doc_to_text: "{{{{question}}}}"
metadata: {{version: 1.0}}
"""
CHOICE = """
task: tiny_choice
output_type: multiple_choice
doc_to_choice: "{{[wrong, right]}}"
doc_to_target: 1
metric_list: [{metric: acc}, {metric: acc_norm}]
"""
ANSWER = """
task: tiny_answer
output_type: generate_until
doc_to_target: "{{right}}"
generation_kwargs: {until: ["."], max_gen_toks: 12}
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true, regexes_to_ignore: ["^ ", "[.]"]}]
"""


def write_tasks(folder: Path, num_docs: int = 6) -> str:
    """Questions of the demo's held-out rows, with the answer and its words backwards."""
    docs, lines = folder / "docs.jsonl", []
    for row in load_rows("nuggets-demo/heldout").select(range(num_docs)):
        backwards = " ".join(reversed(row["output"].split()))
        lines.append(json.dumps({"question": row["instruction"], "right": row["output"], "wrong": backwards}) + "\n")
    docs.write_text("".join(lines))
    for name, own in (("choice", CHOICE), ("answer", ANSWER)):
        (folder / f"{name}.yaml").write_text(own + TASK.format(docs=docs))
    return str(folder)
