"""The embedded model and rows are what their documentation says, and the model really uses an example."""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset

from nuggets_trainer import NuggetsConfig, Pool, load_rows, load_scorer, score_pool
from nuggets_trainer.demo import demo_path, resolve_demo
from tests.support.launch import ROOT, run

DEMO = Path(demo_path("model")).parent


def test_the_demo_is_small_and_holds_no_pickle():
    files = [path for path in DEMO.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    assert sum(path.stat().st_size for path in files) < 8_000_000
    assert {path.suffix for path in files} == {".py", ".json", ".jsonl", ".jinja", ".safetensors"}


def test_only_demo_names_become_paths():
    assert resolve_demo("nuggets-demo/model") == str(demo_path("model"))
    for name in ("Qwen/Qwen3-0.6B", "nuggets-demo", "my/nuggets-demo/model", "pool.jsonl"):
        assert resolve_demo(name) == name


def test_half_the_pool_is_corrupted_and_nothing_leaks():
    pool, anchors, heldout = (load_rows(f"nuggets-demo/{name}") for name in ("pool", "anchors", "heldout"))
    kinds = Counter(pool["corruption"])
    assert kinds.pop("clean") == len(pool) / 2
    assert set(kinds) == {"wrong", "swapped", "truncated", "garbled", "off_format", "empty"}
    assert max(kinds.values()) == min(kinds.values())
    families = Counter(pool["family"])
    assert len(families) == 9 and max(families.values()) == min(families.values())
    prompts = [row["instruction"] for rows in (pool, anchors, heldout) for row in rows]
    assert len(set(prompts)) == len(prompts) == 1836 + 27 + 270
    assert set(anchors["corruption"]) == set(heldout["corruption"]) == {"clean"}


def test_clean_examples_help_the_model_corrupted_do_not(tmp_path):
    """Measured, not assumed: clean examples help, corrupted ones do not, a copy of the anchor helps as well."""
    model, tokenizer = load_scorer("nuggets-demo/model")
    rows = load_rows("nuggets-demo/pool")
    labels = np.array(rows["corruption"])
    chosen = np.concatenate([np.flatnonzero(labels == kind)[:12] for kind in sorted(set(labels))])
    anchors = load_rows("nuggets-demo/anchors").select(range(0, 27, 2))
    scores, golden_set = score_pool(
        model,
        tokenizer,
        Pool(rows.select(chosen)),
        Pool(anchors, "anchors"),
        config=NuggetsConfig(top_k=12, schedule="exact"),
        score_dir=tmp_path,
    )
    clean = labels[chosen] == "clean"
    assert scores.golden_score[clean].mean() > 0.95 and scores.golden_score[~clean].mean() < 0.05
    assert scores.mean_gain[clean].min() > 0 > np.median(scores.mean_gain[~clean])
    assert clean[golden_set.indices].all()


def test_selection_never_reads_the_label(tmp_path):
    model, tokenizer = load_scorer("nuggets-demo/model")
    rows = load_rows("nuggets-demo/pool").select(range(20))
    anchors = Pool(load_rows("nuggets-demo/anchors").select(range(4)), "anchors")
    found = []
    for name, pool in (("with", rows), ("without", rows.select_columns(["instruction", "input", "output"]))):
        config = NuggetsConfig(top_k=5)
        _, golden_set = score_pool(model, tokenizer, Pool(pool), anchors, config=config, score_dir=tmp_path / name)
        found.append(golden_set.indices.tolist())
    assert found[0] == found[1]


def test_the_rows_are_rebuilt_byte_for_byte(tmp_path):
    run([sys.executable, "recipes/demo_assets/build_demo.py", "--data_only", "--output_dir", str(tmp_path)])
    for name in ("pool", "anchors", "heldout", "stress"):
        assert (tmp_path / f"{name}.jsonl").read_bytes() == (DEMO / f"{name}.jsonl").read_bytes()


@pytest.mark.slow
def test_the_model_is_rebuilt_byte_for_byte(tmp_path):
    """Ten minutes. Holds on the machine and the versions that the embedded model was built with."""
    run([sys.executable, "recipes/demo_assets/build_demo.py", "--output_dir", str(tmp_path)], timeout=3000)
    built = tmp_path / "model" / "model.safetensors"
    assert built.read_bytes() == (DEMO / "model" / "model.safetensors").read_bytes()


@pytest.mark.slow
def test_the_golden_set_wins_in_every_seed(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "recipes"))
    import demo

    options = ["--num_seeds", "3", "--full", "--output_dir", str(tmp_path), "--use_cpu", "true"]
    trainer, losses = demo.main(*demo.parse(options))
    labels = np.array(load_rows("nuggets-demo/pool")["corruption"])
    golden_set = trainer.golden_set
    assert len(golden_set) == 184 and (labels[golden_set.indices] == "clean").mean() >= 0.95
    golden = losses.pop("golden set")
    assert len(golden) == 3
    for arm, values in losses.items():
        assert all(ours < theirs for ours, theirs in zip(golden, values, strict=False)), arm
    assert json.loads((tmp_path / "nuggets_selection.json").read_text())["rule"] == ["top_fraction", 0.1]
    assert isinstance(trainer.train_dataset, Dataset) and len(trainer.train_dataset) == 184
