"""How dense the package's code is and how its argument lines begin. `python -m tests.support.readability` prints it.

Lines are those that are not blank. Comprehensions include generator expressions. An argument line is the first line of
an entry below `Args:` or `Attributes:`.
"""

from __future__ import annotations

import ast
import io
import re
import sys
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median

ROOT = Path(__file__).parent.parent.parent
PACKAGE = ROOT / "nuggets_trainer"
COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
PREPOSITIONS = {
    *("of", "for", "from", "in", "to", "with", "within", "without", "by", "at", "on", "over", "under", "as", "behind"),
    *("before", "after", "between", "beside", "beyond", "through", "until", "into", "among", "per", "below", "above"),
}
ARGUMENT = re.compile(r"^    (\*{0,2}\w+(?:, \*{0,2}\w+)*)(?: \([^)]*\))?: +(\S+)")


@dataclass(frozen=True)
class Readability:
    """Figures of one tree of files."""

    lines: int
    comprehensions: float  # per 1,000 lines
    conditional_expressions: float  # per 1,000 lines
    comments: float  # per 1,000 lines
    median_function: float  # lines
    long_function: int  # lines, 90th percentile
    argument_lines: int
    prepositions: float  # share of the argument lines that begin with one


def argument_words(docstring: str) -> Iterator[str]:
    """First word of every entry below `Args:` and `Attributes:`."""
    inside = False
    for line in docstring.splitlines():
        if re.match(r"^\w.*:$", line):
            inside = line in ("Args:", "Attributes:")
        elif inside and (found := ARGUMENT.match(line)):
            yield found[2].strip("`,.:;").lower()


def measure(paths: list[Path]) -> Readability:
    """Count over some files."""
    lines = comprehensions = conditionals = comments = 0
    lengths: list[int] = []
    words: list[str] = []
    for path in paths:
        text = path.read_text()
        lines += sum(bool(line.strip()) for line in text.splitlines())
        tokens = tokenize.generate_tokens(io.StringIO(text).readline)
        comments += sum(token.type == tokenize.COMMENT for token in tokens)
        for node in ast.walk(ast.parse(text)):
            comprehensions += isinstance(node, COMPREHENSIONS)
            conditionals += isinstance(node, ast.IfExp)
            if isinstance(node, FUNCTIONS):
                lengths.append((node.end_lineno or node.lineno) - node.lineno + 1)
            if isinstance(node, (*FUNCTIONS, ast.ClassDef, ast.Module)):
                words += argument_words(ast.get_docstring(node) or "")
    lengths.sort()
    return Readability(
        lines=lines,
        comprehensions=1000 * comprehensions / lines,
        conditional_expressions=1000 * conditionals / lines,
        comments=1000 * comments / lines,
        median_function=median(lengths),
        long_function=lengths[int(0.9 * len(lengths))],
        argument_lines=len(words),
        prepositions=sum(word in PREPOSITIONS for word in words) / max(1, len(words)),
    )


def import_graph(package: Path) -> dict[str, set[str]]:
    """Modules of a package that each one imports: at run time, inside functions and for types alone."""
    paths = {}
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package.parent).with_suffix("").parts
        paths[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    graph: dict[str, set[str]] = {}
    for module, path in paths.items():
        names: list[str] = []
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names += [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names += [f"{node.module}.{alias.name}" for alias in node.names]
        graph[module] = set()
        for name in names:
            known = [other for other in paths if f"{name}.".startswith(f"{other}.")]
            if known and max(known, key=len) not in (module, package.name):
                graph[module].add(max(known, key=len))
    graph.pop(package.name)  # the face names everything
    return graph


def longest_chain(graph: dict[str, set[str]]) -> int:
    """Number of modules in the longest chain of imports; a circle is followed once."""
    found: dict[str, int] = {}

    def length(module: str, above: frozenset[str]) -> int:
        if module not in found:
            below = [length(other, above | {module}) for other in graph[module] - above]
            found[module] = 1 + max(below, default=0)
        return found[module]

    return max(length(module, frozenset()) for module in graph)


def main(folders: list[str]) -> None:
    """Print a table with a line for each folder, then what a walk through the package meets."""
    package = Path(folders[0])
    print("folder | lines | comprehensions | conditionals | comments | function median, p90 | prepositions")
    for folder in folders:
        found = measure(sorted(Path(folder).rglob("*.py")))
        print(
            f"{folder} | {found.lines:,} | {found.comprehensions:.1f} | {found.conditional_expressions:.1f} | "
            f"{found.comments:.1f} | {found.median_function:.0f}, {found.long_function} | "
            f"{found.prepositions:.1%} of {found.argument_lines}"
        )
    graph = import_graph(package)
    root_files = len(list(package.glob("*.py")))
    print(f"{package.name}: {len(graph)} modules, {root_files} at the root, longest chain {longest_chain(graph)}")


if __name__ == "__main__":
    rooms = sorted(path for path in PACKAGE.iterdir() if (path / "__init__.py").is_file())
    main(sys.argv[1:] or [str(PACKAGE), *map(str, rooms)])
