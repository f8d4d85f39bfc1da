"""A file is there whole or not at all, on a local disk and on a remote; what fails on a remote is tried again."""

from __future__ import annotations

import errno
import logging
import os
import stat
import sys
import uuid
from pathlib import Path

import fsspec
import numpy as np
import pytest

from nuggets_trainer.store import files, score_store
from nuggets_trainer.store.files import (
    check_writable,
    join,
    list_directory,
    local_path,
    read_bytes,
    read_many,
    remove_leftovers,
    set_aside,
    write_atomically,
)
from nuggets_trainer.store.score_store import PartWriter, ScoreStore

FIELDS = {"engine": "1", "template": "chat"}


@pytest.fixture
def remote():
    """Yield the URL of an empty directory on fsspec's file system in memory."""
    url = f"memory://{uuid.uuid4().hex}/scores"
    yield url
    fs, path = fsspec.core.url_to_fs(url)
    if fs.exists(path):
        fs.rm(path, recursive=True)


@pytest.fixture(params=["local", "file://", "memory://"])
def place(request, tmp_path, remote):
    return {"local": tmp_path, "file://": f"file://{tmp_path}", "memory://": remote}[request.param]


@pytest.fixture
def pauses(monkeypatch):
    """Return the list of the pauses that are made, each over at once."""
    made: list[float] = []
    monkeypatch.setattr("nuggets_trainer.store.remote.time.sleep", made.append)
    return made


def fail_times(monkeypatch, name: str, errors: list[Exception]) -> None:
    """Have calls of the file system in memory fail, as a network cannot be made to."""
    fs = fsspec.filesystem("memory")
    works = getattr(type(fs), name)

    def call(self, *arguments, **options):
        if errors:
            raise errors.pop()
        return works(self, *arguments, **options)

    monkeypatch.setattr(type(fs), name, call)


def test_files_are_replaced_at_once(place):
    path = join(place, "file")
    write_atomically(path, b"one")
    write_atomically(path, memoryview(b"two"))
    assert read_bytes(path) == b"two" and list_directory(place) == {"file": True}
    with pytest.raises(FileNotFoundError):
        read_bytes(join(place, "other"))
    assert list_directory(join(place, "nowhere")) == {}


@pytest.mark.parametrize("number", [0, 1, 5, 30])
def test_many_files_are_read_in_order_with_errors(number, place):
    places = [join(place, str(i)) for i in range(number)]
    for i, path in enumerate(places):
        if i % 7 != 4:
            write_atomically(path, str(i).encode())
    for i, (path, content) in enumerate(read_many(places)):
        assert path == places[i]
        assert isinstance(content, FileNotFoundError) if i % 7 == 4 else content == str(i).encode()
    assert len(list(read_many(places))) == number


def test_a_listing_tells_files_from_directories(place):
    files.make_directory(join(place, "below"))
    write_atomically(join(place, "below", "file"), b"")
    assert list_directory(place) == {"below": False}


def test_a_file_is_set_aside_once(place, caplog):
    write_atomically(join(place, "file"), b"torn")
    for _ in range(2):  # another rank may have been faster
        set_aside(join(place, "file"), "it is torn", "its pairs are scored again")
    assert list_directory(place) == {"file.corrupt": True}
    assert "file cannot be used: it is torn. It is set aside with `.corrupt` appended; its pairs" in caplog.text


def test_a_file_that_cannot_be_renamed_stays(tmp_path, caplog):
    write_atomically(tmp_path / "file", b"torn")
    (tmp_path / "file.corrupt" / "full").mkdir(parents=True)
    set_aside(tmp_path / "file", "it is torn", "its pairs are scored again")
    assert "stays where it is, because it cannot be renamed" in caplog.text and (tmp_path / "file").is_file()


def test_a_writer_that_dies_leaves_the_older_file(tmp_path, monkeypatch):
    write_atomically(tmp_path / "file", b"one")

    def die(descriptor):
        raise KeyboardInterrupt

    monkeypatch.setattr("nuggets_trainer.store.files.os.fsync", die)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(tmp_path / "file", b"two")
    assert (tmp_path / "file").read_bytes() == b"one" and list_directory(tmp_path) == {"file": True}


def test_directories_need_not_be_syncable(tmp_path, monkeypatch):
    """Simulated: network file systems such as CIFS answer EINVAL."""
    works = os.fsync

    def sync(descriptor):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "Invalid argument")
        works(descriptor)

    monkeypatch.setattr("nuggets_trainer.store.files.os.fsync", sync)
    write_atomically(tmp_path / "file", b"one")
    assert (tmp_path / "file").read_bytes() == b"one"


def test_only_old_temporary_files_are_removed(tmp_path):
    for name, age in ((".a.0.tmp", 90_000), (".b.0.tmp", 3600), ("c.tmp", 90_000), (".d", 90_000)):
        (tmp_path / name).write_bytes(b"")
        stamp = (tmp_path / name).stat().st_mtime - age
        os.utime(tmp_path / name, (stamp, stamp))
    remove_leftovers(tmp_path)
    assert set(list_directory(tmp_path)) == {".b.0.tmp", "c.tmp", ".d"}


def test_a_directory_is_proved_writable_and_left_clean(place):
    check_writable(join(place, "a", "b"))
    assert list_directory(join(place, "a", "b")) == {}


# ---------------------------------------------------------------- remote places


def test_a_store_on_a_remote_is_read_by_another_job(remote, caplog, monkeypatch):
    monkeypatch.setattr(score_store, "FLUSH_CANDIDATES", 1)
    with PartWriter(ScoreStore(remote, FIELDS)) as writer:
        for i in range(3):
            writer.add(f"c{i}", ["x", "y"], np.float32([i, -i]))
            writer.end_candidates(1)
    store = ScoreStore(remote, FIELDS)
    parts = sorted(list_directory(join(store.directory, "parts")))
    damaged = join(store.directory, "parts", parts[0])
    assert len(parts) == 3 and str(damaged).startswith("memory://")
    truth, there = store.read(["c2", "c0", "c1"], ["y", "x"])
    np.testing.assert_array_equal(truth, [[-2, 2], [0, 0], [-1, 1]])
    store.write_note({"q": 1}, [1, 2])
    assert ScoreStore(remote, FIELDS).read_note({"q": 1}) == [1, 2] and not caplog.text
    write_atomically(damaged, read_bytes(damaged)[:-1])
    values, known = store.read(["c2", "c0", "c1"], ["y", "x"])
    assert there.all() and known.sum() == 4 and "is set aside" in caplog.text
    np.testing.assert_array_equal(values, np.where(known, truth, np.nan))
    caplog.clear()
    ScoreStore(remote, {**FIELDS, "engine": "2"})
    assert "are not reused, because they differ in engine: 1 there, 2 now" in caplog.text


def test_a_passing_remote_failure_is_tried_again(remote, monkeypatch, pauses, caplog):
    fail_times(
        monkeypatch, "pipe_file", [ConnectionResetError("peer"), RuntimeError("a backend's own"), TimeoutError()]
    )
    with caplog.at_level(logging.WARNING, logger="nuggets_trainer"):
        write_atomically(join(remote, "file"), b"one")
    assert pauses == [1, 4, 16] and caplog.text.count("the next try is in") == 3
    fail_times(monkeypatch, "cat_file", [OSError("5xx")])
    assert read_bytes(join(remote, "file")) == b"one" and len(pauses) == 4


@pytest.mark.parametrize("error", [ConnectionResetError("peer"), RuntimeError("a backend's own")])
def test_a_lasting_remote_failure_is_an_os_error(error, remote, monkeypatch, pauses):
    fail_times(monkeypatch, "pipe_file", [error] * 100)
    with pytest.raises(OSError, match="peer|a backend's own"):
        write_atomically(join(remote, "file"), b"one")
    assert len(pauses) == 3
    with pytest.raises(PermissionError, match=r"`score_dir='memory://.*'` must be writable, got: .*name a directory"):
        check_writable(remote)


def test_a_lasting_error_is_not_tried_again(remote, tmp_path, monkeypatch, pauses):
    fail_times(monkeypatch, "pipe_file", [PermissionError("403")])
    with pytest.raises(PermissionError, match="403"):
        write_atomically(join(remote, "file"), b"one")
    monkeypatch.setattr(
        "nuggets_trainer.store.files.os.fsync", lambda _: (_ for _ in ()).throw(OSError(errno.EIO, "disk"))
    )
    with pytest.raises(OSError, match="disk"):
        write_atomically(tmp_path / "file", b"one")
    assert not pauses and list_directory(tmp_path) == {}


@pytest.mark.parametrize(("url", "package"), [("s3://bucket/x", "s3fs"), ("gs://bucket/x", "gcsfs")])
def test_a_missing_backend_is_named(url, package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)  # as if not installed
    with pytest.raises(ImportError, match=rf"{url}.* needs a package that is not installed .*`pip install {package}`"):
        ScoreStore(url, FIELDS)


def test_an_unknown_protocol_is_refused():
    with pytest.raises(
        ValueError, match=r"s4://bucket/x.* cannot be reached: .*Use a local path, or a URL such as s3://"
    ):
        ScoreStore("s4://bucket/x", FIELDS)


def test_a_url_that_was_made_a_path_is_refused():
    with pytest.raises(
        ValueError, match=r"A URL must be a string, got .*'s3:/bucket/x'\), which was turned into a Path"
    ):
        ScoreStore(Path("s3://bucket/x"), FIELDS)


def test_a_directory_may_be_named_like_a_protocol():
    for name in ("s3", "data", "memory", "git"):
        assert local_path(name) == local_path(Path(name)) == Path(name)


def test_a_listing_shows_what_others_wrote_since(remote, monkeypatch):
    """Simulated: unlike the file system in memory, those of object stores keep listings."""
    memory, kept = type(fsspec.filesystem("memory")), {}
    works = memory.ls
    monkeypatch.setattr(
        memory, "ls", lambda self, path, **options: kept.setdefault(path, works(self, path, **options))
    )
    monkeypatch.setattr(memory, "invalidate_cache", lambda self, path=None: kept.clear())
    for number in (1, 2):
        fsspec.filesystem("memory").pipe_file(f"{remote}/{number}", b"")
        assert len(list_directory(remote)) == number and kept
