"""The tables of rankings, on a simulated matrix whose good rows are known."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.support.documented import recipe

BENCH = Path("recipes/bench")


@pytest.fixture
def scored(tmp_path):
    """Rows of three kinds: clean rows help, noise does not, and a wrong answer helps too but has a high IFD."""
    generator = np.random.default_rng(0)
    kinds = ["clean", "noise", "wrong"] * 40
    worth = np.array([0.5 if kind != "noise" else -0.5 for kind in kinds])
    gains = worth[:, None] + generator.normal(size=(120, 20))
    pq.write_table(pa.table({"zero_shot": np.full(20, -2.0)}), tmp_path / "anchors.parquet")
    pq.write_table(pa.table({"one_shot": list(gains - 2.0)}), tmp_path / "pairs.parquet")
    ifd = [1.1 if kind == "wrong" else 0.7 for kind in kinds]
    pq.write_table(pa.table({"golden_score": np.zeros(120), "ifd": ifd}), tmp_path / "scores.parquet")
    rows = tmp_path / "rows.jsonl"
    lines = []
    for place, kind in enumerate(kinds):
        lines.append(
            json.dumps({"prompt": f"q{place}", "completion": "a" * (place + 1), "kind": kind, "worth": place})
        )
    rows.write_text("\n".join(lines))
    return tmp_path, rows


def test_tables_tell_kinds_apart_as_they_were_made(scored, capsys):
    score_dir, rows = scored
    options = ["--score_dir", str(score_dir), "--dataset_name", str(rows), "--num_anchors", "2", "8", "64"]
    options += ["--kind_column", "kind", "--value_column", "worth", "--require", "ifd < 0.98", "mean_gain > -9"]
    found = recipe("signals", BENCH).main(options)
    for name in ("golden_score", "gain", "mean_gain"):
        assert found["auc"][name]["noise"] > 0.95 and 0.35 < found["auc"][name]["wrong"] < 0.65
        assert found["good_at_top"][name][2] < 0.75 < found["good_at_top_of_filtered"][f"`ifd < 0.98`, {name}"][2]
        few, many = found["unseen"][name]  # 64 anchors are more than there are
        assert 0.2 < few < many <= 1
    assert (
        0.6 < found["reliability"]["golden_score"] < found["reliability"]["gain"] < 1
    )  # the size of a gain tells more
    assert found["kept"] == {"ifd < 0.98": [1.0, 1.0, 0.0], "mean_gain > -9": [1.0, 1.0, 1.0]}
    assert found["correlation"]["completion_characters"][0] == pytest.approx(1.0)
    assert found["correlation"]["gain"][1] < 0 < found["correlation"]["gain"][2]
    text = capsys.readouterr().out
    assert "120 rows, 20 anchors" in text and "| AUC of `clean` against | noise | wrong | all |" in text


def test_tied_scores_have_no_reliability(scored):
    score_dir, rows = scored
    pairs = np.array(pq.read_table(score_dir / "pairs.parquet")["one_shot"].to_pylist())
    helped = np.abs(pairs + 2.0) - 1.9  # above the zero-shot -2.0: each row wins on each anchor
    pq.write_table(pa.table({"one_shot": list(helped)}), score_dir / "pairs.parquet")
    options = ["--score_dir", str(score_dir), "--dataset_name", str(rows), "--num_anchors", "2"]
    found = recipe("signals", BENCH).main(options)["reliability"]
    assert found["golden_score"] == 0.0 and -1 < found["gain"] < 1


def test_labels_need_no_good_one(scored, capsys):
    score_dir, rows = scored
    options = ["--score_dir", str(score_dir), "--dataset_name", str(rows), "--num_anchors", "2"]
    found = recipe("signals", BENCH).main([*options, "--label_column", "kind", "--require", "ifd < 0.98"])["labels"]
    tables = found["kind"]
    clean, noise, wrong = tables["auc"]["gain"]
    assert noise < 0.1 and clean == pytest.approx(wrong, abs=0.1) and clean > 0.6
    assert sum(shares["gain"][2] for shares in tables["at_top"].values()) == pytest.approx(1.0)
    assert tables["at_top"]["noise"]["gain"][2] == 0 and tables["at_top"]["wrong"]["`ifd < 0.98`, gain"][2] == 0
    assert tables["kept"] == {"ifd < 0.98": [1.0, 1.0, 0.0]}
    text = capsys.readouterr().out
    assert "| AUC of rows by `kind` against all others | clean | noise | wrong |" in text
    assert "| share of `wrong` at the top (33% of all rows) | 0.01 | 0.05 | 0.1 | 0.25 |" in text


def test_pairs_of_a_race_are_refused(scored):
    score_dir, rows = scored
    gains = np.full((120, 20), -1.0)
    gains[5, 3:9] = np.nan
    pq.write_table(pa.table({"one_shot": list(gains)}), score_dir / "pairs.parquet")
    with pytest.raises(ValueError, match="lacks pairs, as after a race. Score with `--schedule exact` there"):
        recipe("signals", BENCH).main(["--score_dir", str(score_dir), "--dataset_name", str(rows)])
