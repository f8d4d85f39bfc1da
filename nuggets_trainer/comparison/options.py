"""The options of a comparison, and the options of the main job that a comparison refuses."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any, ClassVar

from trl import ModelConfig, SFTConfig

from nuggets_trainer.comparison.arms import ARMS, BY_PROMPT, DEFAULT_ARMS, FILTERED, QUICK_ARMS, Arm
from nuggets_trainer.comparison.given_scores import arms_of_scores, parse_given_scores
from nuggets_trainer.config.checks import check_choice, check_int, check_number
from nuggets_trainer.config.nuggets_config import NuggetsConfig
from nuggets_trainer.config.rule_options import RULES
from nuggets_trainer.heldout.generation import METRICS
from nuggets_trainer.heldout.tasks import TASK_OPTIONS, check_task_options
from nuggets_trainer.training.job_arguments import RecipeArguments

BUDGETS = ("steps", "epochs")
QUICK_FRACTION, QUICK_SEEDS = 0.1, 3
QUICK_ROWS, QUICK_HELDOUT = 2000, 300  # most rows of the pool, and most held-out rows


@dataclass
class CompareArguments:
    """What is compared with what."""

    title: ClassVar[str] = "the comparison"

    arms: list[str] | None = field(
        default=None,
        metadata={
            "help": f"Sets of rows to tune on: {', '.join(ARMS)}. Default: {', '.join(DEFAULT_ARMS)}; with `require` "
            f"also golden_filtered and random_filtered, with `max_rows_per_prompt` also {BY_PROMPT}. The base model "
            "is always measured as well."
        },
    )
    scores: list[str] | None = field(
        default=None,
        metadata={
            "help": "Scores of other programs, each an arm of its own: NAME=FILE or NAME=FILE:COLUMN, and "
            "NAME=FILE:-COLUMN where low values are best. The file (.parquet, .csv, .jsonl, .json) holds the rows "
            "themselves, or a column `content_hash` or `index` (places in the pool from 0 on), or as many lines as "
            "the pool. A column of lists is a score by anchor. With the arm `random_length`, random rows of the same "
            "lengths are an arm too."
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
    quick: bool = field(
        default=False,
        metadata={
            "help": f"Give a first answer in minutes: the arms {', '.join(QUICK_ARMS)}, one size (10%%), three seeds, "
            "a race in place of all pairs, at most 2,000 rows of the pool and 300 held-out rows (drawn at random), "
            "and without `max_steps` the steps of `num_train_epochs` over the golden set. `arms`, `golden_fractions` "
            "and `num_seeds` of the command line win. The full comparison finds the scores that are stored here."
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
        default=100, metadata={"help": "Number of held-out rows of each set to complete: the first ones."}
    )
    lm_eval_tasks: list[str] | None = field(
        default=None,
        metadata={
            "help": "Tasks of lm-evaluation-harness that every arm is measured by too, by their names there "
            "(`pip install nuggets_trainer[lm-eval]`). Tasks of the package load their data from the hub."
        },
    )
    lm_eval_args: dict[str, Any] | str | None = field(
        default=None,
        metadata={
            "help": f"How the tasks are run, in the words of lm-evaluation-harness: {', '.join(TASK_OPTIONS)}. "
            "`include_path` is a folder with your own task files. On the command line it is JSON in quotes: "
            '{"include_path": "tasks", "limit": 200}.'
        },
    )

    def __post_init__(self) -> None:
        if self.arms is not None:
            _check_different("arms", self.arms)
            for arm in self.arms:
                check_choice("arms", arm, tuple(ARMS))
        if self.scores is not None:
            _check_different("scores", self.scores)
            parse_given_scores(self.scores)
        _check_different("golden_fractions", self.golden_fractions)
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
        if self.lm_eval_tasks is not None:
            _check_different("lm_eval_tasks", self.lm_eval_tasks)
        check_task_options(self.lm_eval_tasks, self.task_options)

    @property
    def task_options(self) -> dict[str, Any]:
        """Options of the tasks of lm-evaluation-harness.

        Raises:
            TypeError: if they are no mapping.
        """
        options = self.lm_eval_args
        if isinstance(options, str):  # the command line gives JSON
            try:
                options = json.loads(options)
            except ValueError as error:
                raise TypeError(f"`lm_eval_args` must be a mapping, got {self.lm_eval_args!r} ({error}).") from error
        if options is not None and not isinstance(options, dict):
            raise TypeError(f"`lm_eval_args` must be a mapping, got {self.lm_eval_args!r}.")
        return options or {}


def quick_options(options: CompareArguments, given: Collection[str]) -> CompareArguments:
    """Return the options of a quick comparison: those of the command line win over it, those of a config do not.

    Args:
        options: all options.
        given: names of the options on the command line.

    Raises:
        ValueError: if several sizes are given.
    """
    quick = {"arms": None, "golden_fractions": [QUICK_FRACTION], "num_seeds": QUICK_SEEDS, "budget": "steps"}
    changes: dict[str, Any] = {name: value for name, value in quick.items() if name not in given}
    options = dataclasses.replace(options, **changes)
    if len(options.golden_fractions) > 1:
        raise ValueError(
            f"`quick` compares one size, got {len(options.golden_fractions)} `golden_fractions`. Give one."
        )
    return options


def arms_to_run(options: CompareArguments, nuggets: NuggetsConfig) -> list[Arm]:
    """Return the arms that the options name, or those of the default, and the arms of given scores.

    Raises:
        ValueError: if an arm needs the condition `require`, and there is none; or if an option is given that no arm
            obeys.
    """
    names = options.arms
    if names is None:
        names = [*(QUICK_ARMS if options.quick else DEFAULT_ARMS)]
        if nuggets.require is not None:
            names += ["golden_filtered", "random_filtered"]
        if nuggets.max_rows_per_prompt is not None:
            names.append(BY_PROMPT)
    if nuggets.require is None:
        for name in names:
            if name in FILTERED:
                raise ValueError(f'The arm `{name}` needs a condition. Give `require`, such as "ifd < 0.98".')
    elif not set(names) & set(FILTERED):
        raise ValueError(
            f"`require` only applies to the arms {', '.join(FILTERED)}, but none of them is in `arms`. Add one of "
            "them, or drop `require`."
        )
    if nuggets.max_rows_per_prompt is not None and BY_PROMPT not in names:
        raise ValueError(
            f"`max_rows_per_prompt` only applies to the arm {BY_PROMPT}, which is not in `arms`. Add it, or drop "
            "`max_rows_per_prompt`."
        )
    given = arms_of_scores(parse_given_scores(options.scores or []), with_length_control="random_length" in names)
    return [ARMS[name] for name in names] + given


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
        raise ValueError(f"`nuggets compare` needs {', '.join(missing)} (or no arguments at all, for the demo).")
    for name in RULES:
        if getattr(nuggets, name) is not None:
            raise ValueError(
                f"`{name}` is not supported by `nuggets compare`, got {getattr(nuggets, name)}: it gives one size. "
                "Set `golden_fractions` instead."
            )
    if nuggets.rank_by != "golden_score":
        raise ValueError(
            f"`rank_by` is not supported by `nuggets compare`, got {nuggets.rank_by}: each arm has its own order. "
            f"Drop it, and add the arm `{nuggets.rank_by}` to `arms`."
        )
    for name in ("group_by", "max_similarity"):
        if getattr(nuggets, name) is not None:
            hint = "Drop it."
            if name == "group_by" and nuggets.groups_by_length:
                hint = "Drop it, and add the arm `golden_by_length` to `arms`."
            raise ValueError(
                f"`{name}` is not supported by `nuggets compare`: it limits which rows go together, and the arms do "
                f"not. {hint}"
            )
    if nuggets.anchor_sets and len(nuggets.anchor_sets) > 1:
        raise ValueError(
            f"`anchors` must be one set for `nuggets compare`, got {', '.join(sorted(nuggets.anchor_sets))}. "
            "Keep one of them."
        )
    if nuggets.reselect != "no" or nuggets.match_full_steps:
        name = "match_full_steps" if nuggets.match_full_steps else "reselect"
        raise ValueError(f"`{name}` is not supported by `nuggets compare`: every arm trains on fixed rows. Drop it.")
    if args.packing:
        raise ValueError(
            "`packing` must be false for `nuggets compare`, got true: arms of short rows would get fewer steps per "
            "epoch than others."
        )


def _check_different(name: str, values: object) -> None:
    if not isinstance(values, list) or not values or len(set(values)) < len(values):
        raise ValueError(f"`{name}` must be a list of different values, at least one, got {values!r}.")
