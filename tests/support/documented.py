"""The blocks and commands of the documentation, and the parser of every program that it calls.

A page is a Markdown file of the project. A command is a line of a block marked `bash`. A program without a parser here
is an error. This module only parses commands; tests/support/newcomer.py runs them.
"""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import inspect
import io
import os
import re
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import cache, cached_property
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from unittest.mock import patch

import yaml
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import launch_command_parser
from markdown_it import MarkdownIt

from nuggets_trainer.commands.arguments import parse_arguments, recipe_parser
from nuggets_trainer.commands.compare import make_compare_parser
from nuggets_trainer.commands.config_file import config_path
from nuggets_trainer.commands.evaluate import STEPS
from nuggets_trainer.comparison.options import CompareArguments
from nuggets_trainer.launch.accelerate_words import Device, launcher_words
from nuggets_trainer.launch.processes import LAUNCH_OPTIONS, can_be_launched, split_launch
from tests.support.launch import ROOT

LANGUAGES = {"bash", "diff", "json", "python", "text", "yaml"}
# Programs of other projects, whose command lines are not checked.
FOREIGN = {"cd", "curl", "docker", "dstack", "git", "sbatch", "set", "shuf", "sky", "source", "vllm"}
SERVE_OPTIONS = {"--port", "--host", "--device", "--dtype"}  # used by test_evaluate.py, or shown by `--help`
FOREIGN_OPTIONS = {
    *("--array", "--dependency", "--gres", "--ntasks", "--requeue", "--time"),  # sbatch
    *("--nproc_per_node", "--resolution", "--find-links", "--no-index"),  # torchrun, uv
    *("--custom_dataset_info", "--dataset"),  # ms-swift
    *("--dry-run", "--strict"),  # pip, twine
}
BETWEEN = {"|", "||", "&&", ";", ">", ">>", "&"}  # commands of one line
VARIABLES = {"$SLURM_ARRAY_TASK_ID": "3"}  # a value that the scheduler would set
CPU = ["--use_cpu", "true", "--bf16", "false"]  # SFTConfig refuses its own defaults on a machine without a GPU


@dataclasses.dataclass(frozen=True)
class Block:
    """A fenced block: its language, its text, and its page and line."""

    page: Path
    line: int
    language: str
    text: str

    @property
    def where(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


@dataclasses.dataclass(frozen=True)
class Command(Block):
    """One line of the shell, together with its continued lines."""

    @cached_property
    def words(self) -> list[str]:
        """The words of the line, without its comment."""
        reader = shlex.shlex(self.text.replace("\\\n", " "), posix=True, punctuation_chars=True)
        reader.whitespace_split = True
        text = " ".join(map(shlex.quote, reader))
        for name, value in VARIABLES.items():
            text = text.replace(name, value)
        return shlex.split(text)

    @property
    def bare(self) -> str:
        """The text without the comment at its end, so that options can be appended."""
        ends = (match.start() for match in re.finditer(r"\s#", self.text))
        return next((self.text[:end] for end in ends if _is_whole(self.text[:end])), self.text).rstrip()


def _is_whole(text: str) -> bool:
    try:
        return bool(shlex.split(text))
    except ValueError:  # a quotation is open
        return False


def pages() -> list[Path]:
    """Return every Markdown page of the documentation."""
    found = [ROOT / "README.md", ROOT / "AGENTS.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
    return [page for page in found if "_build" not in page.parts]


@cache
def blocks(page: Path) -> list[Block]:
    """Return all fenced blocks of a page in their order, also those inside a MyST directive."""
    return list(_blocks(page, page.read_text(), 0))


def _blocks(page: Path, text: str, offset: int) -> Iterator[Block]:
    for token in MarkdownIt().parse(text):
        if token.type == "code_block":  # indented: a command there would escape
            yield Block(page, offset + token.map[0] + 1, "indented", token.content)
        if token.type != "fence":
            continue
        line, info = offset + token.map[0] + 1, token.info.strip()
        if info.startswith("{") and not info.startswith("{code-block}"):
            yield from _blocks(page, token.content, line)
        else:
            language = info.removeprefix("{code-block}").split()
            yield Block(page, line, language[0] if language else "none", token.content)


def blocks_of(language: str, page: Path | None = None) -> list[Block]:
    """Return the blocks of one language, from one page or from all pages."""
    return [block for each in ([page] if page else pages()) for block in blocks(each) if block.language == language]


def commands(page: Path) -> list[Command]:
    """Return the commands of a page in their order."""
    return [command for block in blocks_of("bash", page) for command in commands_of(block)]


def launch_lines(path: Path) -> list[Command]:
    """Return the commands in the docstring of a script, or in the comments at the top of a config."""
    if path.suffix == ".py":
        found = list(_blocks(path, ast.get_docstring(ast.parse(path.read_text())) or "", 0))
    else:
        lines = re.findall(r"^#(?:   (\S.*|    .*)|.*)$", path.read_text(), flags=re.MULTILINE)  # prose: empty
        found = [Block(path, 0, "bash", "\n".join(lines))]
    return [command for block in found if block.language == "bash" for command in commands_of(block)]


def commands_of(block: Block) -> Iterator[Command]:
    """Yield the commands of a block, without its comments."""
    text, start = "", block.line + 1
    for number, line in enumerate(block.text.splitlines(), start=block.line + 1):
        text, start = (f"{text}\n{line}", start) if text else (line, number)
        if line.endswith("\\"):
            continue
        if text.strip() and not text.lstrip().startswith("#"):
            yield Command(block.page, start, "bash", text.strip())
        text = ""


# Which parser reads a command


def parse(command: Command) -> list[tuple[str, Any]]:
    """Parse a command with the parser of each program that it calls.

    Returns:
        The name of each program, such as `recipes/train.py` or `nuggets score`, and the result of its parser.

    Raises:
        AssertionError: if a program has no parser here, or refuses its command line.
    """
    parts: list[list[str]] = [[]]
    for word in command.words:
        if word in BETWEEN:
            parts.append([])
        else:
            parts[-1].append(word)
    try:
        return [_parse(words) for words in parts if words]
    except (Exception, SystemExit) as error:
        raise AssertionError(f"{command.where}: `{command.text}`: {error!r}") from error


def _parse(words: list[str]) -> tuple[str, Any]:
    while re.match(r"[A-Z_]+=|srun$", words[0]):  # variables, and who starts it
        words = words[1:]
    program, rest = words[0], words[1:]
    if program in FOREIGN:
        return program, rest
    assert program in PROGRAMS, f"no entry for {program!r} in tests/support/documented.py"
    return PROGRAMS[program](rest)


def _nuggets(rest: list[str]) -> tuple[str, Any]:
    if rest[0].startswith("--"):
        assert rest in (["--help"], ["--version"]), rest
        return "nuggets", rest
    module = import_module(f"nuggets_trainer.commands.{rest[0]}")
    given, words = split_launch(rest[1:])
    assert not given or can_be_launched(rest[0], words), rest
    launcher_words(given, Device(num_gpus=8, num_cores=8), config_path)
    return f"nuggets {rest[0]}", module.parse([*words, *(CPU if rest[0] in ("train", "compare") else [])])


def _python(rest: list[str]) -> tuple[str, Any]:
    if rest[:2] == ["-m", "nuggets_trainer.cli"]:
        return _nuggets(rest[2:])
    if rest[:2] == ["-m", "pytest"]:
        return _pytest(rest[2:])
    script, options = Path(rest[0]), rest[1:]
    assert script.parts[0] == "recipes", f"no entry for {script} in tests/support/documented.py"
    module = recipe(script.stem, script.parent)
    if script.stem == "evaluate":
        return str(script), module.parse(options)
    if script.stem in ("train", "control", "compare"):
        return str(script), module.parse([*options, *CPU])
    if hasattr(module, "make_parser"):
        return str(script), module.make_parser().parse_args(options)
    if getattr(module.__dict__.get("parse"), "__module__", None) == module.__name__:
        return str(script), module.parse(options)
    # demo.py and the benches parse in `main`.
    assert {word for word in options if word.startswith("--")} <= known_options(), options
    return str(script), options


def _accelerate(rest: list[str]) -> tuple[str, Any]:
    assert rest[0] == "launch", rest
    at = next(i for i, word in enumerate(rest) if word.startswith("recipes/") or word == "-m")
    launch = launch_command_parser().parse_args([*rest[1:at], "script.py"])
    assert launch.config_file is None or (ROOT / launch.config_file).is_file(), f"no file {launch.config_file}"
    return _python(rest[at:])


def _torchrun(rest: list[str]) -> tuple[str, Any]:
    from torch.distributed.run import get_args_parser

    at = next(i for i, word in enumerate(rest) if word.startswith("recipes/") or word == "-m")
    get_args_parser().parse_args([*rest[:at], "script.py"])
    return _python(rest[at:])


def _uv(rest: list[str]) -> tuple[str, Any]:
    """Parse the options of the script that `uv run` starts."""
    assert rest[0] == "run"
    script = next(place for place, word in enumerate(rest) if word.endswith(".py"))
    return _python(rest[script:])


def _hf(rest: list[str]) -> tuple[str, Any]:
    """Parse a job with the hub's own command line, which sends nothing, and the options of its script."""
    from huggingface_hub.cli.hf import app

    assert rest[:3] == ["jobs", "uv", "run"]
    said = io.StringIO()
    with patch.dict(os.environ, HF_TOKEN="hf_none"), contextlib.redirect_stdout(said):
        app([*rest[:3], "--dry-run", *rest[3:]], standalone_mode=False)
    found = _uv(rest[2:])
    # An option that it does not know would be the script.
    assert re.search(rf"^ *script +{re.escape(found[0])}$", said.getvalue(), re.MULTILINE), said.getvalue()
    return found


def _make(rest: list[str]) -> tuple[str, Any]:
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    assert rest and set(rest) <= set(targets), f"the Makefile has {targets}"
    return "make", rest


def _pip(rest: list[str]) -> tuple[str, Any]:
    table = (ROOT / "pyproject.toml").read_text().split("[project.optional-dependencies]\n")[1].split("\n[")[0]
    extras = re.findall(r"^([\w-]+) = \[", table, flags=re.MULTILINE)
    assert rest[0] == "install", rest
    for word in rest[1:]:
        for named in re.findall(r"^(?:\.|nuggets_trainer)\[([\w,-]+)\]", word):
            assert set(named.split(",")) <= set(extras), f"the extras are {extras}"
    return "pip", rest


def _transformers(rest: list[str]) -> tuple[str, Any]:
    assert rest[0] == "serve" and {word for word in rest if word.startswith("--")} <= SERVE_OPTIONS, rest
    return "transformers serve", rest


def _pytest(rest: list[str]) -> tuple[str, Any]:
    assert all((ROOT / word.split("::")[0]).exists() for word in rest if word.startswith("tests")), rest
    return "pytest", rest


def _bash(rest: list[str]) -> tuple[str, Any]:
    assert len(rest) == 1 and (ROOT / rest[0]).is_file(), rest
    return "bash", rest


PROGRAMS: dict[str, Callable[[list[str]], tuple[str, Any]]] = {
    "accelerate": _accelerate,
    "bash": _bash,
    "hf": _hf,
    "make": _make,
    "nuggets": _nuggets,
    "pip": _pip,
    "pytest": _pytest,
    "python": _python,
    "torchrun": _torchrun,
    "transformers": _transformers,
    "uv": _uv,
}


def recipe(name: str, parent: Path = Path("recipes")) -> Any:
    """Import a script of recipes/ or of a folder below, which imports its neighbours by their plain names."""
    folder = str(ROOT / parent)
    if folder not in sys.path:
        sys.path.insert(0, folder)
    return import_module(name)


# What else a block may hold


def check_python(block: Block) -> None:
    """Compile a Python block, resolve its imports, and check the keyword arguments of this package's names.

    Raises:
        AssertionError: if an import or a keyword does not exist; the message has the page and line.
    """
    tree = ast.parse(block.text, block.where)
    names: dict[str, Any] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            module = import_module(str(node.module))
            for alias in node.names:
                assert hasattr(module, alias.name), f"{block.where}: {node.module} has no {alias.name}"
                names[alias.asname or alias.name] = getattr(module, alias.name)
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            called = names.get(node.func.id)
            if getattr(called, "__module__", "").startswith("nuggets_trainer"):
                _check_keywords(
                    called, {word.arg for word in node.keywords if word.arg}, f"{block.where}: {node.func.id}"
                )


def _check_keywords(called: Any, given: set[str], where: str) -> None:
    parameters: dict[str, inspect.Parameter] = {}
    for each in called.__mro__ if inspect.isclass(called) else [called]:  # **kwargs go to the class above
        own = inspect.signature(each.__init__ if inspect.isclass(each) else each).parameters
        parameters |= own
        if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in own.values()):
            break
    assert given <= set(parameters), f"{where} has no {sorted(given - set(parameters))}"


def check_yaml(block: Block, place: Path) -> None:
    """Read a YAML block with its program: accelerate, `nuggets compare`, or recipes/train.py and other commands."""
    content = yaml.safe_load(block.text)
    assert isinstance(content, dict), block.where
    file = place / "shown.yaml"
    file.write_text(block.text)
    if "distributed_type" in content:
        load_config_from_file(str(file))
    elif content.keys() & {option.name for option in dataclasses.fields(CompareArguments)}:
        if find_spec("lm_eval") is None:  # an extra, without which its options are refused
            content = {name: value for name, value in content.items() if not name.startswith("lm_eval")}
            file.write_text(yaml.safe_dump(content))
        parse_arguments(make_compare_parser(), ["--config", str(file), *CPU])
    else:
        parse_arguments(recipe_parser(), ["--config", str(file), *CPU])


def inline_options(page: Path) -> set[str]:
    """Return the options that the text of a page names, such as `--top_k 100`."""
    tokens = [token for token in MarkdownIt().enable("table").parse(page.read_text()) if token.children]
    spans = [child.content for token in tokens for child in token.children if child.type == "code_inline"]
    return {word for span in spans for word in re.findall(r"(?<![\w-])--[a-z][\w-]*", span)}


@cache
def known_options() -> set[str]:
    """Return every option of the project, of the launcher, and of other programs that a page may name."""
    parsers: Sequence[Any] = [recipe_parser(), launch_command_parser()]
    modules = [
        import_module(f"nuggets_trainer.commands.{name}")
        for name in ("inspect", "plan", "score", "select", "diff", "report", "compare")
    ]
    parsers = [*parsers, *(getattr(module, f"make_{module.__name__.split('.')[-1]}_parser")() for module in modules)]
    options = {option for parser in parsers for action in parser._actions for option in action.option_strings}
    options |= {option for path in (ROOT / "recipes").rglob("*.py") for option in _literals(path)}
    types = [recipe("control").ControlArguments]
    types += [each for step in STEPS.values() for each in step]
    options |= {f"--{field.name}" for each in types for field in dataclasses.fields(each)}
    options |= {f"--{name}" for name in LAUNCH_OPTIONS}
    return options | SERVE_OPTIONS | FOREIGN_OPTIONS | {"--debug", "--help", "--version", "--demo", "--config"}


def _literals(script: Path) -> set[str]:
    """Return the options that a script adds to its parser."""
    nodes = ast.walk(ast.parse(script.read_text()))
    found = {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    return {value for value in found if re.fullmatch("--[a-z][a-z_]*", value)}
