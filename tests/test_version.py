"""The version is known wherever the package runs."""

from __future__ import annotations

import json
import re
import subprocess

import pytest

import nuggets_trainer
from nuggets_trainer.version import UNKNOWN, VERSION, installed_version
from tests.support.bare_path import bare_path, bare_python
from tests.support.launch import ROOT

NOT_INSTALLED = """
import importlib.metadata
try:
    importlib.metadata.version("nuggets_trainer")
    print("installed")
except importlib.metadata.PackageNotFoundError:
    print("not installed")
import nuggets_trainer
print(nuggets_trainer.__version__, nuggets_trainer.__file__)
from nuggets_trainer import cli
cli.main(["--version"])
"""


def test_all_places_name_the_same_version():
    assert nuggets_trainer.__version__ == VERSION
    citation = re.search(r"^version: (\S+)$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE)
    changes = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert citation and changes and citation[1] == changes[1] == VERSION
    assert installed_version("pytest") == pytest.__version__ and installed_version("no-such-package") == UNKNOWN


def test_the_version_needs_no_installed_package(tmp_path):
    """It came from installed metadata: with PYTHONPATH alone, a run ended without its report."""
    command = bare_python("-c", NOT_INSTALLED)
    done = subprocess.run(command, env=bare_path(tmp_path), capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    first, face, printed = done.stdout.splitlines()
    assert first == "not installed" and face.startswith(f"{VERSION} {tmp_path}")
    assert printed == f"nuggets_trainer {VERSION}"


@pytest.mark.slow
def test_a_run_from_a_bare_path_writes_all_its_files(tmp_path):
    (tmp_path / "run").mkdir()
    common = {"env": bare_path(tmp_path), "capture_output": True, "text": True, "cwd": tmp_path / "run"}
    demo = ["--model_name_or_path", "nuggets-demo/model", "--dataset_name", "nuggets-demo/pool"]
    demo += ["--anchors", "nuggets-demo/anchors", "--pool_size", "60", "--score_dir"]
    for command in (["score", *demo, "a"], ["diff", "a", "a", "--output_file", "page.html"]):
        done = subprocess.run(bare_python("-m", "nuggets_trainer.cli", *command), **common)
        assert done.returncode == 0, done.stderr
    run = json.loads((tmp_path / "run" / "a" / "run.json").read_text())
    assert run["versions"]["nuggets_trainer"] == VERSION
    assert all(re.match(r"\d+\.\d+", version) for version in run["versions"].values())
    for page in ("a/report.html", "page.html"):
        assert VERSION in (tmp_path / "run" / page).read_text()
