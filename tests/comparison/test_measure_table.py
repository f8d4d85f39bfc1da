"""Measures besides the loss on the first held-out set: their table, and the raw runs."""

from __future__ import annotations

import dataclasses

import numpy as np
import pyarrow.parquet as pq
import pytest

from nuggets_trainer.analysis.bootstrap import Bootstrap
from nuggets_trainer.comparison.measure_table import make_measure_lines, measures_to_markdown, write_runs
from nuggets_trainer.comparison.table import ArmResult

TOKENS = np.array([1, 2, 3, 4])


def weights(measure, num_values):
    return TOKENS if measure in (None, "loss of other") else np.ones(num_values, dtype=np.int64)


@pytest.fixture(scope="module")
def results():
    generator = np.random.default_rng(0)
    found = []
    for arm, fraction in (("base", None), ("golden", 0.1), ("random", 0.1)):
        measures = {
            "loss of other": generator.random((3, 4)),
            "arc acc": generator.integers(0, 2, (3, 6)).astype(float),
        }
        measures["wiki perplexity"] = generator.random((3, 1))
        losses = generator.random((3, 4))
        found.append(ArmResult(arm, f"the {arm}", fraction, 5, None, losses, 0.0, 1.0, 2, None, measures))
    return found


def test_each_measure_has_its_own_weights_and_intervals(results):
    lines = {(line.measure, line.arm): line for line in make_measure_lines(results, weights, 3, 200)}
    assert len(lines) == 9
    golden, random = results[1].measures["loss of other"], results[2].measures["loss of other"]
    line = lines["loss of other", "golden"]
    assert line.mean == pytest.approx(np.average(golden, axis=1, weights=TOKENS).mean())
    assert line.minus_random == Bootstrap(TOKENS, 3, 200).difference(golden, random)
    accuracy = lines["arc acc", "golden"]
    assert accuracy.mean == pytest.approx(results[1].measures["arc acc"].mean()) and accuracy.interval is not None
    assert lines["wiki perplexity", "golden"].minus_random[1:] == (None, None)  # one value for each model
    table = measures_to_markdown(list(lines.values())).splitlines()
    assert table[0].split("|")[3].strip() == "loss of other" and len(table) == 2 + 3
    assert f"{line.mean:.4f} {line.minus_random[0]:+.4f} [" in table[3]


def test_runs_of_an_earlier_version_have_means_alone(results):
    old = dataclasses.replace(results[2], measures={"arc acc": np.array([[0.1], [0.2], [0.6]])})
    lines = make_measure_lines([results[1], old], lambda measure, size: np.ones(size, dtype=np.int64), 3, 200)
    found = {(line.measure, line.arm): line for line in lines}
    assert found["arc acc", "random"].mean == pytest.approx(0.3)
    assert found["arc acc", "golden"].mean == pytest.approx(results[1].measures["arc acc"].mean())


def test_every_run_is_a_row_of_the_parquet_file(results, tmp_path):
    write_runs(results, range(7, 10), weights, tmp_path / "runs.parquet")
    rows = pq.read_table(tmp_path / "runs.parquet").to_pylist()
    assert len(rows) == 3 * 3 * 4 and {row["seed"] for row in rows} == {7, 8, 9}
    row = next(row for row in rows if (row["arm"], row["seed"], row["measure"]) == ("golden", 8, "loss"))
    assert row["mean"] == pytest.approx(np.average(results[1].losses[1], weights=TOKENS))
    assert row["values"] == results[1].losses[1].tolist() and row["weights"] == TOKENS.tolist()
    assert {row["fraction"] for row in rows} == {None, 0.1}


def test_runs_are_written_as_a_whole_or_not_at_all(results, tmp_path, monkeypatch):
    path = tmp_path / "runs.parquet"
    write_runs(results[:1], range(7, 10), weights, path)
    before = path.read_bytes()

    def interrupted(*_args, **_options):
        raise KeyboardInterrupt

    monkeypatch.setattr("os.replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_runs(results, range(7, 10), weights, path)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]
