"""What the race saves: replay `Race` on a score matrix and compare its golden set with that of scoring everything.

```bash
python recipes/bench/race.py --pairs scores/pairs.parquet                        # a matrix that score_pool wrote
python recipes/bench/race.py --law P --num_candidates 52000 --num_anchors 100 --num_seeds 100 --json
```

Law P simulates the paper's pool. A candidate wins if `theta + anchor + cluster + noise > 0`, with noise N(0, 1), ten
clusters of anchors, an effect N(0, 0.3) of each candidate on each cluster, anchors N(0, 1.9), and theta such that the
golden scores have the quantiles `QUANTILES`. These quantiles and the spread of the anchors were tuned by hand at
m=1000: 18.5% of the candidates have at most 0.5, 13.6% above 0.8 and 1.3% above 0.85, and the standard deviation of
the anchors' win rates is 0.32 (paper: 18%, 14.5%, 1.2%; 0.32). Law H differs only in the anchors: N(0, 0.4),
deviation 0.12. Token numbers are log-normal: mean 127, between 25 and 200, for anchors; mean 171 for prefixes. Gains
tell no more than wins.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
from scipy.special import ndtr

from nuggets_trainer.golden.scores import golden_scores
from nuggets_trainer.golden.selection import select_golden_set
from nuggets_trainer.racing.race import Race
from nuggets_trainer.racing.standings import Standings

QUANTILES = ((0, 0.02, 0.18, 0.5, 0.855, 0.988, 0.999, 1), (0.22, 0.33, 0.503, 0.672, 0.7985, 0.8395, 0.86, 0.88))
ANCHOR_SPREAD = {"P": 1.9, "H": 0.4}
CLUSTERS, CLUSTER_SPREAD = 10, 0.3

Ints = npt.NDArray[np.int64]


class Matrix(NamedTuple):
    """Log-probs `(m,)` and `(n, m)`, NaN for pairs that are not scored, and numbers of tokens `(n,)` and `(m,)`."""

    name: str
    zero_shot: npt.NDArray[np.float32]
    one_shot: npt.NDArray[np.float32]
    prefix_tokens: Ints
    anchor_tokens: Ints


def simulate(law: str, n: int, m: int, seed: int) -> Matrix:
    """Draw a matrix by one of the laws in the module's docstring."""
    generator = np.random.default_rng(seed)
    anchors = generator.normal(0, ANCHOR_SPREAD[law], m)
    clusters = generator.integers(0, CLUSTERS, m)
    score = np.interp((generator.permutation(n) + generator.random(n)) / n, *QUANTILES)
    grid = np.linspace(-8, 8, 401)
    noise = math.hypot(1, CLUSTER_SPREAD)
    expected_scores = ndtr((grid[:, None] + anchors) / noise).mean(axis=1)
    theta = np.interp(score, expected_scores, grid)
    effects = generator.normal(0, CLUSTER_SPREAD, (n, CLUSTERS)).astype(np.float32)
    one_shot = generator.standard_normal((n, m), dtype=np.float32)
    one_shot += effects[:, clusters]
    one_shot += theta[:, None].astype(np.float32)
    one_shot += anchors.astype(np.float32)
    prefix_tokens, anchor_tokens = _draw_tokens(generator, n, m)
    return Matrix(f"law {law}, seed {seed}", np.zeros(m, dtype=np.float32), one_shot, prefix_tokens, anchor_tokens)


def read(pairs: Path, lengths: Path | None) -> Matrix:
    """Read the matrix of a scored pool; without a file of lengths, draw the numbers of tokens.

    Args:
        pairs: path of pairs.parquet, with anchors.parquet beside it.
        lengths: path of a .npz file with `prefix_tokens`, `(n,)`, and `anchor_tokens`, `(m,)`.
    """
    zero_shot = pq.read_table(pairs.with_name("anchors.parquet"))["zero_shot"].to_numpy().astype(np.float32)
    lists = pq.read_table(pairs)["one_shot"].combine_chunks()
    one_shot = lists.flatten().to_numpy(zero_copy_only=False).astype(np.float32).reshape(-1, len(zero_shot))
    n, m = one_shot.shape
    prefix_tokens, anchor_tokens = _draw_tokens(np.random.default_rng(0), n, m)
    if lengths is not None:
        with np.load(lengths) as file:
            prefix_tokens, anchor_tokens = file["prefix_tokens"], file["anchor_tokens"]
    return Matrix(str(pairs), zero_shot, one_shot, prefix_tokens, anchor_tokens)


def replay(matrix: Matrix, fraction: float, tokens_per_wave: int, seed: int = 0) -> dict[str, Any]:
    """Race for the top fraction; return shares of pairs and tokens, and whether the golden set is the exact one."""
    n, m = matrix.one_shot.shape
    started = time.monotonic()
    excluded = np.isnan(matrix.one_shot)
    prefix, suffix = matrix.prefix_tokens, matrix.anchor_tokens
    rule = ("top_fraction", fraction)
    standings = Standings(rule, matrix.zero_shot, excluded)
    race = Race(standings, prefix, suffix, tokens_per_wave, seed=seed)
    waves = visits = tokens = 0
    while wave := race.next_wave():
        scored = []
        for i, anchors in wave:
            scored.append((i, anchors, matrix.one_shot[i, anchors]))
            tokens += int(prefix[i] + suffix[anchors].sum())
        race.update(scored)
        waves, visits = waves + 1, visits + len(wave)
    seconds = time.monotonic() - started
    scorable = ~excluded & np.isfinite(matrix.zero_shot)
    exact = select_golden_set(golden_scores(matrix.zero_shot, matrix.one_shot), rule)
    standings.one_shot[~standings.complete] = np.nan
    num_candidates = int((~standings.dropped).sum())
    raced = select_golden_set(golden_scores(matrix.zero_shot, standings.one_shot), rule, num_candidates)
    return {
        "matrix": matrix.name,
        "n": n,
        "m": m,
        "top": fraction,
        "pairs": float(standings.num_scored.sum() / scorable.sum()),
        "tokens": float(tokens / (prefix[scorable.any(axis=1)].sum() + (scorable @ suffix).sum())),
        "at_least": _least_tokens(matrix, exact.cut),
        "identical": bool(
            np.array_equal(exact.indices, raced.indices)
            and np.array_equal(exact.golden_score, raced.golden_score)
            and np.array_equal(exact.mean_gain, raced.mean_gain)
        ),
        "lost": float(1 - np.isin(exact.indices, raced.indices).mean()),
        "cut": exact.cut,
        "visits": visits / n,
        "waves": waves,
        "seconds": round(seconds, 2),
    }


def _least_tokens(matrix: Matrix, cut: float) -> float:
    """Return the share of tokens that every exact schedule needs: each candidate leaves after its cheapest losses."""
    order = np.argsort(matrix.anchor_tokens, kind="stable")
    suffix = matrix.anchor_tokens[order]
    least = everything = 0.0
    for start in range(0, len(matrix.one_shot), 4096):
        one_shot, zero_shot = matrix.one_shot[start : start + 4096, order], matrix.zero_shot[order]
        scorable = np.isfinite(one_shot) & np.isfinite(zero_shot)
        anchors, lost = scorable.sum(axis=1), scorable & ~(one_shot > zero_shot)
        prefix = matrix.prefix_tokens[start : start + 4096] * (anchors > 0)
        needed = np.floor(anchors - cut * anchors + 1e-9) + 1
        out = lost.sum(axis=1) >= needed
        cheapest = (lost & (np.cumsum(lost, axis=1) <= needed[:, None])) @ suffix
        least += float((prefix + np.where(out, cheapest, scorable @ suffix)).sum())
        everything += float((prefix + scorable @ suffix).sum())
    return least / everything


def _draw_tokens(generator: np.random.Generator, n: int, m: int) -> tuple[Ints, Ints]:
    anchor_tokens = np.clip(generator.lognormal(4.8, 0.6, m), 25, 200).astype(np.int64)
    return np.clip(generator.lognormal(4.9, 0.7, n), 30, 1500).astype(np.int64), anchor_tokens


def _matrices(options: argparse.Namespace) -> Iterator[tuple[Matrix, int]]:
    """Give each matrix with a seed of the race: one real matrix with many seeds, or many simulated ones."""
    seeds = range(options.seed, options.seed + options.num_seeds)
    if options.pairs is not None:
        matrix = read(options.pairs, options.lengths)
        for seed in seeds:
            yield matrix, seed
    else:
        for seed in seeds:
            yield simulate(options.law, options.num_candidates, options.num_anchors, seed), seed


def make_parser() -> argparse.ArgumentParser:
    """Make the parser of the options."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--pairs", type=Path, help="pairs.parquet of a scored pool; without it, a matrix is simulated")
    parser.add_argument("--lengths", type=Path, help=".npz with prefix_tokens (n,) and anchor_tokens (m,)")
    parser.add_argument("--law", choices=sorted(ANCHOR_SPREAD), default="P")
    parser.add_argument("--num_candidates", type=int, default=52_000)
    parser.add_argument("--num_anchors", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--num_seeds", type=int, default=3)
    parser.add_argument("--top_fractions", type=float, nargs="+", default=[0.01, 0.05, 0.1])
    parser.add_argument("--tokens_per_wave", type=int, default=65_536)
    parser.add_argument("--json", action="store_true", help="one JSON object per line")
    return parser


def main(argv: Sequence[str]) -> list[dict[str, Any]]:
    """Replay and print; return the rows."""
    options = make_parser().parse_args(list(argv))
    rows = []
    if not options.json:
        print("top    pairs  tokens  at least  identical  visits  waves  seconds  matrix")
    for matrix, seed in _matrices(options):
        for fraction in options.top_fractions:
            row = {"seed": seed, **replay(matrix, fraction, options.tokens_per_wave, seed)}
            rows.append(row)
            print(json.dumps(row) if options.json else _line(row), flush=True)
    return rows


def _line(row: dict[str, Any]) -> str:
    same = "yes" if row["identical"] else "{:.1%} lost".format(row["lost"])
    return (
        f"{row['top']:>5.1%} {row['pairs']:>6.1%} {row['tokens']:>7.1%} {row['at_least']:>9.1%}  {same:<10} "
        f"{row['visits']:>6.2f} {row['waves']:>6,} {row['seconds']:>8.1f}  {row['matrix']}"
    )


if __name__ == "__main__":
    main(sys.argv[1:])
