"""The rooms of the package, and what each may import. The table below is the rule; the code is checked against it."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import pytest

import nuggets_trainer

PACKAGE = Path(nuggets_trainer.__file__).parent
MODEL_LIBRARIES = {"torch", "transformers", "trl", "peft", "accelerate"}
EVERYWHERE = {"ranks", "version", "wording"}  # these stand above all rooms


@dataclass(frozen=True)
class Room:
    """What a room may import from the package, and which packages it must not import."""

    may: set[str]
    types_only: set[str] = field(default_factory=set)  # rooms of which it may import names for annotations alone
    never: set[str] = field(default_factory=set)


BELOW_PIPELINE = {
    *("config", "golden", "racing", "demo", "data", "prompts", "engine", "store", "scoring", "signals", "report"),
    "overlap",
}
ROOMS = {
    "config": Room(may=set(), never={*MODEL_LIBRARIES, "datasets", "numpy", "pandas", "pyarrow", "fsspec"}),
    "golden": Room(may=set(), never={*MODEL_LIBRARIES, "datasets", "pandas", "pyarrow", "fsspec"}),
    "racing": Room(may={"golden"}, never={*MODEL_LIBRARIES, "datasets", "pandas", "pyarrow", "fsspec"}),
    "demo": Room(may=set(), never={*MODEL_LIBRARIES}),
    "data": Room(may={"config", "demo"}, never={*MODEL_LIBRARIES}),
    "prompts": Room(may={"data"}, never={"torch", "peft", "accelerate"}),
    "engine": Room(may={"prompts.segment", "demo"}, types_only={"config"}, never={"trl"}),
    "store": Room(may={"config", "golden", "data", "engine"}, types_only={"prompts"}, never={"trl"}),
    "scoring": Room(may={"config", "golden", "racing", "data", "prompts", "engine", "store"}, never={"trl"}),
    "signals": Room(may={"config", "golden", "data", "prompts", "engine", "store", "scoring"}, never={"trl"}),
    "report": Room(may={"config", "golden", "store"}, types_only={"data"}, never={*MODEL_LIBRARIES}),
    "evaluation": Room(may={"config", "data", "prompts", "engine", "store", "demo"}, never={"trl"}),
    "judging": Room(may={"config", "evaluation", "store"}, never={*MODEL_LIBRARIES, "datasets"}),
    "overlap": Room(
        may={"config", "golden", "data", "evaluation.questions", "store.selection_file"}, never=set(MODEL_LIBRARIES)
    ),
    "pipeline": Room(may=set(BELOW_PIPELINE), never={"trl"}),
    "planning": Room(may={*BELOW_PIPELINE, "pipeline"}, never={"trl"}),
    "inspection": Room(
        may={"config", "demo", "data", "prompts", "engine", "store", "report", "overlap", "pipeline"},
        types_only={"scoring"},
        never={"torch", "trl", "peft", "accelerate"},
    ),
    "batches": Room(may={*BELOW_PIPELINE, "pipeline"}, never={"trl"}),
    "training": Room(may={*BELOW_PIPELINE, "pipeline"}),
    "analysis": Room(may={"golden", "data", "store"}, never={*MODEL_LIBRARIES}),
    "heldout": Room(may={"prompts", "engine"}, never={"trl"}),
    "comparison": Room(may={*BELOW_PIPELINE, "pipeline", "training", "analysis", "heldout"}),
    "launch": Room(may=set(), never={"trl", "transformers", "datasets", "numpy", "pandas"}),
    "commands": Room(
        may={
            *BELOW_PIPELINE,
            "pipeline",
            "planning",
            "inspection",
            "training",
            "comparison",
            "evaluation",
            "judging",
            "launch",
        }
    ),
}
TRL_ROOMS = {"training", "comparison", "commands"}
COLLECTIVES_IN = {"ranks", "engine.in_step"}
COLLECTIVES = {
    *("gather", "gather_object", "gather_for_metrics", "broadcast", "broadcast_object_list", "reduce"),
    *("pad_across_processes", "wait_for_everyone", "main_process_first", "local_main_process_first"),
}
MOST_FILES = 15  # modules in a room
MOST_LINES = 320  # in a module


@dataclass(frozen=True)
class Import:
    """One imported name, such as `nuggets_trainer.data.pool.Pool`."""

    name: str
    line: int
    types_only: bool


@cache
def module_paths() -> dict[str, Path]:
    """Dotted names without `nuggets_trainer.`; a room's `__init__` has the room's name, the face the empty one."""
    names = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        names[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return names


def imports_of(node: ast.AST, types_only: bool = False) -> Iterator[Import]:
    """All imports below a node, also those inside functions and those for a type checker alone."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from (Import(alias.name, child.lineno, types_only) for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0, "relative import"
            yield from (Import(f"{child.module}.{alias.name}", child.lineno, types_only) for alias in child.names)
        elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
            yield from imports_of(ast.Module(body=child.body, type_ignores=[]), types_only=True)
            yield from imports_of(ast.Module(body=child.orelse, type_ignores=[]), types_only)
        else:
            yield from imports_of(child, types_only)


@cache
def tree_of(module: str) -> ast.Module:
    return ast.parse(module_paths()[module].read_text())


@cache
def module_imports(module: str) -> tuple[Import, ...]:
    return tuple(imports_of(tree_of(module)))


def room_of(module: str) -> str:
    return module.split(".")[0]


def own_target(found: Import) -> str | None:
    """Module of this package that an import reaches; None for other packages."""
    if found.name.split(".")[0] != "nuggets_trainer":
        return None
    name = found.name.removeprefix("nuggets_trainer").removeprefix(".")
    known = [module for module in module_paths() if f"{name}.".startswith(f"{module}." if module else "")]
    return max(known, key=len)


def arrows() -> list[tuple[str, str, Import]]:
    """Every import of one module of the package by another."""
    found = []
    for module in module_paths():
        for one in module_imports(module):
            target = own_target(one)
            if target is not None and target != module:
                found.append((module, target, one))
    return found


def is_allowed(module: str, target: str, types_only: bool) -> bool:
    room, other = room_of(module), room_of(target)
    if other in EVERYWHERE or room == other:
        return True
    if room in EVERYWHERE:
        return False
    rule = ROOMS[room]
    named = {target, other}
    return bool(named & rule.may) or (types_only and bool(named & rule.types_only))


def test_the_table_names_every_room():
    rooms = {room_of(module) for module in module_paths()} - {"", "cli", *EVERYWHERE}
    assert rooms == set(ROOMS)


def test_the_root_holds_the_face_and_four_modules():
    assert {path.name for path in PACKAGE.glob("*.py")} == {
        "__init__.py",
        "cli.py",
        "ranks.py",
        "version.py",
        "wording.py",
    }


def test_rooms_import_only_what_the_table_says():
    """Type-only imports and imports inside functions count too."""
    wrong = [
        f"{module}:{one.line} imports {target}"
        for module, target, one in arrows()
        if room_of(module) not in {"", "cli"} and not is_allowed(module, target, one.types_only)
    ]
    assert wrong == []


def test_cli_imports_the_commands_and_the_launcher():
    rooms = {room_of(target) for module, target, _ in arrows() if module == "cli"}
    assert rooms <= {"commands", "launch", *EVERYWHERE}


def test_the_import_check_sees_all_kinds_of_imports():
    code = """
if TYPE_CHECKING:
    from nuggets_trainer.data.pool import Pool
def f():
    import nuggets_trainer.racing.race
"""
    found = list(imports_of(ast.parse(code)))
    assert [own_target(one) for one in found] == ["data.pool", "racing.race"]
    assert [one.types_only for one in found] == [True, False]
    assert len(arrows()) > 300


def test_nobody_inside_imports_the_face():
    """What the package exports is for users; the version stands in version.py."""
    assert [f"{module}:{one.line}" for module, target, one in arrows() if target == ""] == []


def strongly_connected(graph: dict[str, set[str]]) -> list[set[str]]:
    """Sets of modules that reach each other."""

    def reach(start: str) -> set[str]:
        seen, waiting = set(), [start]
        while waiting:
            for other in graph.get(waiting.pop(), set()) - seen:
                seen.add(other)
                waiting.append(other)
        return seen

    reached = {module: reach(module) for module in graph}
    circles = {frozenset(o for o in reached[m] if m in reached.get(o, set())) for m in graph if m in reached[m]}
    return [set(circle) for circle in circles]


def test_no_module_imports_itself_in_a_circle():
    graph: dict[str, set[str]] = {module: set() for module in module_paths()}
    for module, target, _ in arrows():
        graph[module].add(target)
    graph.pop("")
    assert strongly_connected(graph) == []
    assert strongly_connected({"a": {"b"}, "b": {"a"}, "c": {"a"}}) == [{"a", "b"}]  # the check can see one


def test_rooms_do_not_import_what_they_must_not():
    wrong = [
        f"{module}:{one.line} imports {one.name}"
        for module in module_paths()
        if room_of(module) in ROOMS
        for one in module_imports(module)
        if one.name.split(".")[0] in ROOMS[room_of(module)].never
    ]
    assert wrong == []


def test_trl_is_imported_in_three_rooms_only():
    users = {room_of(m) for m in module_paths() for one in module_imports(m) if one.name.split(".")[0] == "trl"}
    assert users <= TRL_ROOMS


def test_rooms_and_modules_stay_small():
    sizes = {module: len(path.read_text().splitlines()) for module, path in module_paths().items()}
    assert {module: size for module, size in sizes.items() if size > MOST_LINES} == {}
    files = {room: sum(room_of(module) == room for module in sizes) - 1 for room in ROOMS}
    assert {room: number for room, number in files.items() if number > MOST_FILES} == {}


def test_every_module_says_what_it_is():
    assert [module for module in module_paths() if not ast.get_docstring(tree_of(module))] == []


def test_a_room_says_its_job_and_what_it_does_not_know():
    """The first line is the job; a later one begins with "Does not know"."""
    for room in ROOMS:
        head = ast.get_docstring(tree_of(room)) or ""
        assert re.match(r"[A-Z].*\.$", head.splitlines()[0]), room
        assert "Does not know" in head or room == "commands", room


def test_only_a_room_says_what_it_does_not_know():
    pattern = re.compile(r"\b(Knows|Does not know|knows) (no|nothing)\b|\bDoes not know\b")
    wrong = [
        module
        for module, path in module_paths().items()
        if path.name != "__init__.py" and pattern.search(path.read_text())
    ]
    assert wrong == []


def test_base_classes_take_types_that_python_3_10_knows():
    """`logging.StreamHandler[TextIO]` fails before Python 3.11, and with it every command; mypy does not see it."""
    known = {"Dataset", "Generic", "Mapping", "Sampler", "dict"}
    found = {
        ast.unparse(base.value)
        for module in module_paths()
        for node in ast.walk(tree_of(module))
        if isinstance(node, ast.ClassDef)
        for base in node.bases
        if isinstance(base, ast.Subscript)
    }
    assert found == known


def public_definitions(module: str) -> set[str]:
    nodes = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    return {node.name for node in tree_of(module).body if isinstance(node, nodes) and not node.name.startswith("_")}


def test_no_public_name_is_defined_in_two_rooms():
    places: dict[str, set[str]] = {}
    for module in module_paths():
        for name in public_definitions(module):
            places.setdefault(name, set()).add(room_of(module))
    shared = {"parse", "run"}  # of every command
    assert {name: rooms for name, rooms in places.items() if len(rooms) > 1 and name not in shared} == {}


def collectives(module: str) -> set[str]:
    """Name the collectives of accelerate and torch.distributed that a module uses; a tensor's own `gather` is none."""
    names = {one.name for one in module_imports(module) if not one.types_only}
    found = {name for name in names if name.startswith("torch.distributed")}
    found -= {name for name in names if name.startswith("torch.distributed.elastic")}  # starts processes
    found |= {name for name in names if name.startswith("accelerate.") and name.split(".")[-1] in COLLECTIVES}
    for node in ast.walk(tree_of(module)):
        if not isinstance(node, ast.Attribute) or not isinstance(node.value, (ast.Attribute, ast.Name, ast.Call)):
            continue
        owner = ast.unparse(node.value)
        speaks_to_all = any(word in owner for word in ("accelerator", "PartialState", "_state", "accelerate"))
        if owner == "torch.distributed" or (speaks_to_all and node.attr in COLLECTIVES):
            found.add(f"{owner}.{node.attr}")
    return found


def test_collectives_live_in_two_files():
    assert collectives("ranks")  # the check can see them
    assert {module for module in module_paths() if collectives(module)} == COLLECTIVES_IN


def test_the_readme_shows_the_rooms():
    """Each line of its tree is a room and the first line of the room's docstring."""
    readme = (PACKAGE.parent / "README.md").read_text()
    tree = re.search(r"```text\nnuggets_trainer/\n(.*?)```", readme, re.DOTALL)
    assert tree, "README.md has no tree of nuggets_trainer/"
    shown = dict(re.findall(r"^  (\w+)/ +(.+)$", tree[1], re.MULTILINE))
    jobs = {room: (ast.get_docstring(tree_of(room)) or "").splitlines()[0] for room in ROOMS}
    assert shown == {room: job.rstrip(".") for room, job in jobs.items()}


@pytest.mark.parametrize(
    "statement",
    [
        "import nuggets_trainer",
        "import nuggets_trainer.cli",
        # AlpacaEval's package runs in a process of its own, which has no need of them
        "import nuggets_trainer.judging.judge, nuggets_trainer.judging.alpaca_judge",
        "import nuggets_trainer.judging.paper, nuggets_trainer.judging.pairwise",
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
