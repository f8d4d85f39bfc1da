"""The report follows the value that rows are ranked by: its cut, charts, sentences and cards."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset

from nuggets_trainer import NuggetsConfig, Pool, score_pool
from nuggets_trainer.report import write_report
from nuggets_trainer.report.cards import dataset_card, selection_section
from tests.report.conftest import NUM_ANCHORS, rows_with_all_fates
from tests.support.rows import alpaca_rows

WORDS = {"gain": ("standardised gain", " deviations"), "mean_gain": ("mean gain", " nats per token")}


@pytest.fixture(scope="module", params=WORDS)
def ranked(request, llama, tokenizer, tmp_path_factory):
    """The pool of `scored`, ranked by a gain."""
    score_dir = tmp_path_factory.mktemp("ranked")
    pool = Pool(Dataset.from_list(rows_with_all_fates()))
    anchors = Pool(Dataset.from_list(alpaca_rows(NUM_ANCHORS, seed=2)), "anchors")
    config = NuggetsConfig(top_k=10, template="plain", rank_by=request.param)
    scores, golden_set = score_pool(llama, tokenizer, pool, anchors, config=config, score_dir=score_dir)
    return score_dir, config, scores, golden_set


def test_the_cut_and_the_charts_are_those_of_the_ranked_value(ranked):
    score_dir, config, scores, golden_set = ranked
    words, unit = WORDS[config.rank_by]
    figures = json.loads((score_dir / "report.json").read_text())
    values = getattr(scores, config.rank_by)
    cut, known = figures["cut"], int((~np.isnan(values)).sum())
    assert (cut["score"], cut["standard_error"]) == (golden_set.cut, golden_set.value_error[-1])
    assert cut["best"] == np.nanmax(values) and cut["mean_kept"] == pytest.approx(golden_set.value.mean())
    for name in ("scores", "golden_scores"):
        assert sum(figures[name]["kept"]) == 10 and sum(figures[name]["rejected"]) == known - 10
    assert figures["scores"]["edges"][0] < 0 and figures["golden_scores"]["edges"][0] > -0.2
    assert sum(map(sum, figures["length"]["counts"])) == known
    assert figures["what_is_kept"] == f"The golden set is the best 10 rows by {words}"
    assert figures["run"]["rank_by"] == config.rank_by
    page = (score_dir / "report.html").read_text()
    assert f"<h3>{words.capitalize()}</h3>" in page and f"The last row kept has a {words} of" in page
    assert f"{words} against completion length" in page.replace(words.capitalize(), words)
    assert f"({unit.strip()})" in page and "<h3>Golden score</h3>" in page


def test_sentences_about_rows_name_the_ranked_value(ranked):
    score_dir, config, _, golden_set = ranked
    words, unit = WORDS[config.rank_by]
    rows = {row["index"]: row for row in json.loads((score_dir / "report.json").read_text())["rows"]}
    best = rows[golden_set.indices[0]]
    assert best["why"].startswith(f"Kept: rank 1, {words} ") and f"{unit}, won " in best["why"]
    below = [row["why"] for row in rows.values() if row["status"] == "below"]
    assert below and all(f"; the last row kept has {golden_set.ranked.write(golden_set.cut)}." in why for why in below)
    ranks = [row["rank"] for row in rows.values() if row["rank"] is not None]
    assert ranks == sorted(ranks)


def test_cards_name_the_ranked_value(ranked):
    score_dir, config, scores, golden_set = ranked
    words, unit = WORDS[config.rank_by]
    shown = golden_set.ranked.write(golden_set.cut)
    section = selection_section(golden_set, config, scores)
    assert f"kept by their {words} (" in section and f"| {words} at the cut | {shown}{unit}, standard error" in section
    rule = f"| selection rule | top_k=10, rank_by={config.rank_by} |"
    assert rule in section and unit.strip() in section
    card = dataset_card(json.loads((score_dir / "report.json").read_text()), "Rows")
    assert rule in card and f"kept by their {words} (" in card and f"| {words} at the cut | {shown} ± " in card


def test_a_report_on_files_of_an_earlier_version_ranks_by_golden_score(scored, tmp_path):
    """Neither run.json nor scores.parquet said anything about gains."""
    score_dir, _, _, golden_set = scored
    for name in ("pairs.parquet", "rows.parquet"):
        (tmp_path / name).write_bytes((score_dir / name).read_bytes())
    anchors = pq.read_table(score_dir / "anchors.parquet").drop_columns(["gain_mean", "gain_deviation"])
    pq.write_table(anchors, tmp_path / "anchors.parquet")
    run = json.loads((score_dir / "run.json").read_text())
    del run["rank_by"]
    (tmp_path / "run.json").write_text(json.dumps(run))
    table = pq.read_table(score_dir / "scores.parquet")
    pq.write_table(table.drop_columns(["mean_gain_error", "gain", "gain_error"]), tmp_path / "scores.parquet")
    figures = write_report(tmp_path)
    assert figures["cut"]["score"] == golden_set.cut and figures["ranked"]["name"] == "golden_score"
    assert figures["rows"][0]["gain"] is None and "standardised gain" not in (tmp_path / "report.html").read_text()


def test_rows_that_a_race_for_gains_stopped_are_drawn_apart(scored, tmp_path):
    """They counted as rejected, and under a bound that they do not have."""
    score_dir, _, _, _ = scored
    for name in ("anchors.parquet", "pairs.parquet", "rows.parquet"):
        (tmp_path / name).write_bytes((score_dir / name).read_bytes())
    run = json.loads((score_dir / "run.json").read_text())
    run["config"] |= {"rank_by": "gain", "race_recall": 0.75}
    (tmp_path / "run.json").write_text(json.dumps({**run, "rank_by": "gain"}))
    table = pq.read_table(score_dir / "scores.parquet")
    bound = np.array([np.nan if row["rank"] is None or row["rank"] < 30 else 1.0 for row in table.to_pylist()])
    place = table.column_names.index("upper_bound")
    table = table.set_column(place, "upper_bound", pa.array(bound, mask=np.isnan(bound)))
    pq.write_table(table, tmp_path / "scores.parquet")
    figures = write_report(tmp_path)
    num_stopped = int((~np.isnan(bound)).sum())
    for name in ("scores", "golden_scores"):
        assert sum(figures[name]["eliminated"]) == figures["cut"]["num_eliminated"] == num_stopped > 5
        assert sum(figures[name]["rejected"]) == 29 - 10
    page = (tmp_path / "report.html").read_text()
    assert page.count("stopped (predicted)") == 2 and "drawn at their predicted value." in page
