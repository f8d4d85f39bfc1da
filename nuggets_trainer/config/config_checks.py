"""Checks within and between the fields of `NuggetsConfig`; the errors name the option and say what to do.

Checked here, not by argparse, because values that come from a YAML file never pass argparse. Knows no torch, no files.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nuggets_trainer.config.checks import check_bool, check_choice, check_int, check_number

if TYPE_CHECKING:
    from nuggets_trainer.config.nuggets_config import NuggetsConfig

TEMPLATES = ("auto", "chat", "plain", "nuggets")
ANCHOR_SELECTIONS = ("kmeans", "random")
SCHEDULES = ("auto", "race", "exact")
COMBINATIONS = ("mean", "worst")
GROUP_QUOTAS = ("proportional", "equal")
RESELECT = ("no", "epoch", "steps")
SCORE_DTYPES = ("auto", "float32", "bfloat16", "float16")
CHOICES = {
    "template": TEMPLATES,
    "anchor_selection": ANCHOR_SELECTIONS,
    "combine_anchor_sets": COMBINATIONS,
    "schedule": SCHEDULES,
    "score_dtype": SCORE_DTYPES,
    "group_quota": GROUP_QUOTAS,
    "reselect": RESELECT,
}


def check_config(config: NuggetsConfig) -> None:
    """Check all fields.

    Raises:
        ValueError, TypeError: for a value outside its range, or for options that exclude each other.
    """
    for name, choices in CHOICES.items():
        check_choice(name, getattr(config, name), choices)
    check_bool("exclude_self", config.exclude_self, optional=True)
    check_bool("match_full_steps", config.match_full_steps, optional=False)
    check_bool("signal_check", config.signal_check, optional=True)
    check_int("anchor_seed", config.anchor_seed, minimum=0)
    for name in ("num_anchors", "pool_size", "reselect_steps", "tokens_per_batch"):
        if getattr(config, name) is not None:
            check_int(name, getattr(config, name), minimum=1)
    for name in ("group_by", "response_field", "score_dir", "scorer_model"):
        value = getattr(config, name)
        if value is not None and (not isinstance(value, str) or not value):
            raise TypeError(f"`{name}` must be a non-empty string or unset, got {value!r}.")
    _check_anchors(config)
    _check_diversity(config)
    _check_race(config)
    _check_scorer_model(config)
    _check_reselect(config)
    _check_selection_rule(config)


def _check_anchors(config: NuggetsConfig) -> None:
    expected = "a non-empty string, a mapping of names to such strings, or unset"
    try:
        sets = config.anchor_sets
    except ValueError as error:
        raise TypeError(f"`anchors` must be {expected}, got {config.anchors!r} ({error}).") from error
    if sets is None:
        return
    if not sets or not all(isinstance(text, str) and text for text in [*sets.values(), *list(sets)[1:]]):
        raise TypeError(f"`anchors` must be {expected}, got {config.anchors!r}.")
    check_combination(config.combine_anchor_sets, len(sets))
    if len(sets) > 1 and "" in sets:
        raise ValueError(f"Each of several anchor sets needs a name, got {config.anchors!r}.")
    if config.num_anchors is not None:
        raise ValueError(
            f"`num_anchors={config.num_anchors}` chooses anchors from the pool, but `anchors={config.anchors!r}` "
            "gives them. Drop one of the two: given anchors are all used."
        )


def check_combination(combine_anchor_sets: str, num_sets: int) -> None:
    """Refuse to combine the scores of one set.

    Raises:
        ValueError: if another way than the default is asked for, which would do nothing.
    """
    if num_sets == 1 and combine_anchor_sets != "mean":
        raise ValueError(
            f"`combine_anchor_sets={combine_anchor_sets}` is of several anchor sets, but there is one. Give `anchors` "
            "as a mapping of names to rows, or leave `combine_anchor_sets` out."
        )


def _check_diversity(config: NuggetsConfig) -> None:
    if config.coverage_weight is not None:
        check_number("coverage_weight", config.coverage_weight)
        if not 0 < config.coverage_weight <= 1:
            raise ValueError(
                f"`coverage_weight` must be in (0, 1], got {config.coverage_weight}. Leave it out for a ranking by "
                "golden score."
            )
    if config.max_similarity is not None:
        check_number("max_similarity", config.max_similarity)
        if not -1 <= config.max_similarity < 1:
            raise ValueError(
                f"`max_similarity` must be in [-1, 1), got {config.max_similarity}: it is a cosine. Leave it out to "
                "pass no row over."
            )
    if config.group_quota != "proportional" and config.group_by is None:
        raise ValueError(
            f"`group_quota={config.group_quota}` shares the golden set among groups, but no column says which row is "
            "of which group. Name it with `group_by`, or leave `group_quota` out."
        )
    for name in ("coverage_weight", "group_by"):
        if config.threshold is not None and getattr(config, name) is not None:
            raise ValueError(
                f"`{name}` chooses which rows fill the golden set, but `threshold={config.threshold}` takes every "
                "row above it. Use `top_fraction` or `top_k`."
            )


def _check_race(config: NuggetsConfig) -> None:
    if config.every_pair_for and config.schedule == "race":
        raise ValueError(
            f"A race leaves out pairs, but with {' and '.join(config.every_pair_for)} the golden set depends on all "
            "of them. Leave `schedule` at `auto`."
        )


def _check_scorer_model(config: NuggetsConfig) -> None:
    if config.scorer_model_init_kwargs is None:
        return
    try:
        config.scorer_kwargs.keys()
    except (ValueError, TypeError, AttributeError) as error:
        raise TypeError(
            f"`scorer_model_init_kwargs` must be a mapping or a JSON object, got {config.scorer_model_init_kwargs!r}."
        ) from error
    if config.scorer_model is None:
        raise ValueError("`scorer_model_init_kwargs` is given without `scorer_model`. Name the scorer model too.")


def _check_reselect(config: NuggetsConfig) -> None:
    if (config.reselect == "steps") != (config.reselect_steps is not None):
        raise ValueError(
            f'`reselect="steps"` and `reselect_steps` belong together, got `reselect={config.reselect!r}` and '
            f"`reselect_steps={config.reselect_steps}`. Set both or neither."
        )
    if config.reselect != "no" and config.scorer_model is not None:
        raise ValueError(
            "`reselect` scores with the model that is being tuned, but `scorer_model` scores with another one, "
            "whose scores never change. Drop one of the two."
        )


def _check_selection_rule(config: NuggetsConfig) -> None:
    rules = {n: v for n in ("top_fraction", "top_k", "threshold") if (v := getattr(config, n)) is not None}
    if len(rules) > 1:
        given = " and ".join(f"`{name}={value}`" for name, value in rules.items())
        raise ValueError(f"Expected one selection rule, got {given}. Keep one and drop the others.")
    if config.top_fraction is not None:
        check_number("top_fraction", config.top_fraction)
        if not 0 < config.top_fraction <= 1:
            raise ValueError(
                f"`top_fraction` must be in (0, 1], got {config.top_fraction}. Write 0.1 for 10%; use `top_k` for a "
                "number of rows."
            )
    if config.top_k is not None:
        check_int("top_k", config.top_k, minimum=1)
    if config.threshold is not None:
        check_number("threshold", config.threshold)
        if not 0 <= config.threshold < 1:
            raise ValueError(
                f"`threshold` must be in [0, 1), got {config.threshold}: a golden score is a share of anchors, and "
                "the rule keeps scores strictly above it."
            )
