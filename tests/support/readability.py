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


def main(folders: list[str]) -> None:
    """Print a table with a line for each folder."""
    print("folder | lines | comprehensions | conditionals | comments | function median, p90 | prepositions")
    for folder in folders:
        found = measure(sorted(Path(folder).rglob("*.py")))
        print(
            f"{folder} | {found.lines:,} | {found.comprehensions:.1f} | {found.conditional_expressions:.1f} | "
            f"{found.comments:.1f} | {found.median_function:.0f}, {found.long_function} | "
            f"{found.prepositions:.1%} of {found.argument_lines}"
        )


if __name__ == "__main__":
    rooms = sorted(path for path in (ROOT / "nuggets_trainer").iterdir() if (path / "__init__.py").is_file())
    main(sys.argv[1:] or [str(ROOT / "nuggets_trainer"), *map(str, rooms)])
