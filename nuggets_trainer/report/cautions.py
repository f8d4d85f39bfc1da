"""What a user should watch out for, derived from the figures: what each finding means and what to do about it.

A caution of level `warn` says that the golden set may not be what it seems; a `note` helps to read the numbers.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from nuggets_trainer.golden.limits import FAILS_REQUIRE, UNWANTED
from nuggets_trainer.report.trust import CONTENTS, LONGER_SHARE, remedy_of
from nuggets_trainer.wording import counted, decimal, tally

DROPPED_SHARE = 0.1
TIED_SHARE = 0.25  # of the golden set, from a tie that other rows lost
USELESS_ANCHORS = 0.2
UNWANTED_SHARE = 0.05  # of the golden set, that repeats another row, refuses or holds boilerplate
FEW_ANCHORS = 50
FEW_ROWS = 100
MIN_PAIRS = 20  # scored pairs before an anchor counts as won or lost by every row

Caution = dict[str, str]
Figures = dict[str, Any]


def cautions(figures: Figures) -> list[Caution]:
    """Return `level`, `title` and `text` of each caution, warnings first.

    Args:
        figures: the report's figures, without the cautions.
    """
    found: list[Caution] = []
    for check in CHECKS:
        found += check(figures)
    return sorted(found, key=lambda caution: caution["level"] != "warn")


def _warn(title: str, text: str) -> Caution:
    return {"level": "warn", "title": title, "text": text}


def _note(title: str, text: str) -> Caution:
    return {"level": "note", "title": title, "text": text}


def _signal(figures: Figures) -> Iterator[Caution]:
    check = figures["signal_check"]
    if not isinstance(check, dict):
        return
    if check.get("verdict") == "none":
        yield _warn(
            "The scorer model cannot tell examples from corrupted ones",
            "Candidates and corrupted copies of them got the same scores, so the ranking is mostly noise. Use a "
            "larger scorer model, another template, or more anchors.",
        )
    if check.get("verdict") == "some":
        yield _note(
            "The scorer model detects some corruptions, but not all",
            "Its scores say nothing about the corruptions that it does not detect. See the signal check below.",
        )


def _dropped(figures: Figures) -> Iterator[Caution]:
    run, cut = figures["run"], figures["cut"]
    num_dropped = cut["num_rows"] - cut["num_candidates"]
    for as_wanted in (FAILS_REQUIRE, *UNWANTED):  # a race drops rows that do not meet `require`
        num_dropped -= run["dropped"].get(as_wanted, 0)
    if num_dropped <= DROPPED_SHARE * cut["num_rows"]:
        return
    text = f"{num_dropped:,} of {cut['num_rows']:,} rows were dropped ({tally(run['dropped'])}). "
    if "too_long" in run["dropped"]:
        text += "A row must fit the model's context together with every anchor: shorten the rows, or long anchors. "
    yield _warn(
        f"{num_dropped / cut['num_rows']:.0%} of the pool was dropped and could not be chosen",
        f"{text}The section on dropped rows below explains the reasons.",
    )


def _left_out(figures: Figures) -> Iterator[Caution]:
    remarks = figures["run"].get("remarks", {})  # earlier versions wrote none
    candidates, anchors = remarks.get("candidates", {}), remarks.get("anchors", {})
    for remark, what in (("reasoning_left_out", "reasoning"), ("system_left_out", "system messages")):
        numbers = candidates.get(remark, 0), anchors.get(remark, 0)
        if not any(numbers):
            continue
        yield _warn(
            f"The template leaves out {what}",
            f"It does not show {what} of {counted(numbers[0], 'candidate')} and {counted(numbers[1], 'anchor')}. "
            "Training with this template does not see it either, so it counts in no score. Name a chat template that "
            "shows it (`chat_template_path`, SFTConfig) if it matters.",
        )
    num_joined = candidates.get("parts_joined", 0)
    if num_joined:
        yield _note(
            f"Contents that are lists of text parts: {counted(num_joined, 'candidate')}",
            "The chat template does not show such lists. They were scored as text, and `SelectedSFTTrainer` and the "
            "recipes train on them as text. Any other trainer needs them as text (`dataset.map`).",
        )


def _low_cut(figures: Figures) -> Iterator[Caution]:
    cut, ranked = figures["cut"], figures["ranked"]
    if ranked["is_signal"]:
        return
    if ranked["name"] != "golden_score" and cut["mean_gain"] <= 0:
        yield _warn(
            f"The golden set goes down to a mean gain of {cut['mean_gain']:+.3f} nats per token",
            "The last row kept makes the answers of the anchors less likely, on average. Keep fewer rows.",
        )
    if ranked["name"] == "golden_score" and cut["score"] < 0.5:
        yield _warn(
            f"The golden set goes down to a golden score of {cut['score']:.2f}",
            "The last row kept makes the answer more likely on fewer than half of the anchors. Keep fewer rows.",
        )
    if cut["mean_gain_kept"] <= 0:
        yield _warn(
            "On average the golden set does not help the anchors",
            f"Its mean gain is {cut['mean_gain_kept']:+.3f} nats per token: the kept rows lose on some anchors at "
            "least as much as they gain on others.",
        )


def _tie_breakers(ranked: Figures) -> str:
    """Name what decides between rows of one value, and what would tell them apart."""
    if ranked["is_signal"]:
        return "place in the pool"
    return f"{ranked['tie_breaker']}, then by place in the pool. More anchors would tell the rows apart"


def _ties(figures: Figures) -> Iterator[Caution]:
    cut = figures["cut"]
    lost = cut["ties"] - cut["ties_kept"]
    if lost and cut["ties_kept"] > TIED_SHARE * cut["num_kept"]:
        rejected = counted(lost, "equally good row was", "equally good rows were")
        yield _warn(
            f"{cut['ties']:,} rows tie at the cut",
            f"The golden set took {cut['ties_kept']:,} of its {counted(cut['num_kept'], 'row')} from this tie; "
            f"{rejected} rejected. A ranking breaks ties by {_tie_breakers(figures['ranked'])}.",
        )
    if cut["near_rejected"] > cut["num_kept"] and not figures["ranked"]["is_signal"]:
        about = "About " if cut["num_eliminated"] else ""
        yield _note(
            f"{about}{cut['near_rejected']:,} rejected rows are within one standard error of the cut",
            f"Another set of {counted(cut['num_anchors'], 'anchor')} would keep other rows near the cut. The top of "
            "the ranking is more certain than its end. The standard error shrinks with the square root of the number "
            "of anchors.",
        )


def _coverage(figures: Figures) -> Iterator[Caution]:
    run = figures["run"]
    weight = run["config"].get("coverage_weight")
    if weight is not None and run["golden_set"].get("num_unlike_ranking") == 0:
        yield _note(
            "Coverage changed nothing",
            f"With `coverage_weight={weight:g}` the golden set has the same rows as the ranking by "
            f"{figures['ranked']['words']}. Use a larger weight or a smaller golden set to get other rows.",
        )


def _missing(figures: Figures) -> Iterator[Caution]:
    golden_set = figures["run"].get("golden_set", {})
    num_missing = golden_set.get("num_missing", 0)
    if not num_missing:
        return
    num_kept = golden_set["golden_set_size"]
    passed_over = {}
    for name, number in golden_set.items():
        if name.startswith("passed_over_"):
            passed_over[name.removeprefix("passed_over_")] = number
    yield _warn(
        f"The golden set has {counted(num_kept, 'row')}, not {num_kept + num_missing:,}",
        f"All other rows were passed over ({tally(passed_over)}). Keep fewer rows, or raise the limit that passed "
        "them over: `max_rows_per_prompt` (full_prompt), `max_similarity` (near_duplicate).",
    )


def _length(figures: Figures) -> Iterator[Caution]:
    length = figures["length"]
    longer = length["share_longer"]
    if longer is None or 1 - LONGER_SHARE < longer < LONGER_SHARE:
        return
    word, share = "longer", longer
    if longer < LONGER_SHARE:
        word, share = "shorter", 1 - longer
    yield _warn(
        f"Kept rows are {word} than rejected rows in {share:.0%} of pairs",
        f"The median completion has {length['median_kept']:,.0f} {length['unit']} in kept rows and "
        f"{length['median_rejected']:,.0f} in rejected rows. Length alone may explain part of the choice: compare "
        "with random rows of the same lengths before you trust it, or choose the best rows of each class of length "
        "(`group_by: num_tokens`).",
    )


def _anchors(figures: Figures) -> Iterator[Caution]:
    usable = [anchor for anchor in figures["anchors"] if anchor["pairs"] >= MIN_PAIRS]
    if figures["ranked"]["name"] == "golden_score":  # a gain tells rows apart that all win an anchor
        yield from _useless_anchors(usable)
    yield from _opposed_anchors(usable, figures["cut"]["num_sampled"])
    num_scored = sum(anchor["pairs"] > 0 for anchor in figures["anchors"])
    if 0 < num_scored < FEW_ANCHORS:
        yield _note(f"Few anchors: {num_scored:,}", _precision(figures, num_scored))
    about = figures["run"]["anchors"]
    if about["dropped"]:
        yield _note(
            f"Anchors that could not be scored: {sum(about['dropped'].values()):,}",
            f"They have no part in the golden scores. Reasons: {tally(about['dropped'])}.",
        )
    if not about["given"]:
        yield _note(
            "The anchors were chosen from the pool itself",
            "If the pool is noisy, the anchors are noisy too. Give clean rows of the task that you care about, if you "
            "have them.",
        )


def _precision(figures: Figures, num_scored: int) -> str:
    """Say how certain a value from so many anchors is."""
    ranked = figures["ranked"]
    rule = "The standard error with 100 anchors is half of that with 25."
    if ranked["name"] == "golden_score":
        most = 0.5 / num_scored**0.5
        steps = f"A golden score moves in steps of {1 / num_scored:.3f}"
        return f"{steps}, and its standard error is up to {most:.2f}. {rule}"
    shown = decimal(figures["cut"]["standard_error"], ranked["digits"])
    return f"At the cut, the {ranked['words']} has a standard error of {shown}{ranked['unit']}. {rule}"


def _useless_anchors(usable: list[dict[str, Any]]) -> Iterator[Caution]:
    never = sum(anchor["pairs_won"] == 0 for anchor in usable)
    always = sum(anchor["pairs_won"] == anchor["pairs"] for anchor in usable)
    if never + always == 0:
        return
    level = _warn if never + always > USELESS_ANCHORS * len(usable) else _note
    yield level(
        f"Anchors that decide nothing: {never + always:,} of {len(usable):,}",
        f"No row wins {never:,} of them, and every row wins {always:,}. They cost as much as the other anchors: "
        "replace them.",
    )


def _opposed_anchors(usable: list[dict[str, Any]], num_sampled: int) -> Iterator[Caution]:
    # Three standard errors: by chance hardly one in some hundred anchors is beyond them.
    bound = -max(0.1, 3 / max(1, num_sampled) ** 0.5)
    opposed = sum((anchor["discrimination"] or 0) < bound for anchor in usable)
    if opposed:
        yield _note(
            f"Anchors that disagree with the others: {opposed:,} of {len(usable):,}",
            "A row that helps the other anchors tends to hurt these. They may be noisy, or from another kind of task.",
        )


def _size(figures: Figures) -> Iterator[Caution]:
    num_kept = figures["cut"]["num_kept"]
    if num_kept < FEW_ROWS and figures["run"]["config"].get("match_full_steps") is False:
        yield _note(
            f"The golden set is small: {counted(num_kept, 'row')}",
            "A few epochs over it are few optimizer steps. Set `max_steps` or `match_full_steps` when you tune on it.",
        )


def _contents(figures: Figures) -> Iterator[Caution]:
    contents = figures["run"].get("contents")
    if contents is None:  # results of an earlier version
        return
    for name, what in CONTENTS.items():
        found = contents[name]
        if not found["num_rows"]:
            continue
        level = _warn if found["num_rows"] > UNWANTED_SHARE * contents["num_rows"] else _note
        examples = ", ".join(f"{index:,}" for index in found["examples"])
        text = f"The first of them in the pool: {examples}. "
        if not name.startswith("repeated"):
            text += "Lists of phrases find them, which miss some: see `nuggets_trainer.data.contents`."
        elif remedy_of(name, figures["run"]):
            text += f"{remedy_of(name, figures['run'])}; other prompts take the places."
        yield level(f"Kept rows that {what}: {found['num_rows']:,} of {contents['num_rows']:,}", text.strip())


def _eliminated(figures: Figures) -> Iterator[Caution]:
    num_eliminated = figures["cut"]["num_eliminated"]
    if not num_eliminated:
        return
    effect = "The golden set is the same as after scoring every pair."
    if figures["run"]["config"].get("race_confidence") is not None:  # an option of earlier versions
        effect = "It also stopped rows that were unlikely to be kept."
    config = figures["run"]["config"]
    if config.get("rank_by", "golden_score") != "golden_score":
        yield _note(
            f"{counted(num_eliminated, 'row has', 'rows have')} predicted scores",
            "The race for gains stopped scoring a row when more anchors would hardly have changed whether it is kept. "
            f"It aimed at {config['race_recall']:.0%} of the golden set of scoring every pair; the other rows are "
            "near its cut. To get the scores of all rows, run with `schedule: exact`, which reuses the stored pairs.",
        )
        return
    yield _note(
        f"{counted(num_eliminated, 'row has', 'rows have')} an upper bound, but no golden score",
        f"The race stopped scoring a row as soon as it could not be kept any more. {effect} To get the golden scores "
        "of all rows, run with `schedule: exact`, which reuses the stored pairs.",
    )


CHECKS = (
    *(_signal, _dropped, _left_out, _low_cut, _ties, _coverage, _missing),
    *(_length, _contents, _anchors, _size, _eliminated),
)
