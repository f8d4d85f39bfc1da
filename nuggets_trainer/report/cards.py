"""What a model card and a dataset card say of a golden set, as Markdown. Knows no hub.

Paths, texts of rows and settings of the machine stay out: a card is public.
"""

from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nuggets_trainer.config.nuggets_config import NuggetsConfig
    from nuggets_trainer.golden.selection import GoldenSet
    from nuggets_trainer.store.results import PoolScores

SECTION = "## How the training data was chosen"
NUGGETS = "[Nuggets](https://arxiv.org/abs/2312.10302)"
CITATION = """```bibtex
@inproceedings{li2024nuggets,
  title  = {One-Shot Learning as Instruction Data Prospector for Large Language Models},
  author = {Li, Yunshui and Hui, Binyuan and Xia, Xiaobo and Yang, Jiaxi and Yang, Min and Zhang, Lei and Si, Shuzheng
            and Chen, Ling-Hao and Liu, Junhao and Liu, Tongliang and Huang, Fei and Li, Yongbin},
  year   = {2024},
  url    = {https://arxiv.org/abs/2312.10302}
}
```"""


def selection_section(
    golden_set: GoldenSet, config: NuggetsConfig, scores: PoolScores | None, num_reselections: int | None = None
) -> str:
    """Write the section of a model card.

    Args:
        golden_set: what the model was tuned on.
        config: how it was chosen.
        scores: what it was chosen by; None after resuming from a checkpoint.
        num_reselections: number of times that it was chosen again during training; None if that was not asked for.
    """
    rule, value = golden_set.rule
    lines = [
        f"Of {golden_set.num_rows:,} rows, {len(golden_set):,} were kept by their golden score ({NUGGETS}): the share "
        "of anchor tasks whose answer the scorer model finds more likely with the row before them as an example.",
        "",
        "| | |",
        "| --- | --- |",
        f"| selection rule | {rule}={value:g} |",
        f"| golden score at the cut | {golden_set.cut:.3f}, standard error {golden_set.standard_error[-1]:.3f} |",
        f"| tied at the cut | {golden_set.ties_at_cut:,} rows, {golden_set.ties_kept:,} of them kept |",
        f"| dropped | {golden_set.num_rows - golden_set.num_candidates:,} rows that could not be scored"
        f"{_reasons(scores)} |",
        f"| anchors | {_anchors(config, scores)} |",
        f"| scorer model | {_scorer(config)} |",
        f"| template, schedule | {config.template}, {config.schedule_in_force} |",
        *(f"| {name} | {getattr(config, name)} |" for name in config.every_pair_for if hasattr(config, name)),
    ]
    if num_reselections is not None:
        lines.append(f"| chosen again during training | {num_reselections} times |")
    return "\n".join([SECTION, "", *lines, "", "Selected with nuggets_trainer.", ""])


def _reasons(scores: PoolScores | None) -> str:
    counts = Counter(reason for reason in scores.dropped if reason is not None) if scores is not None else {}
    return f" ({', '.join(f'{reason} {count:,}' for reason, count in counts.items())})" if counts else ""


def _anchors(config: NuggetsConfig, scores: PoolScores | None) -> str:
    if scores is None:
        return "given" if config.anchors is not None else "as in the first run"
    number = sum(reason is None for reason in scores.anchors.dropped)
    given = all(index is None for index in scores.anchors.pool_index)
    return f"{number:,}, {'given' if given else f'chosen from the pool ({config.anchor_selection})'}"


def _scorer(config: NuggetsConfig) -> str:
    return "the model itself, before tuning" if config.scorer_model is None else public_name(config.scorer_model)


def public_name(model: str) -> str:
    """Name a model without the path of a machine."""
    return Path(model).name if Path(model).is_absolute() else model


def with_section(card: str, section: str) -> str:
    """Put the section into a model card: in place of an older one, else before the citations, else at the end."""
    older = re.compile(rf"^{re.escape(SECTION)}$.*?(?=^## |\Z)", flags=re.MULTILINE | re.DOTALL)
    if older.search(card):
        return older.sub(lambda _: f"{section}\n", card)
    head, heading, tail = card.partition("\n## Citations")
    if not heading:
        return f"{card.rstrip()}\n\n{section}"
    return f"{head.rstrip()}\n\n{section}{heading}{tail}"


def add_section(path: Path, section: str) -> None:
    """Put the section into the model card that is in a file."""
    path.write_text(with_section(path.read_text(encoding="utf-8"), section), encoding="utf-8")


def wrap_create_model_card(write_card: Callable[..., None], complete: Callable[[], None]) -> Callable[..., None]:
    """Return a trainer's `create_model_card` that calls `complete` each time after it has written the card."""

    @functools.wraps(write_card)
    def write_and_complete(*args: Any, **kwargs: Any) -> None:
        write_card(*args, **kwargs)
        complete()

    return write_and_complete


def dataset_card(figures: dict[str, Any], title: str) -> str:
    """Write the README of a dataset with the configurations `golden_set`, `scores` and `anchors`.

    Args:
        figures: from `read_figures`.
        title: heading of the card.
    """
    run, cut = figures["run"], figures["cut"]
    rule, value = run["rule"]
    cautions = [f"- **{caution['title']}.** {caution['text']}" for caution in figures["cautions"]] or ["- None found."]
    dropped = ", ".join(f"{reason} {count:,}" for reason, count in run["dropped"].items()) or "none"
    return "\n".join(
        [
            "---",
            "tags:",
            "- nuggets",
            "- data-selection",
            "configs:",
            "- config_name: golden_set",
            "  data_files: golden_set/train.parquet",
            "  default: true",
            "- config_name: scores",
            "  data_files: scores/train.parquet",
            "- config_name: anchors",
            "  data_files: anchors/train.parquet",
            "---",
            "",
            f"# {title}",
            "",
            f"{cut['num_kept']:,} of {cut['num_rows']:,} rows, kept by their golden score ({NUGGETS}): the share of "
            f"{run['anchors']['num_anchors']:,} anchor tasks whose answer {public_name(run['model'])} finds more "
            "likely with the row before them as an example.",
            "",
            "| configuration | rows |",
            "| --- | --- |",
            "| `golden_set` | the rows kept, best first, in the columns of the pool |",
            "| `scores` | every row of the pool, by `index`: golden score, error, mean gain, rank, why dropped |",
            "| `anchors` | the anchors: log-prob alone, tokens |",
            "",
            "| | |",
            "| --- | --- |",
            f"| selection rule | {rule}={value:g} |",
            f"| golden score at the cut | {cut['score']:.3f} \u00b1 {cut['standard_error']:.3f} |",
            f"| tied at the cut | {cut['ties']:,}, of which {cut['ties_kept']:,} are kept |",
            f"| dropped | {dropped} |",
            f"| template | {run['template']} |",
            f"| pool, sha256 | `{run['pool']['sha256']}` |",
            f"| fingerprint of the scores | `{run['fingerprint']['id']}` |",
            f"| nuggets_trainer | {run['versions']['nuggets_trainer']} |",
            "",
            "## What to watch out for",
            "",
            *cautions,
            "",
            "## Citation",
            "",
            CITATION,
            "",
        ]
    )
