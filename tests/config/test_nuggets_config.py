"""Every choice of the user is checked between and within fields, whatever the way the value came in."""

from __future__ import annotations

import dataclasses
import math

import pytest

from nuggets_trainer.config import NuggetsConfig
from nuggets_trainer.config.anchor_options import ANCHOR_SELECTIONS
from nuggets_trainer.config.option_group import option_groups
from nuggets_trainer.config.prompt_options import TEMPLATES
from nuggets_trainer.config.rule_options import RANK_BY, RANK_BY_SIGNALS, RuleOptions
from nuggets_trainer.config.scoring_options import SCORE_DTYPES

WRONG_TYPES = [
    *[
        (name, value)
        for name in ("tokens_per_batch", "anchor_seed", "num_anchors", "top_k")
        for value in ("8", 8.0, True)
        if (name, value) != ("num_anchors", "8")  # it may be `auto`, so the command line gives any value as text
    ],
    ("anchor_seed", None),
    *[(name, value) for name in ("top_fraction", "threshold") for value in ("0.1", True, [0.1])],
    *[("exclude_self", value) for value in ("true", 1, 0)],
    *[(name, value) for name in ("anchors", "score_dir") for value in ("", 3, ["a"])],
]
OUT_OF_RANGE = [
    ("tokens_per_batch", 0, "at least 1"),
    ("tokens_per_batch", -5, "at least 1"),
    ("anchor_seed", -1, "at least 0"),
    ("num_anchors", 0, "at least 1"),
    ("top_k", 0, "at least 1"),
    ("top_k", -2, "at least 1"),
    ("top_fraction", 0, r"\(0, 1\].*0\.1 for 10%.*`top_k`"),
    ("top_fraction", 0.0, r"\(0, 1\].*0\.1 for 10%.*`top_k`"),
    ("top_fraction", 1.5, r"\(0, 1\].*0\.1 for 10%.*`top_k`"),
    ("top_fraction", -0.1, r"\(0, 1\]"),
    ("top_fraction", math.nan, r"\(0, 1\]"),
    ("threshold", 1, r"\[0, 1\).*strictly above"),
    ("threshold", 1.0, r"\[0, 1\).*strictly above"),
    ("threshold", -0.01, r"\[0, 1\)"),
    ("threshold", math.nan, r"\[0, 1\)"),
]


@pytest.mark.parametrize(("name", "value"), WRONG_TYPES)
def test_a_wrong_type_is_named_with_the_value(name, value):
    with pytest.raises(TypeError, match=rf"^`{name}` must be .*got ") as error:
        NuggetsConfig(**{name: value})
    assert repr(value) in str(error.value)


@pytest.mark.parametrize(("name", "value", "expected"), OUT_OF_RANGE)
def test_a_value_out_of_range_is_named_with_the_range(name, value, expected):
    with pytest.raises(ValueError, match=rf"^`{name}` must be .*{expected}|^`{name}` must be {expected}") as error:
        NuggetsConfig(**{name: value})
    assert f"got {value}" in str(error.value)


@pytest.mark.parametrize(
    ("name", "choices"),
    [
        ("template", TEMPLATES),
        ("rank_by", (*RANK_BY, *RANK_BY_SIGNALS)),
        ("anchor_selection", ANCHOR_SELECTIONS),
        ("score_dtype", SCORE_DTYPES),
    ],
)
def test_an_unknown_choice_is_refused_with_the_list(name, choices):
    for choice in choices:
        assert getattr(NuggetsConfig(**{name: choice}), name) == choice
    for value in ("bert", "", None, choices[0].upper(), [choices[0]]):
        with pytest.raises(ValueError, match=f"`{name}` must be one of {', '.join(choices)}, got") as error:
            NuggetsConfig(**{name: value})
        assert repr(value) in str(error.value)


@pytest.mark.parametrize(
    "rules",
    [
        {"top_fraction": 0.1, "top_k": 5},
        {"top_k": 5, "threshold": 0.5},
        {"top_fraction": 0.1, "threshold": 0.0},
        {"top_fraction": 0.1, "top_k": 5, "threshold": 0.5},
    ],
)
def test_two_rules_at_once_are_refused_and_shown(rules):
    with pytest.raises(ValueError, match=r"Expected one selection rule, got .* and .*Keep one") as error:
        NuggetsConfig(**rules)
    for name, value in rules.items():
        assert f"`{name}={value}`" in str(error.value)


@pytest.mark.parametrize("value", [0, 1, -0.5, 1.5, float("nan"), "0.9", True])
def test_race_recall_is_a_share(value):
    with pytest.raises((ValueError, TypeError), match="`race_recall` must be"):
        NuggetsConfig(race_recall=value)


def test_gains_are_raced_for_unless_every_pair_is_needed():
    assert NuggetsConfig(rank_by="gain").schedule_in_force == "race"
    assert NuggetsConfig(rank_by="gain", max_similarity=0.9).schedule_in_force == "exact"


@pytest.mark.parametrize("rank_by", ["gain", "mean_gain"])
def test_a_threshold_on_gains_may_be_any_number(rank_by):
    for threshold in (-2.5, 0, 1, 7.25):
        config = NuggetsConfig(rank_by=rank_by, threshold=threshold)
        assert config.selection_rule == ("threshold", threshold)
    for threshold in (math.nan, math.inf):
        with pytest.raises(ValueError, match="`threshold` must be a finite number, got"):
            NuggetsConfig(rank_by=rank_by, threshold=threshold)
    with pytest.raises(TypeError, match="`threshold` must be a number"):
        NuggetsConfig(rank_by=rank_by, threshold="0.5")
    assert NuggetsConfig(rank_by=rank_by, coverage_weight=0.5).schedule_in_force == "exact"


def test_given_anchors_may_have_a_number_to_draw():
    assert NuggetsConfig(anchors="a.jsonl", num_anchors=7).num_anchors == 7  # so many of them
    assert NuggetsConfig(anchors="a.jsonl").num_anchors is None
    assert NuggetsConfig(num_anchors=7).anchors is None


def test_the_default_rule_is_the_top_tenth():
    assert NuggetsConfig().selection_rule == ("top_fraction", 0.1)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("top_fraction", 1),
        ("top_fraction", 1e-9),
        ("top_k", 1),
        ("threshold", 0),
        ("threshold", 0.0),
        ("threshold", 0.999),
    ],
)
def test_the_rule_given_is_the_rule_in_force(name, value):
    assert NuggetsConfig(**{name: value}).selection_rule == (name, value)


def test_every_field_says_what_it_is_for():
    fields = dataclasses.fields(NuggetsConfig)
    assert len(fields) >= 12
    for field in fields:
        text = field.metadata["help"]
        assert len(text) > 20, field.name
        text % {}  # argparse expands `%`: a lone one breaks `--help`


def test_every_option_is_in_one_group_with_a_title():
    groups = option_groups(NuggetsConfig)
    declared = [name for group in groups for name in vars(group)["__annotations__"] if name != "title"]
    assert sorted(declared) == sorted({field.name for field in dataclasses.fields(NuggetsConfig)})
    titles = [group.title for group in groups]
    assert len(set(titles)) == len(titles) >= 5 and all(titles)


def test_a_group_checks_itself():
    with pytest.raises(ValueError, match="Expected one selection rule"):
        RuleOptions(top_k=5, threshold=0.5)
