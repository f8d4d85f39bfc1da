"""Scorers against published scores and against each other, on simulated pairs of known truth."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from transformers import AutoModelForCausalLM

from nuggets_trainer.demo import demo_path
from tests.support.documented import recipe
from tests.support.rows import alpaca_rows

STUDY = Path("recipes/study")
NUM_ROWS, NUM_ANCHORS = 120, 12


def write_scores(score_dir, gains, **columns):
    """Write the result files that a run of the exact schedule leaves."""
    score_dir.mkdir()
    pq.write_table(pa.table({"zero_shot": np.full(gains.shape[1], -2.0)}), score_dir / "anchors.parquet")
    pq.write_table(pa.table({"one_shot": list(gains - 2.0)}), score_dir / "pairs.parquet")
    pq.write_table(pa.table({"golden_score": np.zeros(len(gains)), **columns}), score_dir / "scores.parquet")


def write_rows(path, **columns):
    """Write rows whose completions all have the same length."""
    lines = []
    for place in range(NUM_ROWS):
        row = {name: values[place] for name, values in columns.items()}
        lines.append(json.dumps({"prompt": f"q{place // 2}", "completion": f"answer {place:03}", **row}))
    path.write_text("\n".join(lines))
    return str(path)


@pytest.fixture
def simulated():
    """Worth of the rows, and gains that follow it."""
    generator = np.random.default_rng(0)
    worth = generator.normal(size=NUM_ROWS)
    return worth, worth[:, None] + generator.normal(size=(NUM_ROWS, NUM_ANCHORS)), generator


def test_agreement_with_published_scores(simulated, tmp_path, capsys):
    worth, gains, generator = simulated
    rows = write_rows(tmp_path / "rows.jsonl", score=worth.tolist())
    write_scores(tmp_path / "scores", gains, loss=generator.normal(size=NUM_ROWS), ifd=-worth)
    options = ["--score_dir", str(tmp_path / "scores"), "--dataset_name", rows, "--num_draws", "20"]
    found = recipe("published", STUDY).main([*options, "--num_anchors", "2", "64"])
    by_key = {(row["ranking"], row["num_anchors"]): row["quality"] for row in found["rankings"]}
    assert found["anchors"] == NUM_ANCHORS and ("gain", 64) not in by_key
    assert by_key["gain", 2][0] + 0.1 < by_key["gain", NUM_ANCHORS][0] < 1
    assert by_key["low ifd", None][0] == pytest.approx(1) and abs(by_key["low loss", None][0]) < 0.3
    assert by_key["completion characters", None][0] == 0  # all have the same
    assert found["at_equal_length"]["gain"] == pytest.approx(by_key["gain", NUM_ANCHORS][0])
    assert "| low ifd |  | +1.00 [+1.00, +1.00] |" in capsys.readouterr().out
    with pytest.raises(ValueError, match="holds scores of 120 rows, but there are 50 rows"):
        recipe("published", STUDY).main([*options, "--pool_size", "50"])


def test_published_scores_need_all_pairs(simulated, tmp_path):
    worth, gains, _ = simulated
    gains[3, :5] = np.nan
    write_scores(tmp_path / "scores", gains)
    options = [
        "--score_dir",
        str(tmp_path / "scores"),
        "--dataset_name",
        write_rows(tmp_path / "r.jsonl", score=worth),
    ]
    with pytest.raises(ValueError, match="lacks pairs, as after a race"):
        recipe("published", STUDY).main(options)


@pytest.fixture
def two_scorers(simulated, tmp_path):
    """A scorer that sees a row's worth, and one that sees noise; the latter scored fewer rows."""
    _, gains, generator = simulated
    write_scores(tmp_path / "base", gains)
    write_scores(tmp_path / "tuned", generator.normal(size=(NUM_ROWS - 10, NUM_ANCHORS)))
    return ["compare", "--score_dirs", f"base={tmp_path / 'base'}", f"tuned={tmp_path / 'tuned'}"]


def test_scorers_are_compared_by_rated_pairs(simulated, two_scorers, tmp_path, capsys):
    worth = simulated[0].tolist()
    worth[0] = None  # its pair does not count
    rows = write_rows(tmp_path / "rows.jsonl", quality=worth)
    options = [*two_scorers, "--dataset_name", rows, "--group_by", "prompt"]
    found = recipe("which_scorer", STUDY).main(options)
    assert found["rows"] == NUM_ROWS - 10 and found["same_wins"]["base"] == 1 > 0.6 > found["same_wins"]["tuned"]
    base, tuned = found["gain"]["plain"]
    assert base["quality"][1] > 0.7 and tuned["quality"][1] < 0.5 < tuned["quality"][2]
    assert tuned["difference"][2] < 0 and base["difference"] is None
    assert found["gain"]["at_equal_length"][0]["quality"] == base["quality"]
    assert "| gain | tuned |" in capsys.readouterr().out


def test_scorers_are_compared_by_kinds(simulated, two_scorers, tmp_path):
    kinds = ["clean" if value > 0 else "noise" for value in simulated[0]]
    kinds[:20] = [None] * 20  # rows of another purpose
    rows = write_rows(tmp_path / "rows.jsonl", kind=kinds)
    found = recipe("which_scorer", STUDY).main([*two_scorers, "--dataset_name", rows, "--kind_column", "kind"])
    base, tuned = found["golden_score"]["plain"]
    assert base["quality"][0] > 0.85 and 0.3 < tuned["quality"][0] < 0.7 and tuned["difference"][2] < 0


def test_tuning_lowers_the_loss_and_merges_the_adapter(tmp_path, capsys):
    rows = tmp_path / "rows.jsonl"
    rows.write_text("\n".join(map(json.dumps, alpaca_rows(3, seed=1) * 4)))
    model = str(demo_path("model"))
    options = ["--model_name_or_path", model, "--dataset_name", str(rows), "--output_dir", str(tmp_path / "tuned")]
    small = ["--batch_size", "3", "--dtype", "float32", "--lora_r", "4", "--learning_rate", "0.01"]
    recipe("which_scorer", STUDY).main(["tune", *options, *small])
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("step ")]
    losses = [float(line.split("loss ")[1].split(",")[0]) for line in lines]
    assert len(losses) == 4 and losses[-1] < losses[0]
    before = AutoModelForCausalLM.from_pretrained(model).state_dict()
    after = AutoModelForCausalLM.from_pretrained(tmp_path / "tuned").state_dict()
    assert before.keys() == after.keys()
    changed = [name for name in before if not torch.equal(before[name], after[name])]
    assert changed and all("proj" in name for name in changed)
