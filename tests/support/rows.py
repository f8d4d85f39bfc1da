"""Rows with known columns, as many as a test needs."""

from __future__ import annotations

from pathlib import Path

import torch

from nuggets_trainer import load_rows

WORDS = [
    "red",
    "blue",
    "green",
    "cat",
    "dog",
    "bird",
    "run",
    "jump",
    "sleep",
    "one",
    "two",
    "three",
    "north",
    "south",
    "east",
    "west",
    "day",
    "night",
    "sun",
    "rain",
]


def real_alpaca_rows(file: Path, num_rows: int, shortest: int, longest: int) -> list[dict[str, str]]:
    """Read the first rows of a file whose instruction and output have between `shortest` and `longest` characters."""
    rows = load_rows(str(file)).select_columns(["instruction", "input", "output"])
    fitting = rows.filter(lambda row: shortest < len(row["instruction"] + row["output"]) < longest)
    return list(fitting.select(range(num_rows)))


def alpaca_rows(num_rows: int, seed: int = 0) -> list[dict[str, str]]:
    """Different rows with Alpaca columns, some with an input, of different lengths."""
    generator = torch.Generator().manual_seed(seed)

    def words(low: int, high: int) -> str:
        count = int(torch.randint(low, high, (1,), generator=generator))
        return " ".join(WORDS[i] for i in torch.randint(len(WORDS), (count,), generator=generator).tolist())

    return [
        {
            "instruction": f"Say {words(2, 8)}?",
            "input": f" {words(1, 5)} " if i % 3 == 0 else "",
            "output": f"{words(1, 14)}.\n" if i % 2 else words(1, 14),
        }
        for i in range(num_rows)
    ]
