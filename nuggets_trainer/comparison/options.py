"""The options of a comparison, and the options of the main job that a comparison refuses."""

from __future__ import annotations

from dataclasses import dataclass, field

from trl import ModelConfig, SFTConfig

from nuggets_trainer.comparison.arms import ARMS
from nuggets_trainer.comparison.generation import METRICS
from nuggets_trainer.config.checks import check_choice, check_int, check_number
from nuggets_trainer.config.nuggets_config import NuggetsConfig
from nuggets_trainer.training.job_arguments import RecipeArguments

BUDGETS = ("steps", "epochs")


@dataclass
class CompareArguments:
    """What is compared with what."""

    arms: list[str] = field(
        default_factory=lambda: [arm for arm in ARMS if arm != "gain"],
        metadata={
            "help": f"Sets of rows to tune on: {', '.join(ARMS)}. Default: all but `gain`, which is the golden set of "
            "`rank_by: gain`. The base model is always measured as well."
        },
    )
    golden_fractions: list[float] = field(
        default_factory=lambda: [0.1],
        metadata={
            "help": "Sizes of the golden set, as shares of the candidates. All arms except `full` have the same size."
        },
    )
    num_seeds: int = field(
        default=5,
        metadata={
            "help": "Number of runs of each arm and fraction, with the seeds `seed`, `seed` + 1, ... A seed decides "
            "the order of the rows, the first weights of the adapter, and which rows a random arm draws. One seed "
            "gives no intervals, and two give very wide ones."
        },
    )
    budget: str = field(
        default="steps",
        metadata={
            "help": "`steps`: all arms take the same number of optimizer steps, `max_steps`, or by default those of "
            "`num_train_epochs` over the full pool. `epochs`: each arm takes `num_train_epochs` over its own rows.",
            "choices": list(BUDGETS),
        },
    )
    num_resamples: int = field(
        default=2000, metadata={"help": "Number of resamples of the held-out rows that the intervals are made from."}
    )
    generation_metric: str | None = field(
        default=None,
        metadata={
            "help": "Also complete held-out prompts greedily: `exact_match`, or `rouge_l` (needs rouge-score).",
            "choices": list(METRICS),
        },
    )
    num_generations: int = field(
        default=100, metadata={"help": "Number of held-out rows to complete: the first ones."}
    )

    def __post_init__(self) -> None:
        _check_different("arms", self.arms)
        _check_different("golden_fractions", self.golden_fractions)
        for arm in self.arms:
            check_choice("arms", arm, tuple(ARMS))
        for fraction in self.golden_fractions:
            check_number("golden_fractions", fraction)
            if not 0 < fraction < 1:
                raise ValueError(
                    f"`golden_fractions` must be between 0 and 1, got {fraction}. Write 0.1 for 10%; the arm `full` "
                    "is the whole pool."
                )
        check_choice("budget", self.budget, BUDGETS)
        for name in ("num_seeds", "num_resamples", "num_generations"):
            check_int(name, getattr(self, name), minimum=1)
        if self.generation_metric is not None:
            check_choice("generation_metric", self.generation_metric, METRICS)


def check_comparable(script: RecipeArguments, args: SFTConfig, model: ModelConfig, nuggets: NuggetsConfig) -> None:
    """Refuse what a comparison cannot work with, before anything is loaded.

    Raises:
        ValueError: if an argument is missing, or has a value that a comparison does not support.
    """
    required = {
        "model_name_or_path": model.model_name_or_path,
        "dataset_name": script.dataset_name,
        "eval_dataset_name": script.eval_dataset_name,
    }
    missing = []
    for name, value in required.items():
        if value is None:
            missing.append(f"--{name}")
    if missing:
        raise ValueError(f"recipes/compare.py needs {', '.join(missing)} (or no arguments at all, for the demo).")
    for name in ("top_fraction", "top_k", "threshold"):
        if getattr(nuggets, name) is not None:
            raise ValueError(
                f"`{name}` is not supported by recipes/compare.py, got {getattr(nuggets, name)}: it gives one size. "
                "Set `golden_fractions` instead."
            )
    if nuggets.rank_by != "golden_score":
        raise ValueError(
            f"`rank_by` is not supported by recipes/compare.py, got {nuggets.rank_by}: each arm has its own order. "
            f"Drop it, and add the arm `{nuggets.rank_by}` to `arms`."
        )
    for name in ("group_by", "max_similarity"):
        if getattr(nuggets, name) is not None:
            raise ValueError(
                f"`{name}` is not supported by recipes/compare.py: it limits which rows go together, and the arms do "
                "not. Drop it."
            )
    if nuggets.require is not None:
        raise ValueError(
            "`require` is not supported by recipes/compare.py: all arms choose from the whole pool. Drop it. Or give "
            "the rows that meet it as the pool."
        )
    if nuggets.anchor_sets and len(nuggets.anchor_sets) > 1:
        raise ValueError(
            f"`anchor_sets` must be one set for recipes/compare.py, got {', '.join(sorted(nuggets.anchor_sets))}. "
            "Keep one of them."
        )
    if nuggets.reselect != "no" or nuggets.match_full_steps:
        name = "match_full_steps" if nuggets.match_full_steps else "reselect"
        raise ValueError(f"`{name}` is not supported by recipes/compare.py: every arm trains on fixed rows. Drop it.")
    if args.packing:
        raise ValueError(
            "`packing` must be false for recipes/compare.py, got true: arms of short rows would get fewer steps per "
            "epoch than others."
        )


def _check_different(name: str, values: object) -> None:
    if not isinstance(values, list) or not values or len(set(values)) < len(values):
        raise ValueError(f"`{name}` must be a list of different values, at least one, got {values!r}.")
