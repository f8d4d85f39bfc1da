"""What a user should watch out for, read off the figures: each with what it means and what to do. Knows no files.

A caution of level `warn` says that the golden set may not be what it seems; a `note` helps to read the numbers.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

DROPPED_SHARE = 0.1
TIED_SHARE = 0.25  # of the golden set, from a tie that others lost
LONGER_SHARE = 0.7  # of pairs of a kept and a rejected row: 0.5 where length does not matter
USELESS_ANCHORS = 0.2
FEW_ANCHORS = 50
FEW_ROWS = 100
MIN_PAIRS = 20  # before an anchor is called won or lost by all

Caution = dict[str, str]


def cautions(figures: dict[str, Any]) -> list[Caution]:
    """Return `level`, `title` and `text` of each caution, warnings first."""
    found = [
        *_signal(figures["signal_check"]),
        *_dropped(figures["run"], figures["cut"]),
        *_low_cut(figures["cut"]),
        *_ties(figures["cut"]),
        *_coverage(figures["run"]),
        *_length(figures["length"]),
        *_anchors(figures["anchors"], figures["cut"]["num_sampled"], figures["run"]),
        *_size(figures["cut"], figures["run"]),
        *_eliminated(figures["cut"], figures["run"]),
    ]
    return sorted(found, key=lambda caution: caution["level"] != "warn")


def _warn(title: str, text: str) -> Caution:
    return {"level": "warn", "title": title, "text": text}


def _note(title: str, text: str) -> Caution:
    return {"level": "note", "title": title, "text": text}


def _signal(check: Any) -> Iterator[Caution]:
    verdict = check.get("verdict") if isinstance(check, dict) else None
    if verdict == "none":
        yield _warn(
            "The scorer model cannot tell examples from corrupted ones",
            "Candidates and corrupted copies of them got the same scores, so that the ranking is mostly noise. Use a "
            "larger scorer model, another template, or more anchors.",
        )
    if verdict == "some":
        yield _note(
            "The scorer model tells examples from some corruptions, not from all",
            "Of the others its scores say nothing: see the signal check below.",
        )


def _dropped(run: dict[str, Any], cut: dict[str, Any]) -> Iterator[Caution]:
    num_dropped = cut["num_rows"] - cut["num_candidates"]
    if num_dropped > DROPPED_SHARE * cut["num_rows"]:
        reasons = ", ".join(f"{reason} {count:,}" for reason, count in run["dropped"].items())
        advice = "Shorten or leave out long anchors. " if "too_long" in run["dropped"] else ""
        yield _warn(
            f"{num_dropped / cut['num_rows']:.0%} of the pool was dropped and could not be chosen",
            f"{num_dropped:,} of {cut['num_rows']:,} rows ({reasons}). {advice}See the dropped rows below.",
        )


def _low_cut(cut: dict[str, Any]) -> Iterator[Caution]:
    if cut["score"] < 0.5:
        yield _warn(
            f"The golden set goes down to a golden score of {cut['score']:.2f}",
            "The last row kept makes more anchors less likely than it makes likelier. Keep fewer rows.",
        )
    if cut["mean_gain_kept"] <= 0:
        yield _warn(
            "On average the golden set does not help the anchors",
            f"Its mean gain is {cut['mean_gain_kept']:+.3f} nats per token: the rows that help, help little.",
        )


def _ties(cut: dict[str, Any]) -> Iterator[Caution]:
    lost = cut["ties"] - cut["ties_kept"]
    if lost and cut["ties_kept"] > TIED_SHARE * cut["num_kept"]:
        yield _warn(
            f"{cut['ties']:,} rows tie at the cut",
            f"{cut['ties_kept']:,} of the {cut['num_kept']:,} rows kept were chosen among them (in a ranking by mean "
            f"gain, then by place in the pool), and {lost:,} equally good ones were not. More anchors "
            "tell them apart.",
        )
    if cut["near_rejected"] > cut["num_kept"]:
        about = "About " if cut["num_eliminated"] else ""
        yield _note(
            f"{about}{cut['near_rejected']:,} rejected rows are within one standard error of the cut",
            f"Another set of {cut['num_anchors']:,} anchors would keep other rows near the cut. The top of the "
            "ranking is surer than its end; the standard error shrinks with the square root of the number of anchors.",
        )


def _coverage(run: dict[str, Any]) -> Iterator[Caution]:
    weight = run["config"].get("coverage_weight")
    if weight is not None and run["golden_set"].get("num_unlike_ranking") == 0:
        yield _note(
            "Coverage changed nothing",
            f"With `coverage_weight={weight:g}` the golden set has the rows of the ranking by golden score. A larger "
            "weight, or a smaller golden set, would tell them apart.",
        )


def _length(length: dict[str, Any]) -> Iterator[Caution]:
    longer = length["share_longer"]
    if longer is None or 1 - LONGER_SHARE < longer < LONGER_SHARE:
        return
    word, share = ("longer", longer) if longer >= LONGER_SHARE else ("shorter", 1 - longer)
    yield _warn(
        f"Kept rows are {word}: {share:.0%} of the time than a rejected one",
        f"The median completion has {length['median_kept']:,.0f} {length['unit']} among those kept and "
        f"{length['median_rejected']:,.0f} among those rejected. Length alone may explain a part of the choice: "
        "compare with random rows of the same lengths before you trust it.",
    )


def _anchors(anchors: list[dict[str, Any]], num_sampled: int, run: dict[str, Any]) -> Iterator[Caution]:
    usable = [anchor for anchor in anchors if anchor["pairs"] >= MIN_PAIRS]
    never = sum(anchor["pairs_won"] == 0 for anchor in usable)
    always = sum(anchor["pairs_won"] == anchor["pairs"] for anchor in usable)
    if never or always:
        counts = [f"{never:,} are never won"] * bool(never) + [f"{always:,} are always won"] * bool(always)
        level = _warn if never + always > USELESS_ANCHORS * len(usable) else _note
        yield level(
            f"{never + always:,} of {len(usable):,} anchors decide nothing",
            f"{' and '.join(counts)}, whatever candidate stands before them. They cost as much as the others: replace "
            "them.",
        )
    # Three standard errors: of some hundred anchors hardly one is beyond by chance.
    bound = -max(0.1, 3 / max(1, num_sampled) ** 0.5)
    against = sum((anchor["discrimination"] or 0) < bound for anchor in usable)
    if against:
        yield _note(
            f"{against:,} anchors disagree with the others",
            "What helps the other anchors tends to hurt these. They may be noisy, or of another kind of task.",
        )
    if 0 < len(usable) < FEW_ANCHORS:
        yield _note(
            f"{len(usable):,} anchors are few",
            f"A golden score moves in steps of {1 / len(usable):.3f}, and its standard error is up to "
            f"{0.5 / len(usable) ** 0.5:.2f}. 100 anchors halve what 25 leave open.",
        )
    dropped = sum(run["anchors"]["dropped"].values())
    if dropped:
        yield _note(
            f"{dropped:,} anchors could not be scored",
            ", ".join(f"{reason} {count:,}" for reason, count in run["anchors"]["dropped"].items()) + ".",
        )
    if not run["anchors"]["given"]:
        yield _note(
            "The anchors were chosen from the pool itself",
            "Where the pool is noisy, so are they. Give clean rows of the task you care about, if you have them.",
        )


def _size(cut: dict[str, Any], run: dict[str, Any]) -> Iterator[Caution]:
    if cut["num_kept"] < FEW_ROWS and run["config"].get("match_full_steps") is False:
        yield _note(
            f"The golden set is small: {cut['num_kept']:,} rows",
            "A few epochs over it are few optimizer steps. Set `max_steps` or `match_full_steps` when you tune on it.",
        )


def _eliminated(cut: dict[str, Any], run: dict[str, Any]) -> Iterator[Caution]:
    if cut["num_eliminated"]:
        # Runs of before 0.2 could let the race err: the option `race_confidence` was removed then.
        exact = run["config"].get("race_confidence") is None
        kept = "The golden set is that of scoring everything" if exact else "Unlikely rows were stopped as well"
        yield _note(
            f"{cut['num_eliminated']:,} rows have no golden score, but a bound",
            f"The race left them as soon as they could not be kept any more. {kept}; for the whole distribution of "
            "scores run with `schedule: exact`, which uses what is stored.",
        )
