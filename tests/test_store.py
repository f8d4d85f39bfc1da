"""The store keeps every pair that was written whole, and never uses one that was not."""

from __future__ import annotations

import logging

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nuggets_trainer.store import ScoreStore, _set_aside, write_atomically

FIELDS = {"engine": "1", "template": "chat"}


def make_store(tmp_path) -> ScoreStore:
    store = ScoreStore(tmp_path, FIELDS)
    store.write(["a", "a", "b"], ["x", "y", "x"], [-1.0, -2.0, -3.0])
    store.write([None, None], ["x", "y"], [-0.5, float("nan")])
    return store


def parts(store: ScoreStore):
    return sorted((store.directory / "parts").glob("*.parquet"))


def test_pairs_are_read_back_by_content_in_any_order(tmp_path):
    make_store(tmp_path)
    log_prob, known = ScoreStore(tmp_path, FIELDS).read(["b", "missing", "a", "b", ""], ["y", "x"])
    expected = [[np.nan, -3.0], [np.nan, np.nan], [-2.0, -1.0], [np.nan, -3.0], [np.nan, -0.5]]
    np.testing.assert_array_equal(log_prob, np.array(expected, dtype=np.float32))
    # A NaN that was scored is known, unlike a pair that was not.
    assert known.tolist() == [[False, True], [False, False], [True, True], [False, True], [True, True]]


def test_the_manifest_spells_out_the_fingerprint(tmp_path):
    store = make_store(tmp_path)
    assert '"template": "chat"' in (store.directory / "manifest.json").read_text()
    assert ScoreStore(tmp_path, {**FIELDS, "template": "plain"}).directory != store.directory


def damage_truncate(path):
    path.write_bytes(path.read_bytes()[:-20])


def damage_flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 4] ^= 0xFF
    path.write_bytes(bytes(content))


def damage_empty(path):
    path.write_bytes(b"")


def damage_foreign(path):
    path.write_bytes(b"not a parquet file at all")


def damage_schema(path):
    pq.write_table(pa.table({"candidate": ["a"], "score": [1.0]}), path)


@pytest.mark.parametrize("damage", [damage_truncate, damage_flip, damage_empty, damage_foreign, damage_schema])
@pytest.mark.parametrize("which", [0, 1])
def test_a_damaged_part_is_set_aside_and_its_pairs_are_missing(damage, which, tmp_path, caplog):
    store = make_store(tmp_path)
    damage(parts(store)[which])
    with caplog.at_level(logging.WARNING, logger="nuggets_trainer"):
        log_prob, known = store.read(["a", "b", ""], ["x", "y"])
    whole_log_prob, whole_known = make_store(tmp_path / "whole").read(["a", "b", ""], ["x", "y"])
    assert known.sum() in (2, 3) and known.sum() < whole_known.sum()
    np.testing.assert_array_equal(log_prob[known], whole_log_prob[known])
    assert "is set aside" in caplog.text and "scored again" in caplog.text
    assert len(parts(store)) == 1 and len(list((store.directory / "parts").glob("*.corrupt"))) == 1
    caplog.clear()
    store.read(["a"], ["x"])
    assert not caplog.text  # said once


@pytest.mark.parametrize("position", range(0, 1000, 37))
def test_a_flipped_bit_is_never_read_as_a_score(position, tmp_path):
    store = ScoreStore(tmp_path, FIELDS)
    values = np.random.default_rng(0).normal(size=300).astype(np.float32)
    store.write([f"c{i}" for i in range(300)], ["x"] * 300, values)
    path = parts(store)[0]
    content = bytearray(path.read_bytes())
    content[position % len(content)] ^= 0x10
    path.write_bytes(bytes(content))
    log_prob, known = store.read([f"c{i}" for i in range(300)], ["x"])
    np.testing.assert_array_equal(log_prob[known], values[:, None][known])


def test_a_write_that_dies_leaves_no_part(tmp_path, monkeypatch):
    store = make_store(tmp_path)

    def die(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("nuggets_trainer.store.os.fsync", die)  # a full disk cannot be had here
    with pytest.raises(OSError, match="No space left"):
        store.write(["c"], ["x"], [-1.0])
    monkeypatch.undo()
    assert len(parts(store)) == 2 and store.read(["c"], ["x"])[1].tolist() == [[False]]


def test_a_note_answers_its_own_question_only(tmp_path):
    store = make_store(tmp_path)
    store.write_note({"num_anchors": 3}, [4, 5, 6])
    assert store.read_note({"num_anchors": 3}) == [4, 5, 6]
    assert store.read_note({"num_anchors": 4}) is None
    note = next(store.directory.glob("note-*.json"))
    note.write_text("{")
    assert store.read_note({"num_anchors": 3}) is None


def test_files_are_replaced_at_once(tmp_path):
    path = tmp_path / "file"
    write_atomically(path, b"one")
    write_atomically(path, b"two")
    assert path.read_bytes() == b"two" and list(tmp_path.iterdir()) == [path]


def test_an_error_of_the_system_does_not_condemn_a_healthy_part(tmp_path, monkeypatch):
    store = make_store(tmp_path)

    def fail(*_, **__):
        raise OSError(24, "Too many open files")

    monkeypatch.setattr("nuggets_trainer.store.pq.read_table", fail)  # running out of handles cannot be had here
    with pytest.raises(OSError, match="Too many open files"):
        store.read(["a"], ["x"])
    monkeypatch.undo()
    assert len(parts(store)) == 2 and store.read(["a"], ["x"])[1].all()


def test_a_part_that_another_rank_set_aside_meanwhile_is_no_error(tmp_path):
    store = make_store(tmp_path)
    _set_aside(tmp_path / "gone.parquet", "torn")
    assert store.read(["a"], ["x"])[1].all()
