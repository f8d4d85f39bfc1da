"""The store keeps every pair that was written whole, and never uses one that was not."""

from __future__ import annotations

import errno
import hashlib
import itertools
import json
import logging
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nuggets_trainer.store import score_store
from nuggets_trainer.store.score_store import SCHEMA, PartWriter, ScoreStore, known
from nuggets_trainer.store.scratch import Scratch
from tests.support.launch import ROOT, environment

FIELDS = {"engine": "1", "template": "chat"}
KEYS = (["a", "b", ""], ["x", "y"])
TRUTH = np.array([[-1.0, -2.0], [-3.0, np.nan], [-0.5, np.nan]], dtype=np.float32)
IN_STORE = np.array([[True, True], [True, False], [True, True]])


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


def test_a_part_is_plain_parquet_named_by_its_bytes(tmp_path):
    for path in parts(make_store(tmp_path)):
        assert path.name == hashlib.sha256(path.read_bytes()).hexdigest()[:32] + ".parquet"
        assert pq.read_table(path).schema.equals(SCHEMA)


# ---------------------------------------------------------------- what is not a healthy part


def foreign_parquet(path: Path) -> bytes:
    pq.write_table(pa.table({"candidate": ["a"], "score": [1.0]}), path)
    return path.read_bytes()


def flip(content: bytes, position: int) -> bytes:
    return content[:position] + bytes([content[position] ^ 0x10]) + content[position + 1 :]


def damages(content: bytes, other: bytes, foreign: bytes) -> dict[str, bytes]:
    """Return what a part may be replaced by; the last 8 bytes of Parquet are the footer's length and a magic word."""
    footer = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
    spread = range(0, len(content), len(content) // 16)
    positions = {*spread, footer, footer + 1, (footer + len(content)) // 2, len(content) - 8, len(content) - 1}
    return {
        "half": content[: len(content) // 2],
        "without its end": content[:-20],
        "empty": b"",
        "another schema": foreign,
        "another part": other,
        "no parquet": b"not a parquet file at all",
        "trailing garbage": content + b"garbage",
        **{f"bit flipped at {position}": flip(content, position) for position in sorted(positions)},
    }


@pytest.mark.parametrize("which", [0, 1])
def test_a_damaged_part_is_set_aside(which, tmp_path, caplog):
    whole = parts(make_store(tmp_path / "whole"))
    contents = damages(whole[which].read_bytes(), whole[1 - which].read_bytes(), foreign_parquet(tmp_path / "foreign"))
    assert len(contents) >= 25
    for name, content in contents.items():
        shutil.rmtree(tmp_path / "store", ignore_errors=True)
        store = make_store(tmp_path / "store")
        damaged, healthy = parts(store)[which], parts(store)[1 - which]
        damaged.write_bytes(content)
        caplog.clear()
        with caplog.at_level(logging.WARNING, logger="nuggets_trainer"):
            log_prob, there = store.read(*KEYS)
        assert there.sum() in (2, 3), name
        assert not (there & ~IN_STORE).any(), name
        np.testing.assert_array_equal(log_prob, np.where(there, TRUTH, np.nan), err_msg=name)
        assert str(damaged) in caplog.text and "is set aside" in caplog.text and "scored again" in caplog.text, name
        assert parts(store) == [healthy] and damaged.with_name(damaged.name + ".corrupt").is_file(), name
        caplog.clear()
        store.read(["a"], ["x"])
        assert not caplog.text, name  # said once
        make_store(tmp_path / "store")
        np.testing.assert_array_equal(store.read(*KEYS)[0], TRUTH)  # scored again, it is as before


def test_a_part_of_another_schema_is_set_aside(tmp_path, caplog):
    store = make_store(tmp_path)
    for content in (foreign_parquet(tmp_path / "foreign"), b"no parquet"):
        (store.directory / "parts" / (hashlib.sha256(content).hexdigest()[:32] + ".parquet")).write_bytes(content)
    np.testing.assert_array_equal(store.read(*KEYS)[0], TRUTH)
    assert "it has the columns ['candidate', 'score']" in caplog.text and caplog.text.count("is set aside") == 2


def test_a_file_that_is_no_part_is_named_once(tmp_path, caplog):
    store = make_store(tmp_path)
    folder = store.directory / "parts"
    (folder / "README.md").write_text("mine")
    foreign_parquet(folder / "data.parquet")
    (folder / ("0" * 32 + ".parquet")).mkdir()
    (folder / ("1" * 32 + ".parquet")).symlink_to(tmp_path / "nowhere")
    before = sorted(folder.iterdir())
    for _ in range(2):
        np.testing.assert_array_equal(store.read(*KEYS)[0], TRUTH)
    for name in ("README.md", "data.parquet", "0" * 32, "1" * 32):
        assert caplog.text.count(name) == 1
    assert sorted(folder.iterdir()) == before


def test_leftover_temporary_files_go_after_a_day(tmp_path, caplog):
    store = make_store(tmp_path)
    old, new = (store.directory / "parts" / f".{name}.parquet.0a.tmp" for name in ("old", "new"))
    for path, age in ((old, 25 * 3600), (new, 3600)):
        path.write_bytes(parts(store)[0].read_bytes()[:50])
        os.utime(path, (time.time() - age,) * 2)
    np.testing.assert_array_equal(ScoreStore(tmp_path, FIELDS).read(*KEYS)[0], TRUTH)
    assert not caplog.text and not old.exists() and new.exists()


@pytest.mark.parametrize("code", [errno.EMFILE, errno.EIO])
def test_an_error_of_the_system_keeps_the_part(code, tmp_path, monkeypatch, caplog):
    """Out of handles, the job ends; a file that this machine cannot read is passed over. Neither is renamed."""
    store = make_store(tmp_path)

    def fail(place):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("nuggets_trainer.store.files.read_bytes", fail)  # a broken disk cannot be had here
    if code == errno.EMFILE:
        with pytest.raises(OSError, match="Too many open files"):
            store.read(["a"], ["x"])
    else:
        assert not store.read(["a"], ["x"])[1].any() and caplog.text.count("cannot be read") == 2
    monkeypatch.undo()
    assert len(parts(store)) == 2 and store.read(["a"], ["x"])[1].all()


def test_a_part_may_go_away_while_it_is_read(tmp_path, monkeypatch):
    store = make_store(tmp_path)
    gone = parts(store)[0].name
    monkeypatch.setattr(store, "_part_names", lambda: [gone.replace(gone[0], "f"), *(p.name for p in parts(store))])
    np.testing.assert_array_equal(store.read(*KEYS)[0], TRUTH)


# ---------------------------------------------------------------- the manifest


def test_a_store_of_another_layout_is_refused(tmp_path):
    manifest = make_store(tmp_path).directory / "manifest.json"
    for content, layout in ((FIELDS, 1), ({"layout": 3, "fields": FIELDS}, 3), ({"layout": "x"}, "'x'")):
        manifest.write_text(json.dumps(content))
        with pytest.raises(
            ValueError, match=f"must have layout 2, .* got layout {layout}. Use another `score_dir`, or delete"
        ):
            ScoreStore(tmp_path, FIELDS)
        assert json.loads(manifest.read_text()) == content  # nothing was touched


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "{}", "\udcff", '{"layout": 2}', '{"layout": 2, "fields": {"engine": "2"}}']
)
def test_a_torn_or_foreign_manifest_is_replaced(content, tmp_path, caplog):
    manifest = make_store(tmp_path).directory / "manifest.json"
    whole = manifest.read_bytes()
    manifest.write_text(content, errors="surrogateescape")
    np.testing.assert_array_equal(ScoreStore(tmp_path, FIELDS).read(*KEYS)[0], TRUTH)
    assert manifest.read_bytes() == whole and "a new one is written" in caplog.text
    assert manifest.with_name("manifest.json.corrupt").is_file()


def test_what_differs_from_unused_scores_is_named(tmp_path, caplog):
    for name, content in (
        ("new", {"layout": 2, "fields": {**FIELDS, "engine": "0"}}),
        ("old", {**FIELDS, "template": "plain"}),
        ("torn", []),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "manifest.json").write_text(json.dumps(content))
    (tmp_path / "step-3").mkdir()
    with caplog.at_level(logging.WARNING, logger="nuggets_trainer"):
        ScoreStore(tmp_path, FIELDS)
    assert f"{tmp_path / 'new'} are not reused, because they differ in engine: 0 there, 1 now" in caplog.text
    assert f"{tmp_path / 'old'} are not reused, because they differ in template: plain there, chat now" in caplog.text
    assert "torn/manifest.json cannot be read" in caplog.text and "step-3" not in caplog.text


def test_a_note_answers_its_own_question_only(tmp_path):
    store = make_store(tmp_path)
    store.write_note({"num_anchors": 3}, [4, 5, 6])
    assert store.read_note({"num_anchors": 3}) == [4, 5, 6]
    assert store.read_note({"num_anchors": 4}) is None
    note = next(store.directory.glob("note-*.json"))
    whole = note.read_text()
    for content in ("{", "[]", whole.replace("5", "7", 1), whole.replace("[4, 5, 6]", "[4, 5, 7]")):
        assert content != whole
        note.write_text(content)
        assert store.read_note({"num_anchors": 3}) is None


# ---------------------------------------------------------------- a full disk


@pytest.fixture
def full_disk(tmp_path):
    """Yield a directory on a real file system of 1 MiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True, text=True)
    if mount.returncode:
        pytest.skip(f"mounting a small file system is not permitted here: {mount.stderr.strip()}")
    yield folder
    subprocess.run(["umount", folder], check=True)


def add_random(writer: PartWriter, number: int) -> np.ndarray:
    values = (
        np.random.default_rng(0).normal(size=(number, 100)).astype(np.float32)
    )  # random bits: 400 kB do not shrink
    for i, row in enumerate(values):
        writer.add(f"c{i}", [f"x{j}" for j in range(100)], row)
    return values


def test_a_full_disk_loses_nothing(full_disk):
    store = make_store(full_disk)
    ballast = full_disk / "ballast"
    ballast.write_bytes(bytes(700_000))
    everything = {path: path.read_bytes() for path in full_disk.rglob("*") if path.is_file()}
    writer = PartWriter(store)
    values = add_random(writer, 1000)
    for _ in range(2):
        with pytest.raises(
            OSError, match="No space left on device: .*/parts takes no more.*run the same command again"
        ) as caught:
            writer.flush()
        assert caught.value.errno == errno.ENOSPC
        assert {path: path.read_bytes() for path in full_disk.rglob("*") if path.is_file()} == everything
    ballast.unlink()
    writer.flush()
    np.testing.assert_array_equal(store.read([f"c{i}" for i in range(1000)], [f"x{j}" for j in range(100)])[0], values)
    np.testing.assert_array_equal(ScoreStore(full_disk, FIELDS).read(*KEYS)[0], TRUTH)


def test_a_disk_full_from_the_start_is_refused(full_disk):
    (full_disk / "scores").mkdir()
    with pytest.raises(OSError, match="No space left"), (full_disk / "ballast").open("wb", buffering=0) as file:
        while file.write(bytes(1024)):
            pass
    with pytest.raises(OSError, match="No space left on device: .*scores takes no more") as caught:
        ScoreStore(full_disk / "scores", FIELDS)
    assert caught.value.errno == errno.ENOSPC


def test_a_matrix_that_does_not_fit_is_an_error(full_disk, tmp_path, monkeypatch):
    """A page of a mapped file that has no room on the disk would end the process with SIGBUS."""
    store = make_store(tmp_path / "store")
    monkeypatch.setattr("nuggets_trainer.store.scratch.IN_MEMORY_BYTES", 0)
    with pytest.raises(OSError, match="No space left on device: .* takes no more"):
        store.read_matrix([str(i) for i in range(10_000)], [str(j) for j in range(100)], Scratch(full_disk))
    assert not list(full_disk.iterdir())


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_or_quota_is_told_apart(code, tmp_path, monkeypatch):
    """Simulated, as a quota cannot be had here."""
    store = make_store(tmp_path)

    def die(descriptor):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("nuggets_trainer.store.files.os.fsync", die)
    with pytest.raises(OSError, match=f"{os.strerror(code)}: .*takes no more") as caught:
        store.write(["c"], ["x"], [-1.0])
    assert caught.value.errno == code
    monkeypatch.undo()
    assert len(parts(store)) == len(list((store.directory / "parts").iterdir())) == 2


# ---------------------------------------------------------------- the writer


def test_a_part_is_written_after_so_many_candidates(tmp_path, monkeypatch):
    monkeypatch.setattr(score_store, "FLUSH_CANDIDATES", 2)
    store = ScoreStore(tmp_path, FIELDS)
    with PartWriter(store) as writer:
        for i in range(5):
            writer.add(f"c{i}", ["x"], np.float32([i]))
            writer.end_candidates(1)
        assert len(parts(store)) == 2
    assert len(parts(store)) == 3 and store.read([f"c{i}" for i in range(5)], ["x"])[1].all()


def test_a_failing_writer_shows_the_first_error(tmp_path, monkeypatch, caplog):
    store = ScoreStore(tmp_path, FIELDS)

    def fail(*_):
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(store, "write", fail)
    with pytest.raises(KeyboardInterrupt), PartWriter(store) as writer:
        writer.add("c", ["x"], np.float32([1]))
        raise KeyboardInterrupt
    assert "1 scored pair could not be stored: [Errno 28] full" in caplog.text
    with pytest.raises(OSError, match="full"), PartWriter(store) as writer:
        writer.add("c", ["x"], np.float32([1]))
    monkeypatch.undo()
    writer.flush()  # it was kept
    assert store.read(["c"], ["x"])[0] == 1


def stop_at(number: int, method: str):
    """Return a trace that raises SystemExit in a method at this instruction, as the handler of SIGTERM does."""
    seen = iter(range(number))

    def trace(frame, event, _):
        if frame.f_code.co_name != method or frame.f_code.co_filename != score_store.__file__:
            return None
        frame.f_trace_opcodes = True
        if event == "opcode" and next(seen, None) is None:
            raise SystemExit(143)
        return trace

    return trace


@pytest.mark.parametrize("method", ["add", "end_candidates", "flush", "_clear"])
def test_sigterm_at_any_instruction_loses_no_pair(method, tmp_path, monkeypatch):
    """Between two of three lists the pairs of half a minute could not be written: columns of different lengths."""
    monkeypatch.setattr(score_store, "FLUSH_CANDIDATES", 2)
    tracer = sys.gettrace()
    for number in itertools.count():
        store = ScoreStore(tmp_path / str(number), FIELDS)
        stopped = False
        try:
            with PartWriter(store) as writer:
                for candidate in ("a", "b"):
                    writer.add(candidate, ["x", "y"], np.float32([1, 2]))
                    if candidate == "a":
                        sys.settrace(stop_at(number, method))
                    writer.end_candidates(1)
        except SystemExit:
            stopped = True
        finally:
            sys.settrace(tracer)
        values, there = store.read(["a", "b"], ["x", "y"])
        assert there[0].all() and there[1].all() == there[1].any()
        assert (values[there].reshape(-1, 2) == [1, 2]).all()
        if not stopped:
            break
    assert number > 5 and there.all()


# ---------------------------------------------------------------- many parts, many writers


def test_of_two_values_the_first_part_by_name_counts(tmp_path):
    values = [-1.0, np.nextafter(np.float32(-1), np.float32(0)), -1.25]
    for order in ([0, 1, 2], [2, 1, 0]):
        store = ScoreStore(tmp_path / str(order[0]), FIELDS)
        for i in order:
            store.write(["a", "a", "b"], ["x", "y", "x"], [values[i], values[i], values[i]])
        first = pq.read_table(parts(store)[0])["log_prob"][0].as_py()
        assert len(parts(store)) == 3
        np.testing.assert_array_equal(store.read(["a"], ["x", "y"])[0], np.float32([[first, first]]))
    store.write(["c", "c"], ["x", "x"], [-7.0, -8.0])
    assert store.read(["c"], ["x"])[0] == -7


JOB = """
import sys
import numpy as np
from nuggets_trainer.store import score_store
from nuggets_trainer.store.score_store import PartWriter, ScoreStore
score_store.FLUSH_CANDIDATES = 3
score_dir, first = sys.argv[1], int(sys.argv[2])
store = ScoreStore(score_dir, {"engine": "1", "template": "chat"})
print("ready", flush=True)
sys.stdin.readline()
anchors = [f"x{j}" for j in range(5)]
with PartWriter(store) as writer:
    for i in range(first, first + 200):
        writer.add(f"c{i}", anchors, np.arange(5, dtype=np.float32) + i)
        writer.end_candidates(1)
        if i % 40 == 0:
            log_probs, known = store.read([f"c{k}" for k in range(300)], anchors)
            assert (log_probs == np.arange(300)[:, None] + np.arange(5))[known].all()
"""


def test_two_jobs_on_one_store_do_no_harm(tmp_path):
    """Real processes that write and read the same store at once, half of the pairs twice."""
    command = [sys.executable, "-c", JOB, str(tmp_path)]
    jobs = [
        subprocess.Popen(
            [*command, str(first)],
            env=environment(),
            cwd=ROOT,
            text=True,
            **dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE),
        )
        for first in (0, 100)
    ]
    for job in jobs:
        assert job.stdout.readline() == "ready\n", job.communicate()[1]
    for job in jobs:
        job.stdin.write("go\n")
        job.stdin.flush()
    outputs = [job.communicate(timeout=120) for job in jobs]
    assert [(job.returncode, *output) for job, output in zip(jobs, outputs, strict=True)] == [(0, "", "")] * 2
    store = ScoreStore(tmp_path, FIELDS)
    log_probs, there = store.read([f"c{i}" for i in range(300)], [f"x{j}" for j in range(5)])
    assert there.all() and len(parts(store)) > 100
    np.testing.assert_array_equal(log_probs, np.arange(300)[:, None] + np.arange(5, dtype=np.float32))
    assert not list(tmp_path.rglob("*.corrupt")) + list(tmp_path.rglob("*.tmp"))


# ---------------------------------------------------------------- more pairs than memory


def test_a_matrix_on_disk_is_what_is_read_in_memory(tmp_path, monkeypatch):
    monkeypatch.setattr("nuggets_trainer.store.score_store.COPY_ROWS", 2)
    store = make_store(tmp_path / "store")
    store.write(["d"], ["x"], np.uint32([0x7FC0DEAD]).view(np.float32))  # a NaN that happens to be the sentinel
    keys = (["b", "missing", "a", "b", "", "d", "b"], ["y", "x", "y"])
    log_prob, there = store.read(*keys)
    monkeypatch.setattr("nuggets_trainer.store.scratch.IN_MEMORY_BYTES", 0)
    monkeypatch.setattr("nuggets_trainer.store.scratch.BLOCK_BYTES", 16)
    matrix = store.read_matrix(*keys, Scratch(tmp_path))
    assert isinstance(matrix, np.memmap) and matrix.shape == (7, 3)
    np.testing.assert_array_equal(matrix, log_prob)
    np.testing.assert_array_equal(known(matrix), there)
    np.testing.assert_array_equal(known(matrix[2:5]), there[2:5])
    assert known(matrix).any() and not known(matrix).all() and known(matrix)[5, 1]
    assert [path.name for path in tmp_path.iterdir()] == ["store"]  # the file has no name
    assert store.read_matrix([], ["x"], Scratch(tmp_path)).shape == (0, 1)
