"""Templates of issues, workflows, the badge, and what is proposed to TRL: valid by their schemas; the script runs."""

from __future__ import annotations

import json
import runpy
import shutil
import sys

import nbformat
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


def pages_with_badge(root, repository=None):
    """README and notebook after `python docs/badge.py`, in a copy whose pyproject.toml states this address."""
    pyproject = (ROOT / "pyproject.toml").read_text()
    if repository is not None:
        assert pyproject.count("# Repository = ") == 1
        pyproject = pyproject.replace('# Repository = "https://github.com/OWNER/NAME"', f'Repository = "{repository}"')
    (root / "pyproject.toml").write_text(pyproject)
    badge = runpy.run_path(str(ROOT / "docs" / "badge.py"))
    badge["write_badges"](root)
    return (root / "README.md").read_text(), (root / badge["NOTEBOOK"]).read_text()


def test_one_address_makes_the_badges_of_colab(tmp_path):
    """The address stands in pyproject.toml alone; without one, README and notebook stay as they are."""
    (tmp_path / "docs" / "notebooks").mkdir(parents=True)
    for name in ("README.md", "docs/notebooks/first_golden_set.ipynb"):
        shutil.copy(ROOT / name, tmp_path / name)
    before = (tmp_path / "README.md").read_text(), (tmp_path / "docs/notebooks/first_golden_set.ipynb").read_text()
    assert pages_with_badge(tmp_path) == before, "pyproject.toml has another address: run `python docs/badge.py`"

    for owner in ("us", "others"):  # a second address takes the place of the first
        readme, notebook = pages_with_badge(tmp_path, f"https://github.com/{owner}/it/")
        target = f"https://colab.research.google.com/github/{owner}/it/blob/main/docs/notebooks/first_golden_set.ipynb"
        assert readme.splitlines()[2] == f"[![Open in Colab](docs/_static/open_in_colab.svg)]({target})"
        assert (ROOT / "docs/_static/open_in_colab.svg").is_file() and readme.count("Open in Colab") == 1
        found = nbformat.reads(notebook, as_version=4)
        nbformat.validate(found)
        assert found.cells[0].source.splitlines()[2] == f"[![Open in Colab](../_static/open_in_colab.svg)]({target})"
    assert pages_with_badge(tmp_path, "https://host/us/it") == before  # Colab opens no other host


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
