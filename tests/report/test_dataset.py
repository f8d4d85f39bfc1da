"""The golden set as a dataset: readable by `load_dataset`, and uploaded whole, in one commit."""

from __future__ import annotations

import base64
import json
import shutil
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pyarrow.parquet as pq
import pytest
from datasets import Dataset, load_dataset
from huggingface_hub import DatasetCard, constants

from nuggets_trainer import (
    NuggetsConfig,
    Pool,
    push_to_hub,
    score_pool,
    write_dataset,
)
from nuggets_trainer.report.dataset import golden_rows
from nuggets_trainer.store.read_results import check_same_pool, read_scores
from tests.support.rows import alpaca_rows


@pytest.fixture(scope="module")
def scored(llama, tokenizer, tmp_path_factory):
    score_dir = tmp_path_factory.mktemp("scored")
    rows = [{**row, "source": f"s{i}"} for i, row in enumerate(alpaca_rows(30, seed=1))]
    pool = Pool(Dataset.from_list([*rows, {"instruction": "Say?", "input": "", "output": "", "source": "empty"}]))
    anchors = Pool(Dataset.from_list(alpaca_rows(6, seed=2)), "anchors")
    config = NuggetsConfig(top_k=7, template="plain", schedule="exact")
    _, golden_set = score_pool(llama, tokenizer, pool, anchors, config=config, score_dir=score_dir)
    return score_dir, pool, golden_set


def test_the_dataset_has_the_kept_rows_as_in_the_pool(scored, tmp_path):
    score_dir, pool, golden_set = scored
    write_dataset(score_dir, pool, tmp_path / "out", title="My golden set")
    kept = load_dataset(str(tmp_path / "out"), "golden_set", split="train", cache_dir=str(tmp_path / "cache"))
    assert kept.column_names == pool.dataset.column_names
    assert kept["source"] == [f"s{i}" for i in golden_set.indices]
    scores = load_dataset(str(tmp_path / "out"), "scores", split="train", cache_dir=str(tmp_path / "cache"))
    assert len(scores) == len(pool) and scores["dropped"][-1] == "empty_completion"
    card = (tmp_path / "out" / "README.md").read_text()
    assert "# My golden set" in card and "7 of 31 rows" in card and "empty_completion 1" in card
    assert str(score_dir) not in card and not list((tmp_path / "out").glob("report*"))
    assert (
        json.loads((score_dir / "report.json").read_text())["verdict"]["sentence"] in card
        and "The reliability of the ranking is " in card
    )


def cached_card(cache, name, head):
    """Put the card of a dataset where the hub's cache has it."""
    place = cache / f"datasets--{name.replace('/', '--')}" / "snapshots" / "abc"
    place.mkdir(parents=True)
    (place / "README.md").write_text(f"---\n{head}\n---\n# Rows")


def test_the_dataset_card_has_the_fields_of_its_sources(scored, tmp_path, monkeypatch):
    score_dir, pool, _ = scored
    cached_card(tmp_path, "user/rows", "license: cc-by-4.0\nlanguage: en")
    cached_card(tmp_path, "user/more", "license: cc-by-4.0\nlanguage:\n- de\n- en")
    cached_card(tmp_path, "user/shy", "license: mit")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))

    def head(*names):
        monkeypatch.setattr(
            pool.dataset.info, "download_checksums", {f"hf://datasets/{n}@abc/a.parquet": 1 for n in names}
        )
        write_dataset(score_dir, pool, tmp_path / "out", title="Rows: the best")
        card = DatasetCard.load(tmp_path / "out" / "README.md")
        fields = card.data.to_dict()
        assert fields["size_categories"] == ["n<1K"] and fields["task_categories"] == ["text-generation"]
        assert fields["pretty_name"] == "Rows: the best" and fields["tags"] == ["nuggets", "data-selection"]
        assert fields.get("source_datasets", []) == list(names)
        assert all(f"](https://huggingface.co/datasets/{name})" in card.text for name in names)
        return fields.get("license"), fields.get("language")

    assert head("user/rows") == ("cc-by-4.0", ["en"])
    assert head("user/rows", "user/more") == ("cc-by-4.0", ["de", "en"])
    assert head("user/rows", "user/shy") == head("user/unknown") == head() == (None, None)


def test_another_pool_than_the_scored_one_is_refused(scored, tmp_path):
    score_dir, pool, _ = scored
    with pytest.raises(ValueError, match="`pool` must be the pool that was scored: 31 rows .* got 30 rows"):
        write_dataset(score_dir, Pool(pool.dataset.select(range(30))), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def as_earlier_versions_wrote(score_dir, pool, copy):
    """Copy results, with the hash that did not see where unreadable rows stand."""
    shutil.copytree(score_dir, copy)
    run = json.loads((copy / "run.json").read_text())
    run["pool"]["sha256"] = pool.hash_without_places
    (copy / "run.json").write_text(json.dumps(run))
    table = pq.read_table(copy / "scores.parquet")
    metadata = {**table.schema.metadata, b"pool_sha256": pool.hash_without_places.encode()}
    pq.write_table(table.replace_schema_metadata(metadata), copy / "scores.parquet")
    return copy


@pytest.mark.parametrize("earlier", [False, True])
def test_a_pool_with_a_moved_empty_row_is_refused(scored, tmp_path, earlier):
    """The empty row has no text, so that the hash did not change, but all later pool indices meant other rows."""
    score_dir, pool, golden_set = scored
    if earlier:
        score_dir = as_earlier_versions_wrote(score_dir, pool, tmp_path / "earlier")
    stored = read_scores(score_dir)
    assert golden_rows(score_dir, pool)["source"] == [f"s{i}" for i in golden_set.indices]
    assert check_same_pool(stored, pool) is None
    moved = Pool(pool.dataset.select([30, *range(30)]))
    with pytest.raises(ValueError, match="must be the pool that was scored"):
        golden_rows(score_dir, moved)
    with pytest.raises(ValueError, match="not the same ones in the same order"):
        check_same_pool(stored, moved)
    with pytest.raises(ValueError, match="must be the pool that was scored"):
        golden_rows(score_dir, Pool(pool.dataset.select(range(30))))


class FakeHub(BaseHTTPRequestHandler):
    """What a push asks of the hub, answered from memory: a fake, because no hub can be reached from here."""

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        hub = self.server
        hub.requests.append((self.path, self.headers.get("authorization"), body))
        if self.path == "/api/repos/create":
            return self.answer({"url": f"{hub.url}/datasets/user/golden", "name": "user/golden", "id": "1"})
        if self.path.startswith("/api/datasets/user/golden/preupload/"):
            files = [{"path": file["path"], "uploadMode": "regular"} for file in json.loads(body)["files"]]
            return self.answer({"files": [{**file, "shouldIgnore": False, "oid": None} for file in files]})
        if self.path == "/api/validate-yaml":
            return self.answer({"errors": [], "warnings": []})
        assert self.path.startswith("/api/datasets/user/golden/commit/"), self.path
        address = f"{hub.url}/datasets/user/golden/commit/abc"
        return self.answer({"success": True, "commitOid": "abc", "commitUrl": address, "hookOutput": ""})

    def do_GET(self):
        self.server.requests.append((self.path, self.headers.get("authorization"), b""))
        self.answer({"id": "user/golden", "sha": "0", "siblings": [], "tags": [], "private": True})

    def answer(self, content):
        content = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        pass


@pytest.fixture
def hub(monkeypatch):
    from huggingface_hub import constants

    server = ThreadingHTTPServer(("127.0.0.1", 0), FakeHub)
    server.requests, server.url = [], f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", server.url)
    yield server
    server.shutdown()
    server.server_close()


def test_a_push_is_one_commit_with_all_files(scored, hub):
    score_dir, pool, _ = scored
    address = push_to_hub(score_dir, pool, "user/golden", private=True, token="hf_test")
    assert address == f"{hub.url}/datasets/user/golden/commit/abc"
    (created,) = (body for path, _, body in hub.requests if path == "/api/repos/create")
    assert b'"dataset"' in created and b'"private"' in created
    (commit,) = (body for path, _, body in hub.requests if "/commit/" in path)
    lines = [json.loads(line) for line in commit.splitlines()]
    values = [line["value"] for line in lines if line["key"] == "file"]
    files = {value["path"]: base64.b64decode(value["content"]) for value in values}
    assert set(files) == {
        *("README.md", "golden_set/train.parquet", "scores/train.parquet", "anchors/train.parquet"),
    }
    assert files["scores/train.parquet"] == (score_dir / "scores.parquet").read_bytes()
    # huggingface_hub may ask for more, such as its registry of agents once a day: only the push itself is counted.
    of_the_push = ("/api/repos/create", "/api/validate-yaml", "/api/datasets/user/golden/")
    pushed = {path: authorization for path, authorization, _ in hub.requests if path.startswith(of_the_push)}
    assert len(pushed) == 4 and set(pushed.values()) == {"Bearer hf_test"}, hub.requests
