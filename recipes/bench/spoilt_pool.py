"""Make the pools that `signals.py` measures on: half of the rows spoilt in six known ways, a mixture, and anchors.

```bash
python recipes/bench/spoilt_pool.py --alpaca first.jsonl second.jsonl --lima lima.jsonl --output_dir pools
```

Rows have the columns `instruction`, `input` and `output`. The half spoilt pool has a column `kind`: `clean`, or what
was done to the output:

- `noise`: random letters, as many as the output has
- `refusal`: one of four sentences
- `repeated`: the first sentence again and again, to the same length
- `shuffled`: the words in another order
- `mismatched`: the output of another row
- `truncated`: the first 15 to 50% of the output

The mixture has a column `source`. No instruction of the anchors is in a pool. The same files give the same pools.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Sequence
from pathlib import Path

SPOILT_ROWS, MIXTURE_ROWS, ANCHORS = 1560, 1500, 100
SEED = 20261127
KINDS = ("noise", "refusal", "repeated", "shuffled", "mismatched", "truncated")
REFUSALS = (
    "I'm sorry, but I can't help with that.",
    "As an AI language model, I am unable to answer this request.",
    "I cannot provide an answer to this question.",
    "Sorry, I don't have enough information to respond.",
)
LETTERS = "abcdefghijklmnopqrstuvwxyz      "

TextRow = dict[str, str]


def spoilt_output(output: str, kind: str, other: str, generator: random.Random) -> str:
    """Spoil an output.

    Args:
        output: output of the row.
        kind: one of `KINDS`.
        other: output of another row.
        generator: source of randomness.
    """
    if kind == "noise":
        return "".join(generator.choice(LETTERS) for _ in output)
    if kind == "refusal":
        return generator.choice(REFUSALS)
    if kind == "repeated":
        sentence = output.split(". ")[0][:120]
        return (sentence + ". ") * max(2, len(output) // (len(sentence) + 2))
    if kind == "shuffled":
        words = output.split()
        generator.shuffle(words)
        return " ".join(words)
    if kind == "mismatched":
        return other
    assert kind == "truncated", kind
    return output[: max(12, int(len(output) * generator.uniform(0.15, 0.5)))]


def half_spoilt(rows: list[TextRow], generator: random.Random) -> list[TextRow]:
    """Keep every second of some rows clean, and spoil the others, each in the next way."""
    usable = []
    for row in rows:
        if 40 <= len(row["output"]) <= 900 and _prompt_length(row) <= 600:
            usable.append(row)
    generator.shuffle(usable)
    chosen = usable[:SPOILT_ROWS]
    pool = []
    for place, row in enumerate(chosen):
        if place % 2 == 0:
            pool.append({**row, "kind": "clean"})
            continue
        kind = KINDS[place // 2 % len(KINDS)]
        other = chosen[(place + 2) % len(chosen)]["output"]
        pool.append({**row, "output": spoilt_output(row["output"], kind, other, generator), "kind": kind})
    generator.shuffle(pool)
    return pool


def mixture(alpaca: list[TextRow], lima: list[TextRow], generator: random.Random) -> list[TextRow]:
    """Mix two sources, without rows longer than 2,400 characters."""
    sources = [{**row, "source": "alpaca_gpt4"} for row in alpaca] + [{**row, "source": "lima"} for row in lima]
    pool = []
    for row in sources:
        if len(row["output"]) + _prompt_length(row) <= 2400 and row["output"].strip():
            pool.append(row)
    generator.shuffle(pool)
    return pool[:MIXTURE_ROWS]


def short_anchors(rows: list[TextRow], used: set[str], generator: random.Random) -> list[TextRow]:
    """Draw anchors with outputs of 60 to 220 characters whose instruction is not used."""
    usable = []
    for row in rows:
        if 60 <= len(row["output"]) <= 220 and _prompt_length(row) <= 200 and row["instruction"] not in used:
            usable.append(row)
    return generator.sample(usable, ANCHORS)


def read_rows(path: Path) -> list[TextRow]:
    """Read JSON Lines; a column that is missing is empty."""
    rows = []
    with path.open() as lines:
        for line in lines:
            row = json.loads(line)
            rows.append({name: row.get(name) or "" for name in ("instruction", "input", "output")})
    return rows


def write_rows(path: Path, rows: list[TextRow]) -> None:
    """Write JSON Lines, and say what was written."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    characters = sum(len(row["output"]) for row in rows) / len(rows)
    print(f"{path}: {len(rows):,} rows, {characters:.0f} characters of output on average")


def _prompt_length(row: TextRow) -> int:
    return len(row["instruction"]) + len(row["input"])


def main(argv: Sequence[str]) -> None:
    """Make the three files."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--alpaca", type=Path, nargs=2, required=True, help="two files; the first is in the mixture")
    parser.add_argument("--lima", type=Path, required=True, help="second source of the mixture")
    parser.add_argument("--anchors", type=Path, nargs="*", default=[], help="further rows to draw anchors from")
    parser.add_argument("--output_dir", type=Path, required=True)
    options = parser.parse_args(list(argv))
    first, second = (read_rows(path) for path in options.alpaca)
    generator = random.Random(SEED)
    spoilt = half_spoilt(first + second, generator)
    mixed = mixture(first, read_rows(options.lima), generator)
    used = {row["instruction"] for row in spoilt + mixed}
    rest = [row for path in options.anchors for row in read_rows(path)]
    anchors = short_anchors(rest + second + first, used, generator)
    options.output_dir.mkdir(parents=True, exist_ok=True)
    write_rows(options.output_dir / "half_spoilt.jsonl", spoilt)
    write_rows(options.output_dir / "mixture.jsonl", mixed)
    write_rows(options.output_dir / "anchors.jsonl", anchors)


if __name__ == "__main__":
    main(sys.argv[1:])
