r"""Make the rows of the study on real models: five pools, their anchors, and held-out rows that are in no pool.

```bash
python recipes/study/pools.py --output_dir pools --alpaca first.jsonl second.jsonl --lima lima.jsonl \
    --gsm8k solutions.jsonl --alpaca_eval alpaca_eval_gpt4_baseline.json
```

Rows have the columns `instruction`, `input` and `output`. The same files always give the same rows.

- half_spoilt.jsonl: 1,560 rows of both Alpaca files. Every second row is spoilt, and its column `kind` says how:
  - `noise`: random letters, as many as the output has
  - `refusal`: one of four sentences
  - `repeated`: the first sentence again and again, to the same length
  - `shuffled`: the words in another order
  - `mismatched`: the output of another row
  - `truncated`: the first 15 to 50% of the output
- mixture.jsonl: 1,500 rows of the first Alpaca file and of LIMA, by `source`. natural.jsonl: 1,500 rows of all three.
- gsm8k.jsonl: right and wrong solutions of 270 problems of GSM8K, with the columns of the source.
- targeted.jsonl: 600 rows of natural.jsonl, and the human solutions of 100 problems of gsm8k.jsonl, by `source`. Its
  anchors are those of GSM8K: does the ranking find the rows of the anchors' task?
- anchors.jsonl: 100 short rows of the Alpaca files, for these three pools. gsm8k_anchors.jsonl: the human solutions
  of 30 problems.
- heldout_alpaca.jsonl, heldout_lima.jsonl, heldout_gsm8k.jsonl, heldout_alpaca_eval.jsonl: rows whose instructions are
  neither in an anchor nor in a pool other than mixture.jsonl. Those of GSM8K are human solutions.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

SPOILT_ROWS, MIXTURE_ROWS, ANCHORS = 1560, 1500, 100
NATURAL_ROWS = {"alpaca_first": 500, "alpaca_second": 600, "lima": 400}
GSM8K_ANCHORS, GSM8K_HELDOUT = 30, 40  # problems
TARGETED_ROWS, TARGETED_PROBLEMS, TARGETED_CHARACTERS = 600, 100, 1200  # characters of the other rows at most
HELDOUT_ROWS, HELDOUT_CHARACTERS = 60, 900  # of every other source, and at most as long
SEED = 20261127
KINDS = ("noise", "refusal", "repeated", "shuffled", "mismatched", "truncated")
REFUSALS = (
    "I'm sorry, but I can't help with that.",
    "As an AI language model, I am unable to answer this request.",
    "I cannot provide an answer to this question.",
    "Sorry, I don't have enough information to respond.",
)
LETTERS = "abcdefghijklmnopqrstuvwxyz      "

TextRow = dict[str, Any]


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


def mixture(sources: dict[str, list[TextRow]], generator: random.Random) -> list[TextRow]:
    """Mix all rows of some sources, without those longer than 2,400 characters."""
    pool = []
    for source, rows in sources.items():
        pool += [{**row, "source": source} for row in _moderate(rows)]
    generator.shuffle(pool)
    return pool[:MIXTURE_ROWS]


def natural(sources: dict[str, list[TextRow]], used: set[str], generator: random.Random) -> list[TextRow]:
    """Draw `NATURAL_ROWS` rows of each source whose instruction is not used."""
    pool = []
    for source, rows in sources.items():
        usable = [row for row in _moderate(rows) if row["instruction"] not in used]
        pool += [{**row, "source": source} for row in generator.sample(usable, NATURAL_ROWS[source])]
    generator.shuffle(pool)
    return pool


def gsm8k(rows: list[TextRow], generator: random.Random) -> tuple[list[TextRow], list[TextRow], list[TextRow]]:
    """Split the problems into a pool of all their solutions, anchors, and held-out rows of human solutions."""
    problems = sorted({row["instruction"] for row in rows})
    generator.shuffle(problems)
    anchor_problems = set(problems[:GSM8K_ANCHORS])
    heldout_problems = set(problems[GSM8K_ANCHORS : GSM8K_ANCHORS + GSM8K_HELDOUT])
    pool: list[TextRow] = []
    anchors: list[TextRow] = []
    heldout: list[TextRow] = []
    for row in rows:
        if row["instruction"] not in anchor_problems | heldout_problems:
            pool.append(row)
        elif row["source_model"] == "human":
            (anchors if row["instruction"] in anchor_problems else heldout).append(row)
    generator.shuffle(pool)
    return pool, anchors, heldout


def targeted(others: list[TextRow], solutions: list[TextRow], generator: random.Random) -> list[TextRow]:
    """Mix rows of other tasks with human solutions, one of each problem."""
    usable = [row for row in others if _length(row) <= TARGETED_CHARACTERS]
    human = [row for row in solutions if row["source_model"] == "human"]
    pool = generator.sample(usable, TARGETED_ROWS)
    for row in generator.sample(human, TARGETED_PROBLEMS):
        pool.append({**without_other_columns([row])[0], "source": "gsm8k"})
    generator.shuffle(pool)
    return pool


def heldout(rows: list[TextRow], used: set[str], generator: random.Random) -> list[TextRow]:
    """Draw rows whose instruction is not used, each instruction once."""
    usable = {}
    for row in rows:
        if row["instruction"] not in used and row["output"].strip() and _length(row) <= HELDOUT_CHARACTERS:
            usable[row["instruction"]] = row
    return generator.sample(list(usable.values()), HELDOUT_ROWS)


def short_anchors(rows: list[TextRow], used: set[str], generator: random.Random) -> list[TextRow]:
    """Draw anchors with outputs of 60 to 220 characters whose instruction is not used."""
    usable = []
    for row in rows:
        if 60 <= len(row["output"]) <= 220 and _prompt_length(row) <= 200 and row["instruction"] not in used:
            usable.append(row)
    return generator.sample(usable, ANCHORS)


def read_rows(path: Path) -> list[TextRow]:
    """Read JSON Lines or a JSON list; an Alpaca column that is missing is empty."""
    text = path.read_text().strip()
    lines = text.split("\n")  # `splitlines` splits inside strings too
    rows = json.loads(text) if text.startswith("[") else [json.loads(line) for line in lines]
    alpaca = ("instruction", "input", "output")
    return [{**row, **{name: row.get(name) or "" for name in alpaca}} for row in rows]


def without_other_columns(rows: Iterable[TextRow]) -> list[TextRow]:
    """Keep the three Alpaca columns."""
    return [{name: row[name] for name in ("instruction", "input", "output")} for row in rows]


def write_rows(path: Path, rows: list[TextRow]) -> None:
    """Write JSON Lines, and say what was written."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    characters = sum(len(row["output"]) for row in rows) / len(rows)
    print(f"{path}: {len(rows):,} rows, {characters:.0f} characters of output on average")


def _instructions(pools: Iterable[list[TextRow]]) -> set[str]:
    return {row["instruction"] for rows in pools for row in rows}


def _moderate(rows: list[TextRow]) -> list[TextRow]:
    return [row for row in rows if _length(row) <= 2400 and row["output"].strip()]


def _prompt_length(row: TextRow) -> int:
    return len(row["instruction"]) + len(row["input"])


def _length(row: TextRow) -> int:
    return _prompt_length(row) + len(row["output"])


def make_parser() -> argparse.ArgumentParser:
    """Build the parser of the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--alpaca", type=Path, nargs=2, required=True, help="two files of Alpaca rows")
    parser.add_argument("--lima", type=Path, required=True, help="rows of LIMA")
    parser.add_argument("--anchors", type=Path, nargs="*", default=[], help="further rows to draw anchors from")
    parser.add_argument("--gsm8k", type=Path, required=True, help="rows with `source_model` and `is_correct`")
    parser.add_argument("--alpaca_eval", type=Path, required=True, help="answers of GPT-4 to AlpacaEval, held out")
    parser.add_argument("--output_dir", type=Path, required=True)
    return parser


def main(argv: Sequence[str]) -> None:
    """Make the files."""
    options = make_parser().parse_args(list(argv))
    first, second = (without_other_columns(read_rows(path)) for path in options.alpaca)
    lima, alpaca_eval = (without_other_columns(read_rows(path)) for path in (options.lima, options.alpaca_eval))
    further = [row for path in options.anchors for row in without_other_columns(read_rows(path))]
    sources = {"alpaca_first": first, "alpaca_second": second, "lima": lima}

    generator = random.Random(SEED)
    files = {"half_spoilt": half_spoilt(first + second, generator)}
    files["mixture"] = mixture({"alpaca_first": first, "lima": lima}, generator)
    files["anchors"] = short_anchors(further + second + first, _instructions(files.values()), generator)
    files["natural"] = natural(sources, _instructions([files["anchors"]]), generator)
    files["gsm8k"], files["gsm8k_anchors"], files["heldout_gsm8k"] = gsm8k(read_rows(options.gsm8k), generator)
    used = _instructions(rows for name, rows in files.items() if name != "mixture")
    for source, rows in {"alpaca": first + second, "lima": lima, "alpaca_eval": alpaca_eval}.items():
        files[f"heldout_{source}"] = heldout(rows, used, generator)
    # Last, so that the other files stay as they were before it was added.
    files["targeted"] = targeted(files["natural"], files["gsm8k"], generator)

    options.output_dir.mkdir(parents=True, exist_ok=True)
    for name, rows in files.items():
        write_rows(options.output_dir / f"{name}.jsonl", rows)


if __name__ == "__main__":
    main(sys.argv[1:])
