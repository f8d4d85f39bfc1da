"""What a model card and a dataset card say about a golden set, as Markdown.

Paths, texts of rows and settings of the machine stay out: a card is public.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nuggets_trainer.golden.limits import FAILS_REQUIRE
from nuggets_trainer.golden.ranking import RankedValue, ranked_value, written_rule
from nuggets_trainer.report.card_fields import dataset_head, with_fields
from nuggets_trainer.report.makeup import about_condition
from nuggets_trainer.store.hub_cache import hub_model_name
from nuggets_trainer.store.results import count_reasons
from nuggets_trainer.wording import counted, decimal, tally

if TYPE_CHECKING:
    from nuggets_trainer.config.nuggets_config import NuggetsConfig
    from nuggets_trainer.golden.selection import GoldenSet
    from nuggets_trainer.store.results import PoolScores

SECTION = "## How the training data was chosen"
NUGGETS = "[Nuggets](https://arxiv.org/abs/2312.10302)"
# What a signal of the row itself is, as a clause; the rows are ranked from the best to the worst.
SIGNALS = {
    "loss": "the lowest mean negative log-prob per token of {scorer} for their completions behind their prompts",
    "ifd": "the highest loss of {scorer} behind the prompt, divided by that without it, up to 1",
    "similarity": "the highest mean cosine between the embeddings of the row and of the anchors by {scorer}",
    "similarity_turn": "the embeddings of {scorer}: each anchor in turn takes the row most similar to it (RDS+)",
    "ica": "how much more likely {scorer} finds their completions after anchors as examples",
    "num_tokens": "the most scored tokens of the completion",
}
CITATION = """@inproceedings{li2024nuggets,
  title  = {One-Shot Learning as Instruction Data Prospector for Large Language Models},
  author = {Li, Yunshui and Hui, Binyuan and Xia, Xiaobo and Yang, Jiaxi and Yang, Min and Zhang, Lei and Si, Shuzheng
            and Chen, Ling-Hao and Liu, Junhao and Liu, Tongliang and Huang, Fei and Li, Yongbin},
  year   = {2024},
  url    = {https://arxiv.org/abs/2312.10302}
}"""
# As TRL's trainers name the paper of their method.
PAPER = {
    "title": "One-Shot Learning as Instruction Data Prospector for Large Language Models",
    "id": "2312.10302",
    "citation": CITATION,
}

DATASET_CONFIGURATIONS = """| configuration | rows |
| --- | --- |
| `golden_set` | the rows kept, best first, in the columns of the pool |
| `scores` | every row of the pool, by `index`: golden score, gains, errors, rank, reason if it was dropped |
| `anchors` | the anchors: zero-shot log-prob, tokens, scale of the gains |"""


def selection_section(
    golden_set: GoldenSet,
    config: NuggetsConfig,
    scores: PoolScores | None,
    num_reselections: int | None = None,
    *,
    sources: Sequence[str] = (),
    verdict: Mapping[str, Any] | None = None,
) -> str:
    """Write the section of a model card.

    Args:
        golden_set: rows that the model was tuned on.
        config: configuration of the selection.
        scores: scores that the golden set was chosen by; None after resuming from a checkpoint.
        num_reselections: number of times that it was chosen again during training; None if that was not asked for.
        sources: datasets on the hub that the rows come from.
        verdict: verdict of the report, as in `PoolScores.verdict`; None or empty if there is none.
    """
    ranked = golden_set.ranked
    num_failing = golden_set.passed_over.get(FAILS_REQUIRE, 0)
    num_dropped = golden_set.num_rows - golden_set.num_candidates - num_failing
    lines = {
        "selection rule": _rule(golden_set.rule, ranked, golden_set.num_tokens),
        f"{ranked.words} at the cut": _cut(golden_set),
        "tied at the cut": f"{counted(golden_set.ties_at_cut, 'row')}, {golden_set.ties_kept:,} of them kept",
        "dropped": f"{counted(num_dropped, 'row')} that could not be scored{_reasons(scores)}",
        "anchors": _anchors(config, scores),
        "scorer model": _scorer(config),
        "template, schedule": f"{config.template}, {config.schedule_in_force}",
    }
    for name in config.every_pair_for:
        if hasattr(config, name):
            lines[name] = str(getattr(config, name))
    if config.require is not None:
        lines["require"] = f"`{config.require}`"
    if num_failing:
        lines["require"] += f", not met by {counted(num_failing, 'row')}"
    if num_reselections is not None:
        lines["chosen again during training"] = counted(num_reselections, "time")
    text = (
        f"Of {counted(golden_set.num_rows, 'row')}{_of_sources(sources)}, {len(golden_set):,} were kept by their "
        f"{ranked.words}{_method(ranked)}: {_meaning(ranked, 'anchor tasks', 'the scorer model')}."
    )
    parts = [SECTION, text, *_trust(verdict or {}), _table(lines), "Selected with nuggets_trainer."]
    return "\n\n".join(parts) + "\n"


def _of_sources(sources: Iterable[str]) -> str:
    """Name the datasets that rows come from, with links; empty if they are not known."""
    links = [f"[{name}](https://huggingface.co/datasets/{name})" for name in sources]
    if not links:
        return ""
    return f" of {' and '.join(links)}"


def _trust(verdict: Mapping[str, Any]) -> list[str]:
    """Write the verdict of the report, and the facts behind it, as paragraphs; none if there is no verdict."""
    if not verdict:
        return []
    said = verdict["sentence"]
    if verdict["reliability"] is not None:
        said += (
            f" The reliability of the ranking is {verdict['reliability']:.2f}: this is its expected correlation "
            f"with a ranking by as many other anchors, estimated from {counted(verdict['num_rows'], 'random row')}."
        )
    facts = []
    for fact in verdict["facts"]:
        if fact["name"] != "other anchors":  # the sentences above say it
            facts.append(f"- {fact['name'].capitalize()}: {fact['text']}.")
    return [said, "\n".join(facts)]


def _rule(rule: Sequence[Any], ranked: RankedValue, num_tokens: int | None) -> str:
    """Write the rule, the tokens kept under a budget, and the value that it ranks by if not by the golden score."""
    name, value = rule
    written = written_rule((name, value))
    if num_tokens is not None:
        written += f" ({num_tokens:,} tokens kept)"
    return written if ranked.name == "golden_score" else f"{written}, rank_by={ranked.name}"


def _cut(golden_set: GoldenSet) -> str:
    """Write the value of the last row kept, with its standard error unless it is a signal."""
    ranked = golden_set.ranked
    value = f"{ranked.write(golden_set.cut)}{ranked.unit}"
    if ranked.is_signal:
        return value
    return f"{value}, standard error {ranked.write(golden_set.value_error[-1])}"


def _with_error(ranked: RankedValue, cut: Mapping[str, Any]) -> str:
    value = ranked.write(cut["score"])
    if ranked.is_signal:
        return value
    return f"{value} \u00b1 {decimal(cut['standard_error'], ranked.decimals)}"


def _method(ranked: RankedValue) -> str:
    """Name the paper of a value in brackets, after a space; empty for a signal, which is a baseline."""
    return "" if ranked.is_signal else f" ({NUGGETS})"


def _meaning(ranked: RankedValue, tasks: str, scorer: str) -> str:
    """Say what a value means, as a clause."""
    if ranked.is_signal:
        return f"{SIGNALS[ranked.name].format(scorer=scorer)}, and no row was tried as an example"
    if ranked.name == "golden_score":
        return f"the share of {tasks} whose answer {scorer} finds more likely with the row before them as an example"
    measured = "nats per token" if ranked.name == "mean_gain" else "deviations of each task's gains"
    return (
        f"how much more likely {scorer} finds the answers of {tasks} with the row before them as an example, on "
        f"average, in {measured}"
    )


def _table(lines: Mapping[str, str]) -> str:
    """Write a table of names and values, without a head."""
    rows = ["| | |", "| --- | --- |"]
    for name, value in lines.items():
        rows.append(f"| {name} | {value} |")
    return "\n".join(rows)


def _reasons(scores: PoolScores | None) -> str:
    """Count the reasons in brackets; empty if nothing was dropped or it is not known."""
    if scores is None:
        return ""
    counts = count_reasons(scores.dropped)
    return f" ({tally(counts)})" if counts else ""


def _anchors(config: NuggetsConfig, scores: PoolScores | None) -> str:
    if scores is None:
        return "given" if config.anchors is not None else "as in the first run"
    number = scores.anchors.dropped.count(None)
    if not number:
        return "none"
    if all(index is None for index in scores.anchors.pool_index):
        drawn = "" if config.num_anchors is None else ", drawn at random"
        return f"{number:,}, given{drawn}"
    return f"{number:,}, chosen from the pool ({config.anchor_selection})"


def _scorer(config: NuggetsConfig) -> str:
    return "the model itself, before tuning" if config.scorer_model is None else public_name(config.scorer_model)


def public_name(model: str) -> str:
    """Name a model as the hub does, or a local one without the path of its machine."""
    return hub_model_name(model) or (Path(model).name if Path(model).is_absolute() else model)


def with_section(card: str, section: str) -> str:
    """Put the section into a model card: in place of an older one, else before the citations, else at the end."""
    older = re.compile(rf"^{re.escape(SECTION)}$.*?(?=^## |\Z)", flags=re.MULTILINE | re.DOTALL)
    if older.search(card):
        return older.sub(lambda _: f"{section}\n", card)
    head, heading, tail = card.partition("\n## Citations")
    if not heading:
        return f"{card.rstrip()}\n\n{section}"
    return f"{head.rstrip()}\n\n{section}{heading}{tail}"


def complete_card(path: Path, section: str, base: str, sources: Sequence[str], saved_as: str) -> None:
    """Put the section into the model card that is in a file, and complete its fields as `with_fields` does."""
    card = with_section(path.read_text(encoding="utf-8"), section)
    path.write_text(with_fields(card, base, sources, saved_as), encoding="utf-8")


def may_be_replaced(path: Path) -> bool:
    """Check whether nobody has written a model card himself: there is none, TRL wrote it, or it is an empty form."""
    if not path.is_file():
        return True
    card = path.read_text(encoding="utf-8", errors="replace")
    return any(mark in card for mark in (SECTION, "[More Information Needed]", "It has been trained using [TRL]"))


def wrap_create_model_card(write_card: Callable[..., None], complete: Callable[[], None]) -> Callable[..., None]:
    """Return a trainer's `create_model_card` that calls `complete` each time after it has written the card."""

    @functools.wraps(write_card)
    def write_and_complete(*args: Any, **kwargs: Any) -> None:
        write_card(*args, **kwargs)
        complete()

    return write_and_complete


def dataset_card(figures: dict[str, Any], title: str, sources: Mapping[str, str] | None = None) -> str:
    """Write the README of a dataset with the configurations `golden_set`, `scores` and `anchors`.

    Args:
        figures: figures of the report, from `read_figures`.
        title: heading of the card.
        sources: datasets on the hub that the rows come from, each with its commit; None if they are not known.
    """
    sources = sources or {}
    run, cut = figures["run"], figures["cut"]
    ranked = ranked_value(figures["ranked"]["name"])
    scorer = f"the scorer model {public_name(run['model'])}"
    lines = {
        "selection rule": _rule(run["rule"], ranked, run["golden_set"].get("golden_set_tokens")),
        f"{ranked.words} at the cut": f"{_with_error(ranked, cut)}{ranked.unit}",
        "tied at the cut": f"{cut['ties']:,}, of which {cut['ties_kept']:,} are kept",
        "dropped": tally(run["dropped"]) or "none",
        "template": run["template"],
        "pool, sha256": f"`{run['pool']['sha256']}`",
        "fingerprint of the scores": f"`{run['fingerprint']['id']}`",
        "nuggets_trainer": run["versions"]["nuggets_trainer"],
    }
    require = run["config"].get("require")
    if require is not None:
        lines["require"] = f"`{require}`{about_condition(run)}"
    text = (
        f"{cut['num_kept']:,} of {counted(cut['num_rows'], 'row')}{_of_sources(sources)}, kept by their "
        f"{ranked.words}{_method(ranked)}: "
        f"{_meaning(ranked, counted(run['anchors']['num_anchors'], 'anchor task'), scorer)}."
    )
    cautions = [f"- **{caution['title']}.** {caution['text']}" for caution in figures["cautions"]]
    parts = [
        f"{dataset_head(title, cut['num_kept'], sources)}\n",
        f"# {title}\n",
        f"{text}\n",
        *(f"{part}\n" for part in _trust(figures["verdict"])),
        f"{DATASET_CONFIGURATIONS}\n",
        f"{_table(lines)}\n",
        "## What to watch out for\n",
        "\n".join(cautions or ["- None found."]) + "\n",
        "## Citation\n",
        f"```bibtex\n{CITATION}\n```\n",
    ]
    return "\n".join(parts)
