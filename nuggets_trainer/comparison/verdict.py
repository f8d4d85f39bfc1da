"""The verdict of a comparison: one sentence on whether the golden set beats chance, all rows and the best rival."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import numpy as np

from nuggets_trainer.analysis.bootstrap import CONFIDENCE, Bootstrap, Difference
from nuggets_trainer.comparison.table import ArmResult
from nuggets_trainer.wording import counted

# The arm that the verdict is on: the first of these that was run.
SUBJECTS = (
    *("golden", "golden_filtered", "gain", "gain_filtered", "mean_gain"),
    *("golden_by_length", "golden_by_prompt", "coverage"),
)
LENGTH_CONTROL, SAME_LENGTHS = "random_length", "random rows of the same lengths"  # the lengths of `golden`
# Arms that choose among the rows that meet `require`. Random ones of these rows tell what the condition does alone.
FILTERED, FILTERED_CONTROL = ("golden_filtered", "gain_filtered"), "random_filtered"
BETTER, WORSE, EVEN, UNKNOWN = "better", "worse", "not different", "unknown"


@dataclass(frozen=True)
class Weighed:
    """One arm against another at one size.

    Attributes:
        opponent: name of the other arm.
        label: its name for people.
        fraction: share of the pool.
        outcome: `better` or `worse` if the interval leaves out zero, else `not different`; `unknown` without one.
        difference: loss of the arm minus that of the opponent, nats per token, and the ends of its interval.
    """

    opponent: str
    label: str
    fraction: float
    outcome: str
    difference: Difference


@dataclass(frozen=True)
class Verdict:
    """What a comparison says of the golden set.

    Attributes:
        sentence: the verdict in words.
        arm: name of the arm that it is on; None if no golden set was run.
        weighed: the comparisons that it is made of: random rows, the full pool, the best rival, random rows of the
            golden set's lengths, as far as they were run.
        resolution: half the width of the widest 95% interval of the golden set minus random rows, or minus the full
            pool where these were not run: smaller differences are not seen. None without an interval.
        filtered: arms that choose among the rows that meet `require`, weighed against random ones of these rows.
    """

    sentence: str
    arm: str | None = None
    weighed: list[Weighed] = field(default_factory=list)
    resolution: float | None = None
    filtered: dict[str, list[Weighed]] = field(default_factory=dict)


def make_verdict(results: Sequence[ArmResult], bootstrap: Bootstrap, rivals: Collection[str]) -> Verdict:
    """Weigh the golden set against random rows, the full pool, the best rival and rows as long, at every size.

    The comparisons with random rows, the full pool and random rows of the same lengths are chosen beforehand and have
    95% intervals. The best rival is the one with the lowest mean loss over the sizes, so its interval allows for the
    number of rivals (Bonferroni). Golden rows that meet a condition are weighed against random rows that meet it.

    Args:
        results: results of all arms.
        bootstrap: intervals of differences.
        rivals: names of the arms among which the best rival is sought.
    """
    by_arm: dict[str, dict[float | None, ArmResult]] = {}
    for result in results:
        by_arm.setdefault(result.arm, {})[result.fraction] = result
    subject = next((arm for arm in SUBJECTS if arm in by_arm), None)
    if subject is None:
        return _without_golden_set(results, bootstrap)
    present = [arm for arm in by_arm if arm in rivals and arm != subject]
    against: list[list[Weighed]] = []  # of each opponent, at every size
    for opponent in ("random", "full"):
        if opponent in by_arm:
            against.append(_weigh(by_arm[subject], by_arm[opponent], bootstrap, CONFIDENCE))
    resolution = None
    if against:
        resolution = _resolution(against[0])
    best = None
    if present:
        best = min(present, key=lambda arm: _mean_loss(by_arm[arm].values(), bootstrap))
        confidence = 1 - (1 - CONFIDENCE) / len(present)
        against.append(_weigh(by_arm[subject], by_arm[best], bootstrap, confidence))
    label = next(iter(by_arm[subject].values())).label
    of_lengths: list[Weighed] = []
    if subject == "golden" and LENGTH_CONTROL in by_arm:
        of_lengths = _weigh(by_arm[subject], by_arm[LENGTH_CONTROL], bootstrap, CONFIDENCE)
    sentence = _sentence(label, against or [of_lengths], best, len(present))
    if against and of_lengths:
        sentence += f" It {_clause(of_lengths, SAME_LENGTHS)}{_what_length_explains(against, of_lengths)}."
    filtered = {}
    for arm in FILTERED:
        if arm in by_arm and FILTERED_CONTROL in by_arm:
            filtered[arm] = _weigh(by_arm[arm], by_arm[FILTERED_CONTROL], bootstrap, CONFIDENCE)
            label = next(iter(by_arm[arm].values())).label
            sentence += f' Among the rows that meet the condition, "{label}" {_clause(filtered[arm], "random rows")}.'
    weighed = list(itertools.chain.from_iterable([*against, of_lengths]))
    return Verdict(sentence, subject, weighed, resolution, filtered)


def _without_golden_set(results: Sequence[ArmResult], bootstrap: Bootstrap) -> Verdict:
    lowest = min(results, key=lambda result: _mean_loss([result], bootstrap))
    return Verdict(f"No golden set was compared. The lowest held-out loss is that of: {lowest.label}.")


def _mean_loss(results: Collection[ArmResult], bootstrap: Bootstrap) -> float:
    return float(np.mean([bootstrap.mean(result.losses).mean() for result in results]))


def _weigh(
    own: dict[float | None, ArmResult],
    other: dict[float | None, ArmResult],
    bootstrap: Bootstrap,
    confidence: float,
) -> list[Weighed]:
    """Weigh an arm against another at each size that both have; an arm without a size stands for all sizes."""
    weighed = []
    for fraction, result in own.items():
        opponent = other.get(fraction, other.get(None))
        if fraction is None or opponent is None:
            continue
        difference = bootstrap.difference(result.losses, opponent.losses, confidence)
        outcome = _outcome(difference)
        weighed.append(Weighed(opponent.arm, opponent.label, fraction, outcome, difference))
    return weighed


def _outcome(difference: Difference) -> str:
    _, low, high = difference
    if low is None or high is None:
        return UNKNOWN
    if high < 0:
        return BETTER
    if low > 0:
        return WORSE
    return EVEN


def _resolution(weighed: Sequence[Weighed]) -> float | None:
    """Return half the width of the widest interval."""
    widths = []
    for one in weighed:
        _, low, high = one.difference
        if low is not None and high is not None:
            widths.append((high - low) / 2)
    return max(widths, default=None)


def _sentence(label: str, against: Sequence[list[Weighed]], best: str | None, num_rivals: int) -> str:
    """Write the verdict: one clause for each opponent."""
    if not against or not against[0]:
        return f"The {label} was compared with nothing but the base model."
    sizes = [weighed.fraction for weighed in against[0]]
    clauses = []
    for weighed in against:
        name = _name_of(weighed[0], best, num_rivals)
        clauses.append(_clause(weighed, name).removesuffix(","))  # a name in commas may end the clause
    where = f"At {_percent(sizes[0])} of the pool"
    if len(sizes) > 1:
        where = f"At {len(sizes)} sizes"
    text = f"{where}, the {label} {'; it '.join(clauses)}."
    if against[0][0].outcome == UNKNOWN:
        text += " One seed cannot tell whether another seed would say the same."
    return text


def _what_length_explains(against: Sequence[list[Weighed]], of_lengths: Sequence[Weighed]) -> str:
    """Say whether length may explain a win over random rows; nothing if there was no win or no interval."""
    won = set()
    for one in itertools.chain.from_iterable(against):
        if one.opponent == "random" and one.outcome == BETTER:
            won.add(one.fraction)
    outcomes = {one.outcome for one in of_lengths if one.fraction in won}
    if not outcomes or UNKNOWN in outcomes:
        return ""
    if outcomes == {BETTER}:
        return ", so length alone does not explain its win over random rows"
    if BETTER in outcomes:
        return ", so its win over random rows may come from length alone at some sizes"
    return ", so its win over random rows may come from length alone"


def _name_of(one: Weighed, best: str | None, num_rivals: int) -> str:
    if one.opponent == "full":
        return f"the {one.label}"
    if one.opponent == best and num_rivals > 1:
        return f'"{one.label}", the best of {num_rivals} rivals,'
    if one.opponent == best:
        return f'"{one.label}"'
    return one.label


def _clause(weighed: Sequence[Weighed], name: str) -> str:
    """Say how an arm stands against one opponent: with the interval at one size, with a range at several."""
    if len(weighed) == 1:
        return _one_size(weighed[0], name)
    outcomes = {one.outcome for one in weighed}
    if len(outcomes) == 1:
        return _all_sizes(weighed, name)
    parts: list[str] = []
    for outcome, words in ((BETTER, "beats"), (EVEN, "is not different from"), (WORSE, "is worse than")):
        sizes = [_percent(one.fraction) for one in weighed if one.outcome == outcome]
        if sizes:
            parts.append(f"{words} {'it' if parts else name} at {_listed(sizes)}")
    return _listed(parts)


def _one_size(one: Weighed, name: str) -> str:
    value, low, high = one.difference
    size = f"{abs(value):.4f} nats per token"
    if low is None or high is None:
        side = "below" if value < 0 else "above"
        return f"has a loss that is {size} {side} that of {name}"
    if one.outcome == BETTER:
        return f"beats {name} by {size} [{-high:.4f}, {-low:.4f}]"
    if one.outcome == WORSE:
        return f"is worse than {name} by {size} [{low:.4f}, {high:.4f}]"
    return f"is not different from {name} ({value:+.4f} nats per token [{low:+.4f}, {high:+.4f}])"


def _all_sizes(weighed: Sequence[Weighed], name: str) -> str:
    sizes = [abs(one.difference[0]) for one in weighed]
    smallest_to_largest = f"{min(sizes):.4f} to {max(sizes):.4f} nats per token"
    outcome = weighed[0].outcome
    if outcome == BETTER:
        return f"beats {name} at each, by {smallest_to_largest}"
    if outcome == WORSE:
        return f"is worse than {name} at each, by {smallest_to_largest}"
    if outcome == EVEN:
        return f"is not different from {name} at any of them"
    return f"has losses that differ by {smallest_to_largest} from those of {name}"


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.4g}%"


def _listed(parts: Sequence[str]) -> str:
    if len(parts) == 1:
        return parts[0]
    return f"{', '.join(parts[:-1])} and {parts[-1]}"


def describe_resolution(verdict: Verdict, num_seeds: int, num_heldout: int) -> str:
    """Say how small a difference the comparison can tell; an empty text if it can tell none."""
    if verdict.resolution is None:
        return ""
    return (
        f"{counted(num_seeds, 'seed')} and {counted(num_heldout, 'held-out row')} tell differences of about "
        f"{verdict.resolution:.2g} nats per token; smaller ones are not seen."
    )
