"""The rows of the study: spoilt as they say, always the same, and nothing held out is in a pool."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

from nuggets_trainer.commands.compare import parse
from nuggets_trainer.comparison.options import arms_to_run
from tests.support.documented import recipe

NAMES = ("half_spoilt", "mixture", "natural", "anchors", "gsm8k", "gsm8k_anchors", "targeted")
HELDOUT = ("heldout_alpaca", "heldout_lima", "heldout_gsm8k", "heldout_alpaca_eval")


def read(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Sources of simulated rows, and the files made of them twice."""
    place = tmp_path_factory.mktemp("study")
    generator = np.random.default_rng(0)
    words = ["alpha", "beta", "gamma", "delta", "omega", "kappa"]
    for name, number_of_rows in (("a", 1000), ("b", 1700), ("lima", 700), ("more", 150), ("eval", 70)):
        rows = []
        for number in range(number_of_rows):
            output = " ".join(generator.choice(words, 14)) + f". {name}{number} is the last of them."
            rows.append({"instruction": f"{name} {number}", "input": None, "output": output})
        (place / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    problems = []
    for number in range(340):
        for writer in ("human", "model"):
            row = {"instruction": f"problem {number}", "output": f"{writer} {number}", "source_model": writer}
            problems.append({**row, "is_correct": writer == "human"})
    (place / "gsm8k.jsonl").write_text("\n".join(map(json.dumps, problems)))
    paths = {name: str(place / f"{name}.jsonl") for name in ("a", "b", "lima", "more", "gsm8k", "eval")}
    options = ["--alpaca", paths["a"], paths["b"], "--lima", paths["lima"], "--anchors", paths["more"]]
    options += ["--gsm8k", paths["gsm8k"], "--alpaca_eval", paths["eval"], "--output_dir"]
    for again in ("one", "two"):
        recipe("pools", Path("recipes/study")).main([*options, str(place / again)])
    return place


def test_the_spoilt_pool_is_spoilt_as_it_says(made):
    original = {}
    for name in ("a", "b"):
        original.update({row["instruction"]: row["output"] for row in read(made / f"{name}.jsonl")})
    by_kind: dict[str, list[dict[str, str]]] = {}
    for row in read(made / "one" / "half_spoilt.jsonl"):
        by_kind.setdefault(row["kind"], []).append(row)
    numbers = {kind: len(found) for kind, found in by_kind.items()}
    spoilt = ("noise", "refusal", "repeated", "shuffled", "mismatched", "truncated")
    assert numbers == {"clean": 780, **dict.fromkeys(spoilt, 130)}
    assert all(row["output"] == original[row["instruction"]] for row in by_kind["clean"])
    for row in by_kind["truncated"]:
        assert original[row["instruction"]].startswith(row["output"])
    for row in by_kind["shuffled"]:
        assert sorted(row["output"].split()) == sorted(original[row["instruction"]].split())
    for row in by_kind["mismatched"]:
        assert row["output"] != original[row["instruction"]] and row["output"] in original.values()


def test_the_same_sources_give_the_same_files(made):
    for name in (*NAMES, *HELDOUT):
        assert (made / "one" / f"{name}.jsonl").read_bytes() == (made / "two" / f"{name}.jsonl").read_bytes()


def test_nothing_held_out_is_in_a_pool_or_an_anchor(made):
    instructions = {}
    for name in (*NAMES, *HELDOUT):
        instructions[name] = {row["instruction"] for row in read(made / "one" / f"{name}.jsonl")}
    used = set().union(*(instructions[name] for name in NAMES if name != "mixture"))
    for name in HELDOUT:
        assert len(instructions[name]) == (40 if name == "heldout_gsm8k" else 60)
        assert not instructions[name] & used
    assert len(instructions["anchors"]) == 100 and len(instructions["gsm8k_anchors"]) == 30
    for pool in ("half_spoilt", "mixture", "natural"):
        assert not instructions["anchors"] & instructions[pool]
    assert not instructions["gsm8k_anchors"] & instructions["gsm8k"]


def test_gsm8k_is_split_by_problem(made):
    pool, heldout = read(made / "one" / "gsm8k.jsonl"), read(made / "one" / "heldout_gsm8k.jsonl")
    assert len(pool) == 540 and {row["source_model"] for row in pool} == {"human", "model"}
    assert {row["source_model"] for row in heldout} == {"human"}


def test_the_targeted_pool_has_one_solution_of_each_problem(made):
    by_source: dict[str, list[dict[str, str]]] = {"gsm8k": [], "other": []}
    for row in read(made / "one" / "targeted.jsonl"):
        by_source["gsm8k" if row["source"] == "gsm8k" else "other"].append(row)
    assert len(by_source["other"]) == 600 and len(by_source["gsm8k"]) == 100
    assert len({row["instruction"] for row in by_source["gsm8k"]}) == 100
    assert all(row["output"].startswith("human") for row in by_source["gsm8k"])
    natural = {row["instruction"] for row in read(made / "one" / "natural.jsonl")}
    assert {row["instruction"] for row in by_source["other"]} <= natural


def test_natural_rows_come_from_three_sources(made):
    sources = [row["source"] for row in read(made / "one" / "natural.jsonl")]
    assert {source: sources.count(source) for source in sources} == {
        "alpaca_first": 500,
        "alpaca_second": 600,
        "lima": 400,
    }


def test_the_config_of_the_study_is_read():
    rows = ["--dataset_name", "pool.jsonl", "--eval_dataset_name", '{"near": "a.jsonl", "far": "b.jsonl"}']
    scores = ["--scores", "gemma_golden=scores.parquet:golden_score", "gemma_gain=scores.parquet:gain"]
    _, args, _, nuggets, options, _ = parse(["--config", "recipes/study/study.yaml", *rows, *scores])
    names = [arm.name for arm in arms_to_run(options, nuggets)]
    assert {"golden", "gain_filtered", "random_length", "lowest_loss", "ica", "gemma_golden", "gemma_gain"} <= set(
        names
    )
    assert args.max_steps == 30 and nuggets.require is not None


def test_the_script_scores_with_the_anchors_of_the_log(made, tmp_path):
    """It gave GSM8K 30 anchors and all other pools 100, where the published numbers have 10, 16 and 100."""
    stand_in = tmp_path / "bin" / "nuggets"
    stand_in.parent.mkdir()
    stand_in.write_text("#!/usr/bin/env bash\nfor word; do printf '%s\\t' \"$word\"; done\necho\n")
    stand_in.chmod(0o755)
    path = f"{stand_in.parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "recipes/study/run.sh", str(made / "one"), str(tmp_path / "out")],
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        check=True,
    )
    numbers: dict[str, list[int]] = {}
    for line in done.stdout.splitlines():
        words = line.split("\t")
        pool, anchors = (Path(words[words.index(option) + 1]) for option in ("--dataset_name", "--anchors"))
        numbers.setdefault(pool.stem, []).append(len(read(anchors)))
        assert pool.is_file()
        if words[0] == "compare":
            heldout = json.loads(words[words.index("--eval_dataset_name") + 1])
            assert all(Path(place).is_file() for place in heldout.values()) and "alpaca_eval" in heldout
    # SmolLM2's scores, those of Gemma, the comparison
    few = [10, 10, 10]
    assert numbers == {"half_spoilt": [100, 16, 100], "natural": [16, 16, 16], "gsm8k": few, "targeted": few}
