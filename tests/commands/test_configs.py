"""`nuggets configs` finds what ships with the package."""

from __future__ import annotations

import re

from nuggets_trainer.cli import main
from tests.support.launch import ROOT


def test_the_shipped_configs_are_found_by_name(capsys):
    assert main(["configs"]) == 0
    listed = capsys.readouterr().out
    for path in (ROOT / "configs").rglob("*.yaml"):
        assert path.relative_to(ROOT / "configs").with_suffix("").as_posix() in listed
    entries = re.split(r"\n(?=\S)", listed.strip())
    assert len(entries) >= 10 and all(entry.endswith((".", "?")) for entry in entries)  # whole sentences
    assert main(["configs", "accelerate/fsdp2"]) == 0
    assert capsys.readouterr().out.strip().endswith("configs/accelerate/fsdp2.yaml")
