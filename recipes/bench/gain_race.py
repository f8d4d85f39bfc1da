r"""What the race for gains saves and finds: replay `GainRace` on matrices of gains that are known in full.

```bash
python recipes/bench/gain_race.py --law factors --num_candidates 1500 --num_seeds 20
python recipes/bench/gain_race.py --score_dir scores --enlarge 1500 --num_unseen 20
```

Laws of a row's standardised gains z on m anchors; a quality of deviation 0.35 and noise of deviation 0.94 give single
anchors the reliability that they have with a real model of 135M parameters:

- `alike`: quality + noise, both normal; all anchors are alike.
- `loadings`: each anchor shows the quality by a factor of its own, |N(1, 0.6)|.
- `factors`: the same, and six more normal factors that some anchors share, with loadings N(0, 0.35).
- `heavy`: like `alike`, with Student's t of 4 degrees of freedom for both.
- `skewed`: like `loadings`, with few very bad rows and a short upper tail.
- `saturated`: like `loadings`, but 40 in 100 anchors hardly vary (a hundredth of the others) and are won by all rows.
- `ties`: like `alike`, but there are only 40 different rows.

Anchors differ in mean and deviation of the gain, in nats. `--score_dir` takes the rows of a store, finished or not,
that are scored on all anchors; `--enlarge` draws more rows from them by a smoothed bootstrap (a row, drawn half way
towards a normal law with the covariance of all). Numbers of tokens are log-normal with the means given.

`as_good` is the share of the golden set of the race that is as good as the exact one: a row of it, or below its last
row by less than the difference that does not count. `recall` counts rows of the exact set only, `asked` is what was
asked for. `unseen` compares the golden score of the two sets on anchors that neither schedule used: that of the race,
divided by that of the exact one.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow.parquet as pq

from nuggets_trainer.golden.gains import FEWEST_PILOT_ROWS
from nuggets_trainer.racing.gain_race import GainRace
from nuggets_trainer.racing.gain_standings import GainStandings

QUALITY, NOISE = 0.35, 0.94
SMOOTHING = 0.5  # share of the normal law in an enlarged matrix, as a deviation
SHOWN = ("as_good", "recall", "tokens", "pilot", "unseen", "complete", "waves", "seconds")

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


class Gains(NamedTuple):
    """Gains `(n, m)`, nats per token, and numbers of tokens `(n,)` and `(m,)`."""

    gains: npt.NDArray[np.float32]
    prefix_tokens: Ints
    anchor_tokens: Ints


def _alike(generator: np.random.Generator, n: int, m: int) -> Floats:
    return QUALITY * generator.standard_normal((n, 1)) + NOISE * generator.standard_normal((n, m))


def _loadings(generator: np.random.Generator, n: int, m: int) -> Floats:
    loadings = np.abs(generator.normal(1, 0.6, m))
    return QUALITY * generator.standard_normal((n, 1)) * loadings + NOISE * generator.standard_normal((n, m))


def _factors(generator: np.random.Generator, n: int, m: int) -> Floats:
    shared = generator.standard_normal((n, 6)) @ generator.normal(0, 0.35, (6, m))
    return _loadings(generator, n, m) + shared


def _heavy(generator: np.random.Generator, n: int, m: int) -> Floats:
    quality, noise = generator.standard_t(4, (n, 1)), generator.standard_t(4, (n, m))
    return (QUALITY * quality + NOISE * noise) / math.sqrt(2)


def _skewed(generator: np.random.Generator, n: int, m: int) -> Floats:
    quality = 1 - generator.gamma(1.5, 1 / math.sqrt(1.5), (n, 1))
    return QUALITY * quality * np.abs(generator.normal(1, 0.6, m)) + NOISE * generator.standard_normal((n, m))


def _saturated(generator: np.random.Generator, n: int, m: int) -> Floats:
    gains = _loadings(generator, n, m)
    flat = generator.random(m) < 0.4
    gains[:, flat] = gains[:, flat] / 100 + 3
    return gains


def _ties(generator: np.random.Generator, n: int, m: int) -> Floats:
    return _alike(generator, 40, m)[generator.integers(0, 40, n)]


LAWS: dict[str, Callable[[np.random.Generator, int, int], Floats]] = {
    "alike": _alike,
    "loadings": _loadings,
    "factors": _factors,
    "heavy": _heavy,
    "skewed": _skewed,
    "saturated": _saturated,
    "ties": _ties,
}


def simulate(law: str, n: int, m: int, seed: int) -> npt.NDArray[np.float32]:
    """Draw gains by one of the laws in the module's docstring, `(n, m)`, nats per token."""
    generator = np.random.default_rng(seed)
    mean, deviation = generator.normal(0, 0.1, m), np.exp(generator.normal(-2.4, 0.5, m))
    return (mean + deviation * LAWS[law](generator, n, m)).astype(np.float32)


def read_store(score_dir: Path) -> npt.NDArray[np.float32]:
    """Read the gains of the rows of a store that are scored on all anchors, in the order of their hashes."""
    tables = []
    for part in sorted(score_dir.glob("*/parts/*.parquet")):
        tables.append(pq.read_table(part).to_pandas())
    pairs = pd.concat(tables).astype({"candidate": "string", "anchor": "string"})
    alone = pairs["candidate"].isna()
    zero_shot = pairs[alone].drop_duplicates("anchor").set_index("anchor")["log_prob"].sort_index()
    one_shot = pairs[~alone].drop_duplicates(["candidate", "anchor"])
    matrix = one_shot.pivot(index="candidate", columns="anchor", values="log_prob")[list(zero_shot.index)].dropna()
    gains: npt.NDArray[np.float32] = (matrix.to_numpy() - zero_shot.to_numpy()).astype(np.float32)
    return gains


def enlarge(gains: npt.NDArray[np.float32], n: int, seed: int) -> npt.NDArray[np.float32]:
    """Draw n rows by a smoothed bootstrap that keeps the mean and the covariance, `(n, m)`."""
    generator = np.random.default_rng(seed)
    mean = gains.mean(axis=0, dtype=np.float64)
    centred = gains - mean
    drawn = centred[generator.integers(0, len(gains), n)]
    mixed = generator.standard_normal((n, len(gains))) @ centred / math.sqrt(len(gains))
    rows: npt.NDArray[np.float32] = (mean + math.sqrt(1 - SMOOTHING**2) * drawn + SMOOTHING * mixed).astype(np.float32)
    return rows


def replay(matrix: Gains, top: float, options: argparse.Namespace, seed: int) -> dict[str, Any]:
    """Race for the top fraction; return what it cost, and how much of the exact golden set it found."""
    generator = np.random.default_rng(seed)
    n, all_anchors = matrix.gains.shape
    unseen = np.zeros(all_anchors, dtype=np.bool_)
    unseen[generator.permutation(all_anchors)[: options.num_unseen]] = True
    gains, suffix = matrix.gains[:, ~unseen], matrix.anchor_tokens[~unseen]
    prefix, m = matrix.prefix_tokens, gains.shape[1]
    zero_shot = np.zeros(m, dtype=np.float32)
    started = time.monotonic()
    rule: tuple[str, float] = ("top_fraction", top)
    row_tokens = None
    if options.by_tokens:
        rule, row_tokens = ("max_tokens", top * prefix.sum()), prefix
    standings = GainStandings(rule, zero_shot, np.isnan(gains), rank_by=options.rank_by, total_tokens=row_tokens)
    pilot = generator.permutation(n)[: max(math.isqrt(n), FEWEST_PILOT_ROWS)]
    race = GainRace(standings, prefix, suffix, options.tokens_per_wave, pilot=pilot, recall=options.recall)
    waves, tokens = 0, 0
    while wave := race.next_wave():
        waves += 1
        for i, anchors in wave:
            tokens += int(prefix[i] + suffix[anchors].sum())
        race.update([(i, anchors, gains[i, anchors]) for i, anchors in wave])
    seconds = time.monotonic() - started
    assert standings.model is not None
    value, _ = standings.model.predict(gains, ~np.isnan(gains))  # all scored: the true values
    raced = np.argsort(-standings.value, kind="stable")[: standings.num_kept]
    exact = np.argsort(-value, kind="stable")
    k = len(raced)
    if options.by_tokens:
        k = max(1, int((np.cumsum(prefix[exact]) <= rule[1]).sum()))
    exact = exact[:k]
    everything = int(prefix.sum() + n * suffix.sum())
    row = {
        "top": top,
        "asked": options.recall,
        "as_good": float((value[raced] >= value[exact[-1]] - standings.indifference).mean()),
        "recall": float((value[raced] >= value[exact[-1]]).mean()),  # rows that tie are as good as each other
        "expected": standings.recall.share if standings.recall else 1.0,
        "tokens": tokens / everything,
        "pilot": int(prefix[pilot].sum() + len(pilot) * suffix.sum()) / everything,
        "unseen": math.nan,
        "complete": float(standings.complete[raced].mean()),
        "waves": waves,
        "seconds": seconds,
    }
    if options.num_unseen:
        golden_score = (matrix.gains[:, unseen] > 0).mean(axis=1)
        row["unseen"] = float(golden_score[raced].mean() / golden_score[exact].mean())
    return row


def _matrices(options: argparse.Namespace) -> Iterator[tuple[int, Gains]]:
    """Give a matrix for each seed."""
    stored = None if options.score_dir is None else read_store(options.score_dir)
    for seed in range(options.seed, options.seed + options.num_seeds):
        if stored is None:
            gains = simulate(options.law, options.num_candidates, options.num_anchors, seed)
        elif options.enlarge:
            gains = enlarge(stored, options.enlarge, seed)
        else:
            gains = stored
        generator = np.random.default_rng(10_000 + seed)
        n, m = gains.shape
        prefix = np.clip(generator.lognormal(4.9, 0.7, n), 30, 1500)
        suffix = np.clip(generator.lognormal(4.8, 0.6, m), 25, 200)
        prefix *= options.prefix_tokens / prefix.mean()
        suffix *= options.anchor_tokens / suffix.mean()
        yield seed, Gains(gains, prefix.astype(np.int64) + 1, suffix.astype(np.int64) + 1)


def make_parser() -> argparse.ArgumentParser:
    """Make the parser of the options."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--law", choices=sorted(LAWS), default="factors")
    parser.add_argument("--score_dir", type=Path, help="directory of stored pairs, in place of a law")
    parser.add_argument("--enlarge", type=int, help="rows to draw from those of the store; without it, they are taken")
    parser.add_argument("--num_candidates", type=int, default=1500)
    parser.add_argument("--num_anchors", type=int, default=100)
    parser.add_argument("--num_unseen", type=int, default=0, help="anchors that are kept back to compare the sets on")
    parser.add_argument("--rank_by", choices=["gain", "mean_gain"], default="gain")
    parser.add_argument("--recall", type=float, default=0.75, help="share of the golden set to find, by expectation")
    parser.add_argument("--prefix_tokens", type=float, default=171, help="mean tokens of a prefix")
    parser.add_argument("--anchor_tokens", type=float, default=127, help="mean tokens of an anchor")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--num_seeds", type=int, default=10)
    parser.add_argument("--top_fractions", type=float, nargs="+", default=[0.01, 0.1])
    parser.add_argument(
        "--by_tokens", action="store_true", help="take the fractions as shares of all tokens; a row has its prefix's"
    )
    parser.add_argument("--tokens_per_wave", type=int, default=16_384)
    parser.add_argument("--json", action="store_true", help="one JSON object per replay and line")
    return parser


def main(argv: Sequence[str]) -> list[dict[str, Any]]:
    """Replay and print means over the seeds; return the row of each replay."""
    options = make_parser().parse_args(list(argv))
    rows = []
    for seed, matrix in _matrices(options):
        for top in options.top_fractions:
            n, m = matrix.gains.shape
            rows.append({"seed": seed, "n": n, "m": m, **replay(matrix, top, options, seed)})
            if options.json:
                print(json.dumps(rows[-1]), flush=True)
    if not options.json:
        print(f"{options.score_dir or options.law}: means over {options.num_seeds} seeds, asked {options.recall:g}")
        print("   top " + " ".join(f"{name:>9}" for name in SHOWN) + "  error of as_good")
        for top in options.top_fractions:
            own = pd.DataFrame([row for row in rows if row["top"] == top])
            error = own["as_good"].std() / math.sqrt(len(own))
            print(f"{top:>6.1%} " + " ".join(f"{own[name].mean():>9.3f}" for name in SHOWN) + f"  {error:.3f}")
    return rows


if __name__ == "__main__":
    main(sys.argv[1:])
