"""TRL's own `sft.py`, changed by the two lines that the docs show, selects and trains."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import trl
from datasets import Dataset

from tests.support.launch import ROOT, run
from tests.support.rows import alpaca_rows

GUIDE = ROOT / "docs" / "guides" / "getting_started.md"


def patched(script: str) -> str:
    """Apply the diff of docs/guides/getting_started.md: each added line goes behind the line that stands before it."""
    (diff,) = re.findall(r"```diff\n(.*?)```", GUIDE.read_text(), flags=re.DOTALL)
    lines, added = script.splitlines(), 0
    place = 0
    for line in diff.splitlines():
        if line.startswith("+"):
            lines.insert(place, line[1:])
            place, added = place + 1, added + 1
        elif line.strip() not in ("", "..."):
            place = lines.index(line[1:], place) + 1
    assert added == 2
    return "\n".join(lines)


def test_two_lines_make_trls_sft_script_select(model_dir, tmp_path):
    script = tmp_path / "sft.py"
    script.write_text(patched((Path(trl.__file__).parent / "scripts" / "sft.py").read_text()))
    (tmp_path / "pool").mkdir()
    pool = [{"prompt": row["instruction"], "completion": row["output"]} for row in alpaca_rows(120)]
    Dataset.from_list(pool).to_json(tmp_path / "pool" / "train.jsonl")
    options = {
        "model_name_or_path": model_dir,
        "dataset_name": str(tmp_path / "pool"),
        "output_dir": str(tmp_path / "out"),
        "per_device_train_batch_size": "1",
        "num_train_epochs": "2",
        "report_to": "none",
        "bf16": "false",
    }
    arguments = [word for name, value in options.items() for word in (f"--{name}", value)]
    run([sys.executable, str(script), *arguments, "--use_cpu", "--use_peft", "--lora_r", "4"])
    golden_set = json.loads((tmp_path / "out" / "nuggets_selection.json").read_text())
    assert len(golden_set["indices"]) == 12  # the best tenth, by the default's 100 anchors
    state = json.loads((tmp_path / "out" / "checkpoint-24" / "trainer_state.json").read_text())
    assert state["max_steps"] == 24
    assert (tmp_path / "out" / "adapter_model.safetensors").is_file()
