"""The wheel is complete, and runs in an environment of its own."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.support.launch import ROOT


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Built from a copy of what git keeps: building leaves files in the tree."""
    place = tmp_path_factory.mktemp("wheel")
    source = place / "source"
    skipped = shutil.ignore_patterns(
        ".git", ".venv", "build", "dist", "outputs", "*.egg-info", "__pycache__", ".*cache"
    )
    shutil.copytree(ROOT, source, ignore=skipped, symlinks=True)
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
    assert not any(name.startswith(("tests/", "recipes/")) for name in names)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_wheel_runs_the_demo_in_a_fresh_environment(wheel, tmp_path):
    """Some minutes: torch is installed anew."""
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "env")], check=True)
    bin_ = tmp_path / "env" / "bin"
    for package in ("torch", str(wheel)):
        install = [bin_ / "python", "-m", "pip", "install", "--quiet", "-c", str(ROOT / "constraints.txt"), package]
        subprocess.run(install, check=True, timeout=1800)
    page = subprocess.run([bin_ / "nuggets", "--help"], check=True, capture_output=True, text=True, cwd=tmp_path)
    assert "nuggets [--debug] <command>" in page.stdout
    train = [bin_ / "nuggets", "train", "--demo", "--use_cpu", "true", "--max_steps", "2"]
    subprocess.run(train, check=True, timeout=1800, cwd=tmp_path)
    assert (tmp_path / "outputs" / "demo" / "adapter_model.safetensors").is_file()
