"""Templates of issues, workflows, and what is proposed to TRL: valid by their schemas, and the script runs."""

from __future__ import annotations

import json
import sys

import pytest
import yaml

from nuggets_trainer import load_rows
from nuggets_trainer.demo import demo_path
from tests.support.launch import ROOT, run

TEMPLATES = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.stem)
def test_a_template_has_the_keys_of_an_issue_form(path):
    form = yaml.safe_load(path.read_text())
    assert set(form) == {"name", "description", "labels", "body"}
    for field in form["body"]:
        assert field["type"] in ("input", "textarea") and field["id"] and field["attributes"]["label"]
    assert len({field["id"] for field in form["body"]}) == len(form["body"])


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_runs_what_is_there(path):
    workflow = yaml.safe_load(path.read_text())
    assert {"name", "jobs"} < set(workflow) and (ROOT / ".ci" / "run").is_file()
    for job in workflow["jobs"].values():
        assert job["runs-on"] and all(set(step) & {"uses", "run"} for step in job["steps"])
        for step in job["steps"]:
            folders = [word for word in step.get("run", "").split() if word.startswith("tests/")]
            assert all((ROOT / folder).is_dir() for folder in folders)


@pytest.mark.slow
def test_the_script_for_trl_runs(tmp_path):
    """On a folder of rows, as `load_dataset` reads a name of the hub."""
    (tmp_path / "rows").mkdir()
    rows = load_rows("nuggets-demo/pool").select(range(24)).select_columns(["instruction", "input", "output"])
    lines = [f"{json.dumps({'prompt': row['instruction'], 'completion': row['output']})}\n" for row in rows]
    (tmp_path / "rows" / "train.jsonl").write_text("".join(lines))
    command = [sys.executable, str(ROOT / "docs/trl_proposal/sft_golden_set.py"), "--use_peft", "--max_steps", "1"]
    command += ["--model_name_or_path", str(demo_path("model")), "--dataset_name", str(tmp_path / "rows")]
    command += ["--num_anchors", "5", "--top_fraction", "0.25", "--use_cpu", "true", "--bf16", "false"]
    run([*command, "--report_to", "none", "--output_dir", str(tmp_path / "out")], cwd=tmp_path)
    assert (tmp_path / "out" / "adapter_model.safetensors").is_file()
