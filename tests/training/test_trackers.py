"""What `report_to` names gets the golden scores and the best rows, from the main process alone."""

from __future__ import annotations

import json
import logging

import numpy as np
import pytest
from datasets import Dataset
from trl import SFTConfig

from nuggets_trainer import NuggetsConfig, SelectedSFTTrainer
from nuggets_trainer.training.trackers import NUM_CHARACTERS, log_selection
from tests.support.hostile import hostile_rows
from tests.support.rows import alpaca_rows


@pytest.fixture
def trained(llama, tokenizer, tmp_path, monkeypatch):
    """Train a step with a tracker; return the trainer."""
    monkeypatch.chdir(tmp_path)

    def train(report_to, rank_by="golden_score", **options):
        rows = [{"input": "", **row} for row in alpaca_rows(20, seed=1) + hostile_rows()[:-4]]
        trainer = SelectedSFTTrainer(
            llama,
            SFTConfig(str(tmp_path / "out"), report_to=report_to, max_steps=1, use_cpu=True, bf16=False, **options),
            train_dataset=Dataset.from_list(rows),
            anchor_dataset=Dataset.from_list(alpaca_rows(5, seed=2)),
            processing_class=tokenizer,
            nuggets_config=NuggetsConfig(top_k=25, schedule="exact", rank_by=rank_by),
        )
        trainer.train()
        return trainer

    return train


def test_tensorboard_has_histogram_and_table(trained, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.util.tensor_util import make_ndarray

    trainer = trained("tensorboard")
    (folder,) = {path.parent for path in tmp_path.rglob("events.out.tfevents*")}
    events = EventAccumulator(str(folder)).Reload()
    (histogram,) = events.Histograms("nuggets/golden_scores")
    known = trainer.scores.golden_score[~np.isnan(trainer.scores.golden_score)]
    assert histogram.histogram_value.num == len(known)
    assert histogram.histogram_value.sum == pytest.approx(known.sum())
    (table,) = events.Tensors("nuggets/best_rows/text_summary")
    text = make_ndarray(table.tensor_proto).item().decode()
    lines = text.splitlines()
    assert len(lines) == 2 + 25 and all(line.count("|") == 8 for line in lines)
    assert [int(line.split("|")[2]) for line in lines[2:]] == trainer.golden_set.indices.tolist()
    assert "<" not in text and "`" not in text
    assert max(len(line) for line in lines) < 3 * 6 * NUM_CHARACTERS


@pytest.mark.parametrize("disable_tqdm", [False, True])
def test_the_terminal_has_words_in_place_of_the_dict(trained, disable_tqdm, capsys, caplog):
    """The Trainer's own callbacks printed the numbers for trackers as a dict of 13 to 17 keys."""
    caplog.set_level(logging.INFO, "nuggets_trainer")
    trainer = trained("none", disable_tqdm=disable_tqdm)
    shown = capsys.readouterr()
    assert "nuggets/" not in shown.out + shown.err and "'train_runtime'" in shown.out
    (entry,) = [entry for entry in trainer.state.log_history if "nuggets/golden_set_size" in entry]
    assert entry["nuggets/golden_set_size"] == 25
    assert "golden set: 25 of " in caplog.text


def test_trackers_show_the_value_that_rows_are_ranked_by(trained, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.util.tensor_util import make_ndarray

    trainer = trained("tensorboard", rank_by="gain")
    (folder,) = {path.parent for path in tmp_path.rglob("events.out.tfevents*")}
    events = EventAccumulator(str(folder)).Reload()
    (histogram,) = events.Histograms("nuggets/gains")
    known = trainer.scores.gain[~np.isnan(trainer.scores.gain)]
    assert histogram.histogram_value.sum == pytest.approx(known.sum(), abs=1e-5)
    (cut,) = events.Scalars("train/nuggets/gain_cut")
    assert cut.value == pytest.approx(trainer.golden_set.cut)
    (table,) = events.Tensors("nuggets/best_rows/text_summary")
    head, _, best, *_ = make_ndarray(table.tensor_proto).item().decode().splitlines()
    assert head.startswith("| rank | index | gain | gain_error | golden_score |")
    assert float(best.split("|")[3]) == pytest.approx(trainer.golden_set.gain[0], rel=1e-3)


def test_no_tracker_is_no_work(trained, monkeypatch):
    trainer, made = trained("none"), []
    monkeypatch.setattr("nuggets_trainer.training.trackers._best_rows", lambda *_: made.append(1))
    log_selection(trainer, None, {}, trainer.golden_set, trainer.scores)
    assert made == []


def test_only_the_main_process_logs(trained, monkeypatch):
    trainer, made = trained("tensorboard"), []
    monkeypatch.setattr("nuggets_trainer.training.trackers._best_rows", lambda *_: made.append(1))
    monkeypatch.setattr(trainer, "is_world_process_zero", lambda: False)
    log_selection(trainer, None, {}, trainer.golden_set, trainer.scores)
    assert made == []


def test_weights_and_biases_has_both_offline(trained, tmp_path, monkeypatch):
    """The files that `wandb sync` would send."""
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    trainer = trained("wandb")
    wandb.finish()
    (table,) = tmp_path.rglob("wandb/offline-run-*/files/media/table/nuggets/best_rows*.json")
    rows = json.loads(table.read_text())
    assert rows["columns"][:2] == ["rank", "index"]
    assert [row[1] for row in rows["data"]] == trainer.golden_set.indices.tolist()
    records = b"".join(path.read_bytes() for path in tmp_path.rglob("*.wandb"))
    assert b"nuggets/golden_scores" in records and b"nuggets/golden_set_size" in records


def test_trackio_has_both(trained, tmp_path, monkeypatch):
    """In its local database: nothing is sent anywhere."""
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))  # read when trackio is imported
    pytest.importorskip("trackio")
    trainer = trained("trackio", project="nuggets_test", trackio_space_id=None)
    from trackio.sqlite_storage import SQLiteStorage

    (run,) = SQLiteStorage.get_runs("nuggets_test")
    logs = {name: value for entry in SQLiteStorage.get_logs("nuggets_test", run) for name, value in entry.items()}
    known = trainer.scores.golden_score[~np.isnan(trainer.scores.golden_score)]
    assert sum(logs["nuggets/golden_scores"]["values"]) == len(known)
    rows = logs["nuggets/best_rows"]["_value"]
    assert [row["index"] for row in rows] == trainer.golden_set.indices.tolist()
    assert not any("<" in row["prompt"] for row in rows)
