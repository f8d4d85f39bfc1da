"""Rows with known columns, as many as a test needs."""

from __future__ import annotations

import torch

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
