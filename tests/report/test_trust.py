"""The verdict: three outcomes at their thresholds, what is worthless, and the facts beside it."""

from __future__ import annotations

import copy

import numpy as np
import pytest

from nuggets_trainer.golden.agreement import Agreement, measure_agreement
from nuggets_trainer.golden.scores import golden_scores
from nuggets_trainer.report import write_report
from nuggets_trainer.report.cautions import cautions
from nuggets_trainer.report.trust import trust_figures
from nuggets_trainer.store.read_results import read_pairs, read_scored_anchors
from tests.report.test_cautions import QUIET


def judged(stays=0.7, top_stays=0.9, reliability=0.9, num_rows=64, useless=2, **changes):
    figures = copy.deepcopy(QUIET)
    for part, values in changes.items():
        figures[part] = {**(figures[part] or {}), **values}
    return trust_figures(figures, Agreement(num_rows, 100, reliability, stays, top_stays, useless, 0))


def test_the_outcomes_at_their_thresholds():
    assert judged(0.6, 0.9)["outcome"] == "trust"
    assert judged(0.59, 0.6)["outcome"] == "trust_top"
    assert judged(0.51, 0.74)["outcome"] == "trust_top"  # SmolLM2 135M Instruct, 100 anchors
    assert judged(0.76, 0.99, 0.95)["outcome"] == "trust"  # Gemma 3 270M, 100 anchors
    assert judged(0.32, 0.44, 0.62)["outcome"] == "do_not_trust"  # SmolLM2 with 32 anchors
    assert judged(num_rows=29)["outcome"] == judged(None, None)["outcome"] == "unknown"
    sentence = judged(0.45, 0.66)["sentence"]
    assert (
        sentence.startswith("Trust the top of this golden set: with other anchors") and "about 45% of it" in sentence
    )


def test_with_quotas_the_shares_are_those_of_the_ranking():
    grouped = judged(run={"config": {"group_by": "num_tokens"}})
    assert grouped["sentence"].endswith("of its best quarter; both shares ignore the quotas of `num_tokens`.")
    assert grouped["facts"][0]["text"].endswith("(reliability 0.90); both shares ignore the quotas of `num_tokens`")
    assert "quotas" not in judged()["sentence"]
    both = judged(run={"config": {"group_by": "source", "max_rows_per_prompt": 1}})
    assert both["sentence"].endswith("ignore the quotas of `source` and `max_rows_per_prompt`.")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"signal_check": {"verdict": "none"}}, "the scorer cannot tell rows from corrupted copies"),
        ({"cut": {"ties": 1000}}, "all rows tie"),
        ({"useless": 51}, "51 of 100 anchors decide nothing"),
        ({"reliability": 0.29}, "the reliability of the ranking is 0.29"),
    ],
)
def test_what_makes_a_ranking_worthless(changes, reason):
    found = judged(**changes)
    assert found["outcome"] == "do_not_trust" and reason in found["sentence"]


def test_facts_name_length_scorer_and_contents():
    counts = {name: {"num_rows": 0, "examples": []} for name in ("repeated_completions", "boilerplate")}
    counts |= {
        "refusals": {"num_rows": 3, "examples": [4, 9, 11]},
        "repeated_prompts": {"num_rows": 30, "examples": [2]},
    }
    run = {**QUIET["run"], "contents": {"num_rows": 200, **counts}}
    facts = {fact["name"]: fact["text"] for fact in judged(run=run, length={"share_longer": 0.8})["facts"]}
    remedy = "`max_rows_per_prompt: 1` keeps the best row of each prompt"
    assert facts["contents"] == f"of 200 kept rows, 30 repeat the prompt of another kept row ({remedy}), 3 refuse"
    assert facts["length"].endswith("in 80% of the pairs: length alone may explain part of the choice")
    assert facts["scorer"] == "it was not checked whether it can use an example"
    told = [(c["level"], c["title"], c["text"]) for c in cautions({**QUIET, "run": run})]
    assert [entry[:2] for entry in told] == [
        ("warn", "Kept rows that repeat the prompt of another kept row: 30 of 200"),
        ("note", "Kept rows that refuse: 3 of 200"),
    ]
    assert "The first of them in the pool: 4, 9, 11. Lists of phrases" in told[1][2] and remedy not in told[1][2]
    assert told[0][2] == f"The first of them in the pool: 2. {remedy}; other prompts take the places."
    limited = {**run, "config": {"max_rows_per_prompt": 2}}
    assert remedy not in str(judged(run=limited)) + str(cautions({**QUIET, "run": limited}))
    assert "contents" not in {fact["name"] for fact in judged()["facts"]}  # results of earlier versions


def test_the_verdict_of_a_run_is_that_of_its_pairs(scored, figures, tmp_path):
    found = figures["verdict"]
    pairs = np.concatenate(list(read_pairs(scored[0])))
    zero_shot = np.array([a["zero_shot"] for a in read_scored_anchors(scored[0])], dtype=np.float32)
    scores = golden_scores(zero_shot, pairs).golden_score
    agreement = measure_agreement(zero_shot, pairs, 10 / np.isfinite(scores).sum())
    assert found["num_rows"] == agreement.num_rows and found["is_estimate"] is False
    assert found["reliability"] == pytest.approx(agreement.reliability)
    assert found["stays"] == pytest.approx(agreement.stays, abs=1e-4)
    assert scored[2].verdict == found
    page = (scored[0] / "report.html").read_text()
    assert f'class="verdict {found["outcome"]}"' in page and "other anchors" in page
    assert write_report(scored[0], tmp_path)["verdict"] == found  # the same from the files alone
