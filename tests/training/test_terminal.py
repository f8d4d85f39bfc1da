"""What a plain script with a SelectedSFTTrainer shows on the terminal: an account, once, and no noise."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from nuggets_trainer import load_rows
from tests.support.launch import environment

SCRIPT = """
from datasets import load_dataset
from peft import LoraConfig
from trl import SFTConfig

from nuggets_trainer import NuggetsConfig, SelectedSFTTrainer
from nuggets_trainer.demo import resolve_demo

trainer = SelectedSFTTrainer(
    model=resolve_demo("nuggets-demo/model"),
    args=SFTConfig("out", use_cpu=True, bf16=False, max_steps=2, logging_steps=1, report_to="none"),
    train_dataset=load_dataset("json", data_files="pool.jsonl", split="train"),
    eval_dataset=load_dataset("json", data_files="anchors.jsonl", split="train"),
    anchor_dataset=load_dataset("json", data_files="anchors.jsonl", split="train"),
    peft_config=LoraConfig(),
    nuggets_config=NuggetsConfig(top_k=8),
)
trainer.train()
"""


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    """Run the script where nobody has set up logging; return what is on stdout and on stderr."""
    folder = tmp_path_factory.mktemp("plain")
    load_rows("nuggets-demo/pool").select(range(24)).to_json(folder / "pool.jsonl")
    load_rows("nuggets-demo/anchors").select(range(4)).to_json(folder / "anchors.jsonl")
    environ = {name: value for name, value in environment().items() if "PROGRESS_BARS" not in name}
    done = subprocess.run([sys.executable, "-c", SCRIPT], cwd=folder, env=environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout, done.stderr


def test_a_plain_script_shows_an_account_in_order(shown):
    """The cautions stood alone: the golden set was logged at INFO, and Python shows WARNING."""
    lines = re.split(r"[\r\n]+", shown[1])
    beginnings = (
        "plan: 24 candidates",
        "scored 24 candidates",
        "golden set: 8 of 24 candidates",
        "What the cautions mean",
    )
    places = []
    for beginning in beginnings:
        (place,) = [i for i, line in enumerate(lines) if line.startswith(beginning)]
        places.append(place)
    assert places == sorted(places)
    assert any(line.startswith("Caution: ") for line in lines[places[2] : places[3]])
    assert lines[places[3]].endswith("out/nuggets/report.html")


def test_a_plain_script_shows_no_noise(shown):
    """There were two FutureWarnings, twelve bars of preparations, and the golden set as a dict of 13 keys."""
    stdout, stderr = shown
    assert "FutureWarning" not in stderr
    bars = {name.strip() for name in re.findall(r"([\w ]*):? +0%\|", stderr)}
    assert bars == {"Loading weights", ""}  # the last one is the Trainer's own, over its steps
    assert "nuggets/" not in stdout and stdout.count("'loss'") == 2
