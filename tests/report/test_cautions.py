"""Cautions appear at their thresholds, and read as sentences for one and for many."""

from __future__ import annotations

import copy

import pytest

from nuggets_trainer.golden.ranking import RANKED_VALUES
from nuggets_trainer.report.cautions import cautions
from nuggets_trainer.report.makeup import ranked_figures

CUT = {"score": 0.8, "num_anchors": 60, "num_rows": 1000, "num_candidates": 1000, "num_kept": 200, "num_eliminated": 0}
CUT |= {"ties": 1, "ties_kept": 1, "near_rejected": 5, "num_sampled": 1000, "mean_gain_kept": 0.1}
ANCHOR = {"pairs": 1000, "pairs_won": 500, "discrimination": 0.4}
QUIET = {
    "signal_check": None,
    "run": {"dropped": {}, "config": {}, "golden_set": {}, "anchors": {"dropped": {}, "given": True}},
    "ranked": ranked_figures(RANKED_VALUES["golden_score"]),
    "cut": CUT,
    "length": {"share_longer": 0.5, "unit": "tokens", "median_kept": 10.0, "median_rejected": 20.0},
    "anchors": [ANCHOR] * 60,
}


def found(part: str, **changes) -> list[tuple[str, str]]:
    """Level and title of the cautions after changing one part of figures that give none."""
    figures = copy.deepcopy(QUIET)
    figures[part] |= changes
    return [(caution["level"], caution["title"]) for caution in cautions(figures)]


def test_quiet_figures_give_no_caution():
    assert cautions(QUIET) == []


@pytest.mark.parametrize(
    ("share", "title"),
    [
        (0.93, "Kept rows are longer than rejected rows in 93% of pairs"),
        (0.07, "Kept rows are shorter than rejected rows in 93% of pairs"),
    ],
)
def test_length_is_told_in_both_directions(share, title):
    assert found("length", share_longer=share) == [("warn", title)]
    assert found("length", share_longer=0.69) == found("length", share_longer=None) == []


def test_counts_of_one_are_singular():
    assert found("cut", num_eliminated=1) == [("note", "1 row has an upper bound, but no golden score")]
    assert found("cut", num_eliminated=2) == [("note", "2 rows have an upper bound, but no golden score")]


def test_a_tie_that_others_lost_is_a_warning():
    assert found("cut", ties=90, ties_kept=60) == [("warn", "90 rows tie at the cut")]
    assert found("cut", ties=60, ties_kept=60) == found("cut", ties=90, ties_kept=50) == []


def test_useless_anchors_warn_above_a_fifth():
    never, always = {**ANCHOR, "pairs_won": 0}, {**ANCHOR, "pairs_won": 1000}
    for number, level in ((12, "note"), (13, "warn")):
        figures = {**QUIET, "anchors": [never] * (number - 1) + [always] + [ANCHOR] * (60 - number)}
        (caution,) = cautions(figures)
        assert (caution["level"], caution["title"]) == (level, f"Anchors that decide nothing: {number} of 60")
        assert caution["text"].startswith(f"No row wins {number - 1} of them, and every row wins 1.")


def test_what_the_template_leaves_out_is_told():
    remarks = {"candidates": {"reasoning_left_out": 1, "parts_joined": 4, "as_trained": 9}, "anchors": {}}
    assert found("run", remarks=remarks) == [
        ("warn", "The template leaves out reasoning"),
        ("note", "Contents that are lists of text parts: 4 candidates"),
    ]
    remarks = {"candidates": {}, "anchors": {"system_left_out": 2}}
    (caution,) = cautions({**QUIET, "run": {**QUIET["run"], "remarks": remarks}})
    assert "system messages of 0 candidates and 2 anchors" in caution["text"]


def test_warnings_come_before_notes():
    figures = copy.deepcopy(QUIET)
    figures["cut"] |= {"near_rejected": 300, "score": 0.4}
    assert [caution["level"] for caution in cautions(figures)] == ["warn", "note"]


def test_few_anchors_are_those_that_were_scored():
    """Anchors with fewer than 20 scored pairs did not count: 10 anchors were "6", and 3 were none."""
    few = [{**ANCHOR, "pairs": pairs} for pairs in (3, 25, 1)]
    titles = [caution["title"] for caution in cautions({**QUIET, "anchors": few})]
    assert "Few anchors: 3" in titles


@pytest.mark.parametrize(("rank_by", "shown"), [("gain", "0.08 deviations"), ("mean_gain", "0.0812 nats per token")])
def test_a_ranking_by_gains_is_judged_by_gains(rank_by, shown):
    figures = copy.deepcopy(QUIET)
    figures["ranked"] = ranked_figures(RANKED_VALUES[rank_by])
    figures["cut"] |= {"score": 0.3, "mean_gain": 0.01, "standard_error": 0.0812}  # 0.3 of the anchors would be few
    figures["anchors"] = [{**ANCHOR, "pairs_won": 1000}] * 30  # a gain tells apart rows that all win
    (few,) = cautions(figures)
    assert few["title"] == "Few anchors: 30" and f"has a standard error of {shown}. The" in few["text"]
    figures["anchors"] = [ANCHOR] * 60
    figures["cut"] |= {"mean_gain": -0.02, "ties": 90, "ties_kept": 60}
    low, ties = cautions(figures)
    assert low["title"] == "The golden set goes down to a mean gain of -0.020 nats per token"
    assert "breaks ties by golden score, then by place" in ties["text"]
