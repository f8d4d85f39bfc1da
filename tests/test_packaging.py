"""The wheel is complete, and runs in an environment of its own."""

from __future__ import annotations

import json
import os
import re
import runpy
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.support.launch import ROOT


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Built from a copy of the tree in which a program has run: building leaves files in the tree."""
    place = tmp_path_factory.mktemp("wheel")
    source = place / "source"
    skipped = shutil.ignore_patterns(
        ".git", ".venv", "build", "dist", "outputs", "*.egg-info", "__pycache__", ".*cache"
    )
    shutil.copytree(ROOT, source, ignore=skipped, symlinks=True)
    compiled = source / "nuggets_trainer" / "demo" / "__pycache__" / "__init__.cpython-311.pyc"
    compiled.parent.mkdir()
    compiled.write_bytes(b"")
    build = ["-m", "pip", "wheel", "--quiet", "--no-build-isolation", "--no-deps", "--wheel-dir", str(place)]
    subprocess.run([sys.executable, *build, str(source)], check=True, capture_output=True)
    (built,) = place.glob("*.whl")
    return built


def test_the_wheel_holds_demo_configs_licence_and_types(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    package = ROOT / "nuggets_trainer"
    expected = {f"nuggets_trainer/{path.relative_to(package).as_posix()}" for path in package.rglob("*.py")}
    expected |= {
        f"nuggets_trainer/configs/{p.relative_to(ROOT / 'configs')}" for p in (ROOT / "configs").rglob("*.yaml")
    }
    demo = [path for path in (package / "demo").rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    expected |= {f"nuggets_trainer/{path.relative_to(package).as_posix()}" for path in demo}
    assert len(expected) > 80
    assert expected | {"nuggets_trainer/py.typed"} <= names
    assert any(name.endswith("LICENSE") for name in names)
    assert not any(name.startswith(("tests/", "recipes/")) or "__pycache__" in name for name in names)


def test_the_description_has_no_link_into_the_repository(wheel):
    """A package index shows the README alone, where relative links lead nowhere."""
    (name,) = [each for each in zipfile.ZipFile(wheel).namelist() if each.endswith(".dist-info/METADATA")]
    metadata = zipfile.ZipFile(wheel).read(name).decode()
    assert "Description-Content-Type: text/markdown" in metadata and "Project-URL: Paper" in metadata
    assert "# nuggets_trainer" in metadata and "```bash" in metadata
    targets = re.findall(r"\]\(([^)]+)\)", metadata.split("\n\n", 1)[1])
    assert targets and all(target.startswith("https://") for target in targets), targets


def test_links_lead_to_the_repository_where_it_has_an_address():
    long_description = runpy.run_path(str(ROOT / "setup.py"), run_name="setup")["long_description"]
    page = "![A row](docs/idea.svg) [log](docs/log/a.md#b) [paper](https://arxiv.org) [![R](docs/r.png)](docs/r.md)"
    host = "https://host/us/it"
    assert long_description(page, f"{host}/blob/main/") == (
        f"![A row]({host}/raw/main/docs/idea.svg) [log]({host}/blob/main/docs/log/a.md#b) [paper](https://arxiv.org) "
        f"[![R]({host}/raw/main/docs/r.png)]({host}/blob/main/docs/r.md)"
    )
    assert long_description(page, None).split() == ["log", "[paper](https://arxiv.org)"]


def test_the_address_of_the_repository_stands_in_one_file(tmp_path, monkeypatch):
    monkeypatch.delenv("DOCS_REPOSITORY", raising=False)
    address_of_files = runpy.run_path(str(ROOT / "setup.py"), run_name="setup")["address_of_files"]
    table = (ROOT / "pyproject.toml").read_text()
    (tmp_path / "pyproject.toml").write_text(table)
    assert address_of_files(tmp_path) is None
    (tmp_path / "pyproject.toml").write_text(table.replace("# Repository", "Repository"))
    assert address_of_files(tmp_path) == "https://github.com/OWNER/NAME/blob/main"


def test_every_extra_is_found_by_its_name(wheel):
    """An extra `lm_eval` was `lm-eval` in the wheel, and pip 23 did not find it."""
    (name,) = [each for each in zipfile.ZipFile(wheel).namelist() if each.endswith(".dist-info/METADATA")]
    metadata = zipfile.ZipFile(wheel).read(name).decode()
    table = (ROOT / "pyproject.toml").read_text().split("[project.optional-dependencies]\n")[1].split("\n[")[0]
    extras = re.findall(r"^([\w-]+) = \[", table, flags=re.MULTILINE)
    assert len(extras) >= 8
    assert sorted(extras) == sorted(re.findall(r"^Provides-Extra: (\S+)", metadata, flags=re.MULTILINE))


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """The programs of a fresh environment with the wheel. Some minutes: torch is installed anew."""
    place = tmp_path_factory.mktemp("installed")
    subprocess.run([sys.executable, "-m", "venv", str(place / "env")], check=True)
    programs = place / "env" / "bin"
    for package in ("torch", str(wheel)):
        constrained = ["install", "--quiet", "-c", str(ROOT / "constraints.txt"), package]
        subprocess.run([programs / "python", "-m", "pip", *constrained], check=True, timeout=1800)
    return programs


def run_installed(programs: Path, place: Path, *words: str) -> str:
    """Run a program of the environment outside the clone, without a path to it; return its output and its log."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [str(programs / words[0]), *words[1:]]
    done = subprocess.run(command, env=environment, cwd=place, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stderr[-6000:]
    return done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_wheel_runs_the_demo_in_a_fresh_environment(installed, tmp_path):
    where = run_installed(installed, tmp_path, "python", "-c", "import nuggets_trainer as n; print(n.__file__)")
    assert where.startswith(str(installed.parent))
    page = run_installed(installed, tmp_path, "nuggets", "--help")
    assert "nuggets [--debug] <command>" in page
    run_installed(installed, tmp_path, "nuggets", "train", "--demo", "--use_cpu", "true", "--max_steps", "2")
    assert (tmp_path / "outputs" / "demo" / "adapter_model.safetensors").is_file()


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_two_processes_of_the_wheel_score_as_one(installed, tmp_path):
    """Byte for byte, on a CPU, and both of them took part."""
    demo = ["--model_name_or_path", "nuggets-demo/model", "--dataset_name", "nuggets-demo/pool"]
    demo += ["--anchors", "nuggets-demo/anchors", "--pool_size", "120", "--schedule", "exact"]
    run_installed(installed, tmp_path, "nuggets", "score", *demo, "--score_dir", "one")
    run_installed(installed, tmp_path, "nuggets", "score", *demo, "--score_dir", "two", "--num_processes", "2")
    one, two = tmp_path / "one", tmp_path / "two"
    processes = [json.loads((place / "run.json").read_text())["device"]["processes"] for place in (one, two)]
    assert processes == [1, 2]
    for name in ("scores.parquet", "pairs.parquet", "anchors.parquet"):
        assert (one / name).read_bytes() == (two / name).read_bytes(), name
