"""What a tuned model was selected from is searched for the questions that it is asked."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from nuggets_trainer import NuggetsConfig, load_rows
from nuggets_trainer.config.places import RowPlace
from nuggets_trainer.data.anchors import anchors_like
from nuggets_trainer.data.dataset import source_of
from nuggets_trainer.golden.scores import golden_scores
from nuggets_trainer.golden.selection import select_golden_set
from nuggets_trainer.overlap.tuned_on import describe_shared_questions
from nuggets_trainer.pipeline.rows import read_pool
from nuggets_trainer.store.selection_file import read_row_places, save_row_places, save_selection
from nuggets_trainer.training.settings import describe_rows

QUESTION = "How many people took part in the very first meeting of the village council in the spring of that year?"
TESTS = {"a_test": [QUESTION], "other": ["What is the most common colour of the houses at the old harbour today?"]}


def write(path: Path, prompts: list[str]) -> Path:
    rows = [{"question": prompt, "reply": f"Answer {number}."} for number, prompt in enumerate(prompts)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture()
def record(tmp_path):
    """Write the record of a selection whose pool and anchors have other column names, as training does."""

    def make(pool_prompts: list[str], anchor_prompts: list[str], chosen: list[int]) -> Path:
        columns = ["prompt=question", "completion=reply"]
        config = NuggetsConfig(columns=columns, anchors=str(write(tmp_path / "anchors.jsonl", anchor_prompts)))
        pool = read_pool(load_rows(str(write(tmp_path / "pool.jsonl", pool_prompts))), config)
        anchors = anchors_like(read_pool(load_rows(config.anchors), config).dataset, pool)
        fields = {"settings": {"pool_sha256": pool.content_hash}, "indices": chosen}
        fields["rows"] = describe_rows(config, pool, {"": anchors})
        path = tmp_path / "nuggets_selection.json"
        path.write_text(json.dumps(fields))
        return path

    return make


def test_rows_and_anchors_with_questions_are_counted(record):
    path = record(["Sing.", QUESTION, f"Please: {QUESTION}", "Dance."], ["Read.", QUESTION.lower()], [2, 0])
    says = describe_shared_questions(path, TESTS)
    assert says.startswith("2 rows of the pool (1 of the golden set) and 1 anchor hold questions of a_test and other,")


def test_local_rows_are_found_though_the_record_names_no_folder(record, tmp_path):
    """nuggets_selection.json held paths of the machine, and a model is published with it."""
    made = json.loads(record(["Sing.", QUESTION], ["Read."], [1]).read_text())
    zero_shot, one_shot = np.full(2, -2, np.float32), np.array([[-3, -3], [-1, -1]], np.float32)
    golden_set = select_golden_set(golden_scores(zero_shot, one_shot), ("top_k", 1))
    places = {"pool": RowPlace(*made["rows"]["pool"]), "anchors": {"": RowPlace(*made["rows"]["anchors"][""])}}
    path = tmp_path / "out" / "checkpoint-2" / "nuggets_selection.json"
    path.parent.mkdir(parents=True)
    save_selection(path, golden_set, made["settings"], beside={"rows": {**made["rows"], **places}})
    save_row_places(tmp_path / "out", {**made["rows"], **places})
    assert str(tmp_path) not in path.read_text()
    assert json.loads(path.read_text())["rows"]["anchors"] == {"": ["anchors.jsonl", None, "train"]}
    assert describe_shared_questions(path, TESTS).startswith("1 row of the pool (1 of the golden set) holds questions")
    (tmp_path / "out" / "_nuggets_rows.json").unlink()  # as the hub has it
    assert "pool.jsonl cannot be read (" in describe_shared_questions(path, TESTS)
    hub = {"pool": RowPlace("tatsu-lab/alpaca"), "anchors": {}}
    save_selection(path, golden_set, {}, beside={"rows": hub})
    assert read_row_places(path)["pool"] == ["tatsu-lab/alpaca", None, "train"]


def test_a_job_inside_of_another_has_its_own_places(tmp_path):
    """The record of an earlier version, in a directory below another job, was read with that job's places."""
    save_row_places(tmp_path, {"pool": ["/other.jsonl", None, "train"], "anchors": {}})
    rows = {"pool": ["/own.jsonl", None, "train"], "anchors": {}}
    for name, pool in (("checkpoints", "/own.jsonl"), ("checkpoint-20", "/other.jsonl")):
        path = tmp_path / name / "nuggets_selection.json"
        path.parent.mkdir()
        path.write_text(json.dumps({"settings": {}, "indices": [], "rows": rows}))
        assert read_row_places(path)["pool"][0] == pool


def test_clean_rows_are_called_clean(record):
    says = describe_shared_questions(record(["Sing.", "Dance."], ["Read."], [0]), TESTS)
    assert says == "No row of the pool, and no given anchor, holds a question of a_test and other."


def test_what_was_not_searched_is_said(record, tmp_path):
    path = record(["Sing.", "Dance."], ["Read."], [0])
    write(tmp_path / "pool.jsonl", ["Sing.", "Jump."])
    assert describe_shared_questions(path, TESTS).endswith("pool.jsonl does not hold the same rows.")
    (tmp_path / "pool.jsonl").unlink()
    assert "pool.jsonl cannot be read (" in describe_shared_questions(path, TESTS)
    path.write_text(json.dumps({"settings": {}, "indices": []}))  # by an earlier version
    assert "does not name their file" in describe_shared_questions(path, TESTS)
    path.unlink()
    assert "there is no nuggets_selection.json beside the model" in describe_shared_questions(path, TESTS)


@pytest.mark.parametrize("kind", ["file", "directory", "compressed"])
def test_rows_know_where_they_were_loaded(kind, tmp_path, monkeypatch):
    (tmp_path / "rows").mkdir()
    path = write(tmp_path / "rows" / "a.jsonl", ["Sing.", "Dance."])
    if kind == "directory":
        path = path.parent
    if kind == "compressed":
        import gzip

        compressed = path.with_suffix(".jsonl.gz")
        compressed.write_bytes(gzip.compress(path.read_bytes()))
        path = compressed
    monkeypatch.chdir(tmp_path)
    rows = load_rows(str(path.relative_to(tmp_path))).select([1])
    place = source_of(rows)
    assert place is not None and place.path == str(path) and load_rows(*place)[1] == rows[0]


def test_tokenized_rows_are_called_not_searched(tmp_path):
    """`nuggets evaluate generate` ended in an error for a model that was tuned on token ids."""
    (tmp_path / "pool.jsonl").write_text('{"input_ids": [1, 2, 3]}\n{"input_ids": [3, 4]}\n')
    pool = read_pool(load_rows(str(tmp_path / "pool.jsonl")), NuggetsConfig())
    fields = {"settings": {"pool_sha256": pool.content_hash}, "indices": [0]}
    fields["rows"] = describe_rows(NuggetsConfig(), pool, None)
    (tmp_path / "nuggets_selection.json").write_text(json.dumps(fields))
    says = describe_shared_questions(tmp_path / "nuggets_selection.json", TESTS)
    assert says.endswith("they are tokenized, and words are compared.")


def test_rows_saved_to_disk_name_their_own_directory(tmp_path):
    """They named the file that they were made of, whose rows are others."""
    rows = load_rows(str(write(tmp_path / "a.jsonl", ["Sing.", "Dance."])))
    rows.select([1]).save_to_disk(str(tmp_path / "saved"))
    place = source_of(load_rows(str(tmp_path / "saved")))
    assert place is not None and place.path == str(tmp_path / "saved") and len(load_rows(*place)) == 1
