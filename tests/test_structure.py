"""The file list is the pipeline: imports point upwards, modules stay short, collectives live in one file."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import nuggets_trainer

PACKAGE = Path(nuggets_trainer.__file__).parent
ORDER = [
    "checks",
    "config_checks",
    "config",
    "golden",
    "anchors",
    "coverage",
    "limits",
    "selection",
    "reliability",
    "association",
    "confidence",
    "pilot",
    "schedule",
    "forecast",
    "rows",
    "corruptions",
    "formats",
    "pool",
    "diversity",
    "segment",
    "encoding",
    "chat",
    "tokens",
    "templates",
    "attached",
    "prompts",
    "causal_lm",
    "packing",
    "attention",
    "flex",
    "head",
    "packed",
    "portable",
    "budget",
    "fusion",
    "ranks",
    "progress",
    "plan",
    "watch",
    "engine",
    "sharded",
    "fingerprint",
    "files",
    "parquet",
    "scratch",
    "manifest",
    "store",
    "results",
    "pairs",
    "outcome",
    "demo",
    "contexts",
    "loading",
    "options",
    "arguments",
    "job",
    "path",
    "execution",
    "completion_loss",
    "signal_check",
    "report.provenance",
    "report.result_files",
    "report.tallies",
    "report.verdicts",
    "report.cautions",
    "report.makeup",
    "report.figures",
    "report.charts",
    "report.page",
    "report.plots",
    "report.cards",
    "report.publish",
    "report",
    "scorer",
    "planning",
    "recut",
    "columns",
    "checkpoints",
    "slots",
    "training_set",
    "selector",
    "trackers",
    "callback",
    "trainer",
    "evaluation",
    *(
        f"evaluation.{name}"
        for name in (
            "intervals",
            "journal",
            "questions",
            "tuned",
            "generation",
            "answer_files",
            "answers",
            "judge",
            "mt_bench",
            "alpaca_judge",
            "alpaca_eval",
            "pairwise",
            "paper",
            "arguments",
        )
    ),
    "training",
    "commands",
    "commands.output",
    "commands.scoring",
    "commands.plan",
    "commands.score",
    "commands.select",
    "commands.report",
    "commands.train",
    "commands.configs",
    "commands.completion",
    "cli",
]
PACKAGES = {"demo", "evaluation", "report", "commands"}
COLLECTIVES = {
    "gather",
    "gather_object",
    "gather_for_metrics",
    "broadcast",
    "broadcast_object_list",
    "reduce",
    "pad_across_processes",
    "wait_for_everyone",
    "main_process_first",
    "local_main_process_first",
}


def path_of(module: str) -> Path:
    place = PACKAGE.joinpath(*module.split("."))
    return place / "__init__.py" if module in PACKAGES else place.with_suffix(".py")


def tree_of(module: str) -> ast.Module:
    return ast.parse(path_of(module).read_text())


def runtime_nodes(node: ast.AST):
    """All nodes that run, also inside functions; not what only a type checker sees."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
            for other in child.orelse:
                yield other
                yield from runtime_nodes(other)
            continue
        yield child
        yield from runtime_nodes(child)


def imported(module: str) -> set[str]:
    """Dotted names that a module imports when it runs."""
    names = set()
    for node in runtime_nodes(tree_of(module)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"relative import in {module}"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def own_imports(module: str) -> set[str]:
    names = {name.removeprefix("nuggets_trainer.") for name in imported(module) if name.startswith("nuggets_trainer.")}
    # `commands.output.rank` is of the module commands.output, `commands.COMMANDS` of the package.
    return {max((own for own in ORDER if f"{name}.".startswith(f"{own}.")), key=len, default=name) for name in names}


def test_the_order_names_every_module():
    found = {path.relative_to(PACKAGE).with_suffix("").as_posix() for path in PACKAGE.rglob("*.py")}
    assert {name.removesuffix("/__init__").replace("/", ".") for name in found - {"__init__"}} == set(ORDER)


@pytest.mark.parametrize("module", ORDER)
def test_imports_point_upwards_only(module):
    above = set(ORDER[: ORDER.index(module)])
    assert own_imports(module) <= above


def test_the_import_check_sees_imports_inside_functions():
    assert "scorer" in own_imports("commands.score")
    assert "evaluation.journal" in own_imports("evaluation.judge")
    assert sum(len(own_imports(module)) for module in ORDER) >= 30


def test_the_pure_modules_import_no_framework():
    heavy = {"torch", "transformers", "trl", "peft", "accelerate", "datasets"}
    for module in ("config", "golden", "anchors", "selection", "reliability", "association", "forecast", "plan"):
        assert not {name.split(".")[0] for name in imported(module)} & heavy, module


@pytest.mark.parametrize("module", ORDER)
def test_a_module_fits_on_a_few_screens_and_says_what_it_is(module):
    text = path_of(module).read_text()
    assert len(text.splitlines()) <= 320
    assert ast.get_docstring(ast.parse(text)), f"{module} has no docstring"


@pytest.mark.parametrize(
    "statement",
    [
        "import nuggets_trainer",
        "import nuggets_trainer.cli",
        # AlpacaEval's package runs in a process of its own, which has no need of them
        "import nuggets_trainer.evaluation.judge, nuggets_trainer.evaluation.alpaca_judge",
        "import nuggets_trainer.evaluation.paper, nuggets_trainer.evaluation.pairwise",
        "from nuggets_trainer import NuggetsConfig, golden_scores",
    ],
)
def test_importing_names_and_cli_does_not_import_torch(statement):
    code = f"{statement}; import sys; print(sorted({{'torch', 'transformers', 'trl', 'datasets'}} & set(sys.modules)))"
    output = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=PACKAGE.parent
    )
    assert output.stdout.strip() == "[]"


def test_every_public_name_resolves_and_is_listed():
    assert len(nuggets_trainer.__all__) == len(set(nuggets_trainer.__all__)) >= 10
    for name in nuggets_trainer.__all__:
        value = getattr(nuggets_trainer, name)
        assert value.__name__ == name
        assert value.__doc__
    assert set(nuggets_trainer.__all__) <= set(dir(nuggets_trainer))
    assert list(nuggets_trainer.__all__) == sorted(nuggets_trainer._MODULES)
    with pytest.raises(AttributeError, match="has no attribute 'no_such_name'"):
        _ = nuggets_trainer.no_such_name


def collectives(module: str) -> set[str]:
    """Name the collectives of accelerate and torch.distributed that a module uses; a tensor's own `gather` is none."""
    found = {name for name in imported(module) if name.startswith("torch.distributed")}
    found |= {
        name for name in imported(module) if name.startswith("accelerate.") and name.split(".")[-1] in COLLECTIVES
    }
    for node in runtime_nodes(tree_of(module)):
        if isinstance(node, ast.Attribute) and isinstance(node.value, (ast.Attribute, ast.Name, ast.Call)):
            owner = ast.unparse(node.value)
            speaks_to_all = (
                "accelerator" in owner or "PartialState" in owner or "_state" in owner or "accelerate" in owner
            )
            if owner == "torch.distributed" or (speaks_to_all and node.attr in COLLECTIVES):
                found.add(f"{owner}.{node.attr}")
    return found


def test_collectives_live_in_one_file():
    """And those that gather a model's weights in another: nothing else of it is spread over the ranks."""
    assert collectives("ranks")  # the check can see them
    assert {module for module in ORDER if collectives(module)} == {"ranks", "sharded"}
