"""The verdict on a golden set: trust it, trust its top, or do not; with the facts that it rests on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from nuggets_trainer.golden.agreement import FEWEST_JUDGED, LOW_RELIABILITY, MOST_USELESS, Agreement
from nuggets_trainer.wording import counted

# Shares of the golden set, and of its best quarter, that would stay with other anchors. Measured on two real models
# with 100 anchors, top 10% (docs/log/reliability.md): a base model that tells spoilt rows from clean ones (AUC 0.81)
# has 0.76 and 0.99, an instruction-tuned one that does so half as well 0.51 and 0.74, and 0.32 and 0.44 with 32.
ENOUGH_STAYS = 0.6
LONGER_SHARE = 0.7  # of pairs of a kept and a rejected row; 0.5 if length does not matter

TITLES = {
    "trust": "Trust it",
    "trust_top": "Trust its top",
    "do_not_trust": "Do not trust it",
    "unknown": "Too little to tell",
}
SEEN = {
    "all": "it tells rows from copies with shuffled words and from copies with another row's completion",
    "some": "it sees some corruptions of a row, but not all (see the signal check)",
    "none": "it cannot tell rows from corrupted copies of themselves",
    "unclear": "too few rows were compared with corrupted copies to tell",
}
ONE_EACH = "`max_rows_per_prompt: 1` keeps the best row of each prompt"
CONTENTS = {
    "repeated_prompts": "repeat the prompt of another kept row",
    "repeated_completions": "repeat the completion of another kept row",
    "refusals": "refuse",
    "boilerplate": "hold boilerplate",
}

Figures = dict[str, Any]


def trust_figures(figures: Figures, agreement: Agreement) -> Figures:
    """Return the verdict and its facts, for report.json and the page.

    Args:
        figures: the report's figures: `run`, `ranked`, `cut`, `length` and `signal_check`.
        agreement: what other anchors would change, measured on random candidates.

    Returns:
        `outcome` (`trust`, `trust_top`, `do_not_trust` or `unknown`), its `title`, the `sentence`, the `facts` (name
        and text of each), the numbers behind them, and `is_estimate`: whether they are those of a race's pilot.
    """
    if figures["ranked"]["is_signal"]:
        return _of_signal(figures)
    reasons = list(_reasons(figures, agreement))
    outcome = _outcome(agreement, reasons)
    return {
        "outcome": outcome,
        "title": TITLES[outcome],
        "sentence": _sentence(outcome, agreement, reasons, _without_quotas(figures)),
        "facts": list(_facts(figures, agreement)),
        "reliability": agreement.reliability,
        "stays": agreement.stays,
        "top_stays": agreement.top_stays,
        "num_rows": agreement.num_rows,
        "is_estimate": figures["cut"]["num_eliminated"] > 0,
    }


def _of_signal(figures: Figures) -> Figures:
    """Return the verdict where rows are ranked by a signal of their own: nothing tells what it is worth."""
    cut = figures["cut"]
    ties = ""
    if cut["ties"] == cut["num_candidates"]:
        ties = " All rows tie."
    return {
        "outcome": "unknown",
        "title": "A baseline",
        "sentence": (
            f"The rows were ranked by their {figures['ranked']['words']}, and no pair was scored, so this page cannot "
            f"tell whether the golden set helps.{ties} Compare it with random rows: `nuggets compare`."
        ),
        "facts": [fact for fact in (_length_fact(figures), _contents_fact(figures)) if fact is not None],
        "reliability": None,
        "stays": None,
        "top_stays": None,
        "num_rows": cut["num_candidates"],
        "is_estimate": False,
    }


def _outcome(agreement: Agreement, reasons: list[str]) -> str:
    if reasons:
        return "do_not_trust"
    if agreement.stays is None or agreement.top_stays is None or agreement.num_rows < FEWEST_JUDGED:
        return "unknown"
    if agreement.stays >= ENOUGH_STAYS:
        return "trust"
    return "trust_top" if agreement.top_stays >= ENOUGH_STAYS else "do_not_trust"


def _reasons(figures: Figures, agreement: Agreement) -> Iterator[str]:
    """Yield what makes a ranking worthless, whatever would stay of it."""
    check, cut = figures["signal_check"], figures["cut"]
    if isinstance(check, dict) and check.get("verdict") == "none":
        yield "the scorer cannot tell rows from corrupted copies of themselves"
    if agreement.num_rows < FEWEST_JUDGED:
        return
    if cut["ties"] == cut["num_candidates"]:
        yield "all rows tie"
    if agreement.num_useless > MOST_USELESS * agreement.num_anchors:
        yield f"{agreement.num_useless:,} of {counted(agreement.num_anchors, 'anchor')} decide nothing"
    if agreement.reliability is not None and agreement.reliability < LOW_RELIABILITY:
        yield f"the reliability of the ranking is {agreement.reliability:.2f}"


def _without_quotas(figures: Figures) -> str:
    """Say that the two shares which stay are those of the ranking, if groups have quotas or prompts are limited."""
    config = figures["run"]["config"]
    ignored = []
    if config.get("group_by") is not None:
        ignored.append(f"the quotas of `{config['group_by']}`")
    if config.get("max_rows_per_prompt") is not None:
        ignored.append("`max_rows_per_prompt`")
    if not ignored:
        return ""
    return f"; both shares ignore {' and '.join(ignored)}"


def _sentence(outcome: str, agreement: Agreement, reasons: list[str], without_quotas: str) -> str:
    if reasons:
        return f"Do not trust this golden set: {'; '.join(reasons)}."
    if outcome == "unknown":
        return (
            f"Whether to trust this golden set is not known: {counted(agreement.num_rows, 'random row')} on "
            f"{counted(agreement.num_anchors, 'anchor')} cannot tell how much of it would stay with other anchors."
        )
    stay = (
        f"with other anchors of the same kind about {agreement.stays:.0%} of it would stay, and "
        f"{agreement.top_stays:.0%} of its best quarter{without_quotas}"
    )
    if outcome == "trust":
        return f"Trust this golden set: {stay}."
    if outcome == "trust_top":
        return f"Trust the top of this golden set: {stay}. Keep fewer rows, or take more anchors."
    return f"Do not trust this golden set: {stay}. Take more anchors, or another scorer model."


def _facts(figures: Figures, agreement: Agreement) -> Iterator[dict[str, str]]:
    yield {"name": "other anchors", "text": _about_anchors(figures, agreement)}
    yield {"name": "scorer", "text": _about_scorer(figures)}
    for fact in (_length_fact(figures), _contents_fact(figures)):
        if fact is not None:
            yield fact


def _length_fact(figures: Figures) -> dict[str, str] | None:
    text = _about_length(figures["length"])
    return None if text is None else {"name": "length", "text": text}


def _contents_fact(figures: Figures) -> dict[str, str] | None:
    text = _about_contents(figures["run"])
    return None if text is None else {"name": "contents", "text": text}


def _about_anchors(figures: Figures, agreement: Agreement) -> str:
    if agreement.stays is None or agreement.reliability is None:
        return f"unknown, from {counted(agreement.num_rows, 'row')} and {counted(agreement.num_anchors, 'anchor')}"
    text = (
        f"about {agreement.stays:.0%} of the golden set would stay, and {agreement.top_stays:.0%} of its best quarter "
        f"(reliability {agreement.reliability:.2f}){_without_quotas(figures)}"
    )
    if figures["cut"]["num_eliminated"]:
        text += f"; estimated from the {counted(agreement.num_rows, 'random row')} that the race scored on all anchors"
    return text


def _about_scorer(figures: Figures) -> str:
    check = figures["signal_check"]
    verdict = check.get("verdict") if isinstance(check, dict) else None
    return SEEN.get(str(verdict), "it was not checked whether it can use an example")


def _about_length(length: Figures) -> str | None:
    longer = length["share_longer"]
    if longer is None:
        return None
    text = f"a kept completion is longer than a rejected one in {longer:.0%} of the pairs"
    if 1 - LONGER_SHARE < longer < LONGER_SHARE:
        return text
    return f"{text}: length alone may explain part of the choice"


def remedy_of(name: str, run: Figures) -> str:
    """Name the option that leaves out kept rows of a kind; "" if there is none, or if the run used it.

    Args:
        name: key of `CONTENTS`.
        run: content of run.json.
    """
    if name == "repeated_prompts" and run["config"].get("max_rows_per_prompt") is None:
        return ONE_EACH
    return ""


def _about_contents(run: Figures) -> str | None:
    """Say how many kept rows nobody would want; None for results of earlier versions."""
    contents = run.get("contents")
    if contents is None:
        return None
    looked_at = counted(contents["num_rows"], "kept row")
    parts = []
    for name, what in CONTENTS.items():
        if contents[name]["num_rows"]:
            part = f"{contents[name]['num_rows']:,} {what}"
            if remedy_of(name, run):
                part += f" ({remedy_of(name, run)})"
            parts.append(part)
    if not parts:
        return f"no repeated prompts, refusals or boilerplate found in {looked_at}"
    return f"of {looked_at}, {', '.join(parts)}"
