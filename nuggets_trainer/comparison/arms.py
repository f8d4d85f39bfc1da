"""The arms of a comparison: each chooses the rows that a model is tuned on. Arrays in, pool indices out.

A new arm is one entry of `ARMS`. It chooses from the evidence, which holds one value per row in each of its columns.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from nuggets_trainer.comparison.evidence import Evidence, Indices
from nuggets_trainer.config.diversity_options import COMPLETION_TOKENS
from nuggets_trainer.golden.coverage import cover
from nuggets_trainer.golden.diversity import Diversity, choose_diverse

Choose = Callable[[Evidence, int, int], Indices]
PROMPT = "prompt"  # column of the evidence that is computed only if an arm needs it
BY_PROMPT = "golden_by_prompt"  # the arm that obeys `max_rows_per_prompt`


@dataclass(frozen=True)
class Arm:
    """A way to choose the rows that a model is tuned on.

    Attributes:
        name: name in `arms` and in compare.json.
        label: name in the table and the plot.
        choose: function of the evidence, the number of rows k and the seed of the run; returns the pool indices of at
            most k rows.
        stages: what has to be computed before the rows are known: `scoring`, `signals`, `ica`. The length of a row
            costs nothing.
        columns: columns of the evidence that it chooses by.
        needs_every_pair: whether a race, which leaves pairs out, gives too little to choose by.
        has_size: whether it takes k rows; the arm `full` takes all.
        is_rival: whether it could replace what golden scores do, at no or little cost. The verdict weighs the golden
            set against the best of these.
    """

    name: str
    label: str
    choose: Choose
    stages: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    needs_every_pair: bool = False
    has_size: bool = True
    is_rival: bool = False


@dataclass(frozen=True, eq=False)  # arrays have no single truth value to compare by
class ChosenArm:
    """Rows of one arm.

    Attributes:
        arm: the arm.
        fraction: share of the pool; None for arms that do not depend on it.
        rows: pool indices of the rows of each seed.
        golden_share: share of the rows that are in the golden set of that fraction, mean over seeds.
    """

    arm: Arm
    fraction: float | None
    rows: list[Indices]
    golden_share: float | None


def choose_all_rows(
    evidence: Evidence, arms: Sequence[Arm], fractions: Sequence[float], seeds: Sequence[int]
) -> list[ChosenArm]:
    """Choose the rows of every arm at every fraction with every seed; an arm without a size stands once.

    Args:
        evidence: what the arms choose by.
        arms: the arms.
        fractions: sizes, as shares of the usable rows.
        seeds: seeds of the runs.

    Raises:
        ValueError: if an arm finds no row.
    """
    chosen = []
    for arm in arms:
        if not arm.has_size:
            chosen.append(_choose(evidence, arm, None, seeds))
    for fraction in fractions:
        for arm in arms:
            if arm.has_size:
                chosen.append(_choose(evidence, arm, fraction, seeds))
    return chosen


def _choose(evidence: Evidence, arm: Arm, fraction: float | None, seeds: Sequence[int]) -> ChosenArm:
    k = len(evidence.usable)
    if fraction is not None:
        k = evidence.num_chosen(fraction)
    rows = [arm.choose(evidence, k, seed) for seed in seeds]
    if any(len(own) == 0 for own in rows):
        raise ValueError(f"The arm `{arm.name}` found no row at all. Leave it out of `arms`.")
    golden_share = None
    if fraction is not None:
        golden = evidence.ranked[:k]
        golden_share = float(np.mean([np.isin(own, golden).mean() for own in rows]))
    return ChosenArm(arm, fraction, rows, golden_share)


def best_by(value: str) -> Choose:
    """Take the best rows by a value of the golden scores, as `rank_by` does."""

    def choose(evidence: Evidence, k: int, seed: int) -> Indices:
        return evidence.ranked_by(value)[:k]

    return choose


def highest(column: str) -> Choose:
    """Take the rows with the highest values of a column."""

    def choose(evidence: Evidence, k: int, seed: int) -> Indices:
        return evidence.highest(evidence.columns[column], k)

    return choose


def lowest(column: str) -> Choose:
    """Take the rows with the lowest values of a column."""

    def choose(evidence: Evidence, k: int, seed: int) -> Indices:
        return evidence.highest(-evidence.columns[column], k)

    return choose


def filtered(choose: Choose) -> Choose:
    """Let an arm choose among the rows that meet `require`; it takes as many rows as without the condition."""

    def choose_filtered(evidence: Evidence, k: int, seed: int) -> Indices:
        return choose(evidence.filtered(), k, seed)

    return choose_filtered


def all_rows(evidence: Evidence, k: int, seed: int) -> Indices:
    """Take every usable row."""
    return evidence.usable


def random_rows(evidence: Evidence, k: int, seed: int) -> Indices:
    """Draw rows at random; each seed gives other rows."""
    size = min(k, len(evidence.usable))
    return np.random.default_rng([seed, k]).choice(evidence.usable, size=size, replace=False)


def as_long_as(choose: Choose) -> Choose:
    """Draw rows whose completions are as long as those of another arm; each seed gives other rows.

    The rows of that arm are visited in random order. Each is matched with a row that is not taken yet and is nearest
    to it in length; among equally near rows the choice is random. Most matches are of equal length. Rows of that arm
    can be drawn as well, as in `random_rows`.
    """

    def choose_as_long(evidence: Evidence, k: int, seed: int) -> Indices:
        generator = np.random.default_rng([seed, k])
        tokens = np.nan_to_num(evidence.columns["num_tokens"])
        pool = generator.permutation(evidence.usable)
        lengths = tokens[pool]
        free = np.ones(len(pool), dtype=np.bool_)
        chosen = []
        for wanted in tokens[generator.permutation(choose(evidence, k, seed))]:
            distance = np.where(free, np.abs(lengths - wanted), np.inf)
            place = int(np.argmin(distance))
            free[place] = False
            chosen.append(pool[place])
        return np.array(chosen, dtype=np.int64)

    return choose_as_long


def highest_ifd_rows(evidence: Evidence, k: int, seed: int) -> Indices:
    """Take the rows with the highest IFD of at most 1 (Cherry LLM); fewer than k if there are no more."""
    ifd = evidence.columns["ifd"]
    return evidence.highest(np.where(ifd <= 1, ifd, np.nan), k)


def best_of_each_length(evidence: Evidence, k: int, seed: int) -> Indices:
    """Take the best rows by golden score within classes of length, as `group_by: num_tokens` does."""
    return _best_within(Diversity(lengths=evidence.columns[COMPLETION_TOKENS].astype(np.float64)), evidence, k)


def best_of_each_prompt(evidence: Evidence, k: int, seed: int) -> Indices:
    """Take the best rows of each prompt by golden score, as `max_rows_per_prompt` does; there may be fewer than k."""
    prompts = evidence.columns[PROMPT].astype(np.int64)
    return _best_within(Diversity(prompts=prompts, max_rows_per_prompt=evidence.max_rows_per_prompt), evidence, k)


def _best_within(diversity: Diversity, evidence: Evidence, k: int) -> Indices:
    """Take the best rows by golden score within limits."""
    rows = evidence.ranked
    chosen = choose_diverse(evidence.scores.golden_score, rows, k, diversity, "golden_score")
    return rows[chosen.places]


def worst_rows(evidence: Evidence, k: int, seed: int) -> Indices:
    """Take the worst rows by golden score."""
    return evidence.ranked[::-1][:k]


def covering_rows(evidence: Evidence, k: int, seed: int) -> Indices:
    """Take rows that together help all anchors (see `nuggets_trainer.golden.coverage`)."""
    rows = evidence.ranked
    gains = evidence.one_shot[rows] - evidence.zero_shot
    score = evidence.scores.golden_score[rows]
    return rows[cover(gains[:, np.isfinite(evidence.zero_shot)], score, k, evidence.coverage_weight)]


SCORING, SIGNALS, BOTH = ("scoring",), ("signals",), ("scoring", "signals")
_ALL = (
    Arm("golden", "golden set", best_by("golden_score"), SCORING),
    Arm("full", "full pool", all_rows, has_size=False),
    Arm("random", "random rows", random_rows),
    Arm(
        "random_length",
        "random, as long as golden",
        as_long_as(best_by("golden_score")),
        SCORING,
        ("num_tokens",),
    ),
    Arm("longest", "longest completions", highest("num_tokens"), (), ("num_tokens",), is_rival=True),
    Arm("lowest_loss", "lowest loss", lowest("loss"), SIGNALS, ("loss",), is_rival=True),
    Arm("ifd", "highest IFD", highest_ifd_rows, SIGNALS, ("ifd",), is_rival=True),
    Arm("similarity", "most similar (RDS+)", lowest("similarity_turn"), SIGNALS, ("similarity_turn",), is_rival=True),
    Arm("ica", "helped by anchors (ICA)", highest("ica"), (*SIGNALS, "ica"), ("ica",), is_rival=True),
    Arm("mean_gain", "highest mean gain", best_by("mean_gain"), SCORING, needs_every_pair=True),
    Arm("gain", "highest standardised gain", best_by("gain"), SCORING, needs_every_pair=True),
    Arm(
        "golden_by_length",
        "golden set with the pool's lengths",
        best_of_each_length,
        SCORING,
        (COMPLETION_TOKENS,),
        needs_every_pair=True,
    ),
    Arm(
        BY_PROMPT,
        "golden set, best rows of each prompt",
        best_of_each_prompt,
        SCORING,
        (PROMPT,),
        needs_every_pair=True,
    ),
    Arm("coverage", "coverage", covering_rows, SCORING, needs_every_pair=True),
    Arm("golden_filtered", "golden set, filtered", filtered(best_by("golden_score")), BOTH, needs_every_pair=True),
    Arm("gain_filtered", "highest gain, filtered", filtered(best_by("gain")), BOTH, needs_every_pair=True),
    Arm("random_filtered", "random rows, filtered", filtered(random_rows), SIGNALS, is_rival=True),
    Arm("bottom", "lowest golden scores", worst_rows, SCORING, needs_every_pair=True),
)
ARMS = {arm.name: arm for arm in _ALL}
FILTERED = tuple(name for name in ARMS if name.endswith("_filtered"))  # arms that need the condition `require`
# Each arm costs as many runs as any other, so the default has the questions whose answers decide whether golden scores
# are worth their price: do they beat chance, length, all rows, and the rules that cost nearly nothing? Variants of the
# golden set itself are asked for by name.
DEFAULT_ARMS = (
    "golden",
    "full",
    "random",
    "random_length",
    "longest",
    "lowest_loss",
    "ifd",
    "similarity",
    "ica",
    "bottom",
)
QUICK_ARMS = ("golden", "full", "random", "random_length", "lowest_loss")
BASE, BASE_LABEL = "base", "nothing (base model)"
