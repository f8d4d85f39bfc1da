"""An inspection as text, with labels in the margin; in colours on a terminal."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, TextIO

from nuggets_trainer.inspection.facts import SPAN_KINDS, PoolFacts, RowView
from nuggets_trainer.inspection.sentences import REMARKS, length_cells, length_lines, row_heading, summary
from nuggets_trainer.wording import counted, visible

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

WIDTH = 80  # columns, if the output is not a terminal
LABEL_WIDTH = 9
STYLES = {"context": "dim", "candidate": "blue", "answer": "magenta", "anchor": "yellow", "scored": "bold green"}
MOST_CHARACTERS = 480  # of a span; its beginning and its end are shown
LENGTH_HEAD = ("", "number", "shortest", "median", "95%", "longest", "sum")


def as_text(facts: PoolFacts) -> str:
    """Write an inspection in 80 columns, without colours."""
    from rich.console import Console

    buffer = io.StringIO()
    _print_all(Console(file=buffer, width=WIDTH, highlight=False, color_system=None, force_jupyter=False), facts)
    return "\n".join(line.rstrip() for line in buffer.getvalue().rstrip().splitlines())


def print_text(facts: PoolFacts, file: TextIO) -> None:
    """Print an inspection; a terminal gets its own width and, unless `NO_COLOR` is set, colours.

    Args:
        facts: what was found.
        file: file to print to.
    """
    from rich.console import Console

    if file.isatty():
        _print_all(Console(file=file, highlight=False, force_jupyter=False), facts)
    else:
        print(as_text(facts), file=file)


def _print_all(console: Console, facts: PoolFacts) -> None:
    """Print the rows first, so that the summary is at the end of the screen."""
    for view in facts.rows:
        _print_row(console, view, facts.length_unit)
    if facts.rows:
        _print_legend(console, facts)
    _print_summary(console, facts)


def shortened(text: str) -> str:
    """Cut the middle out of a long text.

    Example:
        >>> shortened("." * 1000).count("."), shortened("short")
        (486, 'short')
    """
    if len(text) <= MOST_CHARACTERS:
        return text
    head, tail = text[: MOST_CHARACTERS * 2 // 3], text[-(MOST_CHARACTERS // 3) :]
    return f"{head} [... {len(text) - MOST_CHARACTERS:,} more characters ...] {tail}"


def _print_row(console: Console, view: RowView, unit: str) -> None:
    from rich.text import Text

    console.print(Text(row_heading(view, unit), style="bold"))
    for span in view.spans:
        text = visible(shortened(span.text)).replace("\n", "⏎\n").removesuffix("\n")
        _print_block(console, span.kind, text, STYLES[span.kind])
    if view.record:
        _print_block(console, "columns", visible(shortened(view.record)), "")
    for remark in view.remarks:
        _print_block(console, "remark", REMARKS[remark], "")
    console.print()


def _print_block(console: Console, label: str, text: str, style: str) -> None:
    """Print a text with a label and a vertical bar to its left."""
    from rich.text import Text

    bar = f"{'':>{LABEL_WIDTH}} │ "
    for number, line in enumerate(Text(text, style=style).wrap(console, console.width - len(bar), overflow="fold")):
        line.rstrip()
        margin = Text(f"{label if number == 0 else '':>{LABEL_WIDTH}}", style=style).append(" │ ", style="dim")
        console.print(margin.append_text(line), overflow="fold", no_wrap=True)


def _print_legend(console: Console, facts: PoolFacts) -> None:
    from rich.text import Text

    shown = {span.kind for view in facts.rows for span in view.spans}
    grid = _grid()
    for kind, meaning in SPAN_KINDS.items():
        if kind in shown:
            grid.add_row(Text(kind, style=STYLES[kind]), Text("="), Text(meaning))
    console.print(grid)
    console.print()


def _print_summary(console: Console, facts: PoolFacts) -> None:
    from rich.text import Text

    console.print(Text(f"{facts.name}: {counted(facts.num_rows, 'row')}", style="bold"))
    grid = _grid()
    for number, column in enumerate(facts.columns):
        read_as = "not read"
        if column.read_as is not None:
            read_as = "read" if column.read_as == column.name else f"read as {column.read_as}"
        line = Text(f"{column.name} ({column.kind}), {read_as}: ")
        line.append(visible(column.example), style="dim")
        line.truncate(max(20, console.width - 14), overflow="ellipsis")
        grid.add_row(Text("columns" if number == 0 else ""), Text(""), line)
    for label, lines in summary(facts):
        style = "bold red" if label == "problem" else ""
        for number, said in enumerate(lines):
            grid.add_row(Text(label if number == 0 else "", style=style), Text(""), Text(visible(said)))
    console.print(grid)
    if facts.lengths:
        console.print()
        console.print(_length_table(facts))
        for said in length_lines(facts):
            console.print(Text(said))


def _grid() -> Table:
    from rich.table import Table

    grid = Table.grid(padding=(0, 1))
    grid.add_column(no_wrap=True, min_width=LABEL_WIDTH, justify="right")
    grid.add_column(no_wrap=True, width=1)
    grid.add_column(overflow="fold")
    return grid


def _length_table(facts: PoolFacts) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for number, head in enumerate((facts.length_unit, *LENGTH_HEAD[1:])):
        table.add_column(head, justify="left" if number == 0 else "right", no_wrap=True)
    for fact in facts.lengths:
        table.add_row(*map(Text, length_cells(fact)))
    return table
