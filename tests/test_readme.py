"""Every command and code block of the README is real: parsed by the program it names."""

from __future__ import annotations

import re
import shlex
from importlib import import_module

from accelerate.commands.launch import launch_command_parser

from tests.launch import ROOT

SERVE_OPTIONS = {"--port", "--host", "--device", "--dtype"}  # used by test_evaluate.py, or in `--help`
README = (ROOT / "README.md").read_text()
GUIDES = ROOT / "docs" / "guides"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def commands() -> list[list[str]]:
    lines = "\n".join(blocks("bash")).replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def test_every_command_is_parsed_by_its_program(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "recipes"))
    import compare
    import control
    import evaluate
    import follows
    import train

    programs = {
        "recipes/train.py": train.parse,
        "recipes/control.py": control.parse,
        "recipes/compare.py": compare.parse,
    }
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    parsed = 0
    for words in commands():
        if words[0] == "make":
            assert words[1] in targets
        elif words[:2] == ["accelerate", "launch"] or words[0] == "python":
            script = next(i for i, word in enumerate(words) if word.startswith("recipes/"))
            if words[0] == "accelerate":
                launch_command_parser().parse_args(words[2 : script + 1])
            assert all((ROOT / word).is_file() for word in words[2:script] if word.endswith(".yaml"))
            if words[script] == "recipes/evaluate.py":
                evaluate.parse(words[script + 1 :])
            elif words[script] == "recipes/follows.py":
                follows.make_parser().parse_args(words[script + 1 :])
            else:
                programs[words[script]]([*words[script + 1 :], "--use_cpu", "--bf16", "false"])
        elif words[0] == "nuggets":
            import_module(f"nuggets_trainer.commands.{words[1]}").parse(words[2:])
        elif words[:2] == ["transformers", "serve"]:
            assert {word for word in words if word.startswith("--")} <= SERVE_OPTIONS
        else:
            assert words == ["bash", ".ci/run"] or words[0] in ("pip", "curl", "vllm"), words
        parsed += 1
    assert parsed >= 8


def test_python_blocks_compile():
    found = blocks("python")
    for block in found:
        compile(block, "README.md", "exec")
    assert found


def test_the_list_of_files_is_complete():
    tree = README[README.index("```text\nnuggets_trainer/") :]
    named = set(re.findall(r"^  (\w+)(?:\.py|/) ", tree, flags=re.MULTILINE))
    package = {path.stem for path in (ROOT / "nuggets_trainer").iterdir() if path.stem != "__init__"} - {
        "__pycache__",
        "py",
    }
    assert package <= named
    inner = set(re.findall(r"^    (\w+)\.py ", tree, flags=re.MULTILINE))
    subpackages = [path.stem for path in (ROOT / "nuggets_trainer").glob("[er]*/*.py")]  # evaluation, report
    assert set(subpackages) - {"__init__"} == inner
    assert {"train", "demo", "build_demo", "compare", "follows", "evaluate"} <= named


def test_configs_are_listed():
    guide = (GUIDES / "getting_started.md").read_text()
    for path in [*(ROOT / "configs").glob("*.yaml"), *(ROOT / "configs" / "paper").glob("*.yaml")]:
        assert f"`{path.relative_to(ROOT)}`" in guide


def test_what_the_demo_prints_is_shown():
    for line in (
        "clean rows in the golden set",
        "held-out loss, golden set",
        "held-out loss, random set of the same size",
    ):
        assert re.search(rf"^{line} +[0-9.]+", README, flags=re.MULTILINE)
    assert not re.search(r"\b[A-Z]+_[A-Z]+\b", README)  # no placeholder left


def test_the_comparison_that_is_shown_has_every_arm_at_every_fraction(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "recipes"))
    from compare_arms import LABELS

    section = (GUIDES / "does_it_pay.md").read_text()
    rows = [[cell.strip() for cell in line.split("|")] for line in section.splitlines() if line.startswith("| ")]
    shown = [(row[1], row[2]) for row in rows if len(row) > 5 and row[2] in LABELS.values()]
    assert {label for _, label in shown} == set(LABELS.values())
    assert {fraction for fraction, _ in shown} == {"", "1%", "5%", "10%", "25%"}
    assert len(shown) == 2 + 4 * (len(LABELS) - 2)
    plot = re.search(r"!\[[^]]*\]\(([^)]+)\)", section)
    assert plot and (GUIDES / plot.group(1)).is_file()
