"""`nuggets compare` and recipes/follows.py as a whole, on a few rows of the demo."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
import re
import shutil
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
from transformers.utils.logging import is_progress_bar_enabled

from nuggets_trainer import load_rows
from nuggets_trainer.commands import compare
from nuggets_trainer.comparison.arms import ARMS, DEFAULT_ARMS, QUICK_ARMS
from nuggets_trainer.comparison.job import draw_places
from nuggets_trainer.comparison.options import arms_to_run
from nuggets_trainer.comparison.runs import TuningRun, TuningRuns, read_run
from nuggets_trainer.demo import demo_path
from tests.support.harness_tasks import write_tasks
from tests.support.launch import ONE_PROCESS, ROOT, run, start


@pytest.fixture(autouse=True, scope="module")
def recipes():
    patch = pytest.MonkeyPatch()
    patch.syspath_prepend(str(ROOT / "recipes"))
    yield
    patch.undo()


OPTIONS = {
    "golden_fractions": ("0.1",),
    "num_seeds": ("1",),
    "max_steps": ("2",),
    "per_device_train_batch_size": ("4",),
    "num_resamples": ("200",),
    "signal_check": ("true",),
    "generation_metric": ("exact_match",),
    "num_generations": ("3",),
    # A config of training may have these; a run of a comparison does without.
    "eval_on_start": ("true",),
    "push_to_hub": ("true",),
    "enable_jit_checkpoint": ("true",),
}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Few rows of the demo, balanced."""
    directory = tmp_path_factory.mktemp("rows")
    for name, step in (("pool", 30), ("heldout", 20), ("anchors", 5)):
        rows = list(load_rows(f"nuggets-demo/{name}"))[::step]
        (directory / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return directory


def arguments(files: Path, output_dir: Path, **changes) -> list[str]:
    options = {**OPTIONS, **{name: str(value).split() for name, value in changes.items()}}
    rows = ["--dataset_name", files / "pool.jsonl", "--eval_dataset_name", files / "heldout.jsonl"]
    rows += ["--anchors", files / "anchors.jsonl", "--output_dir", output_dir, "--use_cpu", "true"]
    named = [word for name, values in options.items() for word in (f"--{name}", *values)]
    return ["--config", str(ROOT / "configs" / "compare_demo.yaml"), *map(str, rows), *named]


def compare_in_process(*arguments_, **changes):
    return list(compare.run(*compare.parse(arguments(*arguments_, **changes))).lines)


@pytest.fixture(scope="module")
def finished(files, tmp_path_factory):
    output_dir = tmp_path_factory.mktemp("compared") / "out"
    return output_dir, compare_in_process(files, output_dir)


def runs_of(output_dir: Path) -> dict[str, list[float]]:
    return {p.name: json.loads(p.read_text())["run"]["losses"] for p in (output_dir / "runs").glob("*.json")}


def test_all_arms_are_there_and_take_as_many_steps(finished):
    _, lines = finished
    found = [(line.arm, line.fraction) for line in lines]
    others = [arm for arm in DEFAULT_ARMS if arm != "full"]
    assert found == [("base", None), ("full", None), *((arm, 0.1) for arm in others)]
    assert {line.steps for line in lines if line.arm != "base"} == {2}
    assert {line.num_rows for line in lines if line.fraction == 0.1} == {6}
    assert all(line.minus_random is not None for line in lines if line.fraction and line.arm != "random")
    assert all(line.golden_share == 1 for line in lines if line.arm == "golden")
    assert next(line for line in lines if line.arm == "bottom").golden_share == 0
    assert all(line.choosing_seconds for line in lines if line.arm in ("golden", "ifd", "random_length"))


def test_the_table_is_the_one_of_the_json(finished):
    output_dir, lines = finished
    stored = json.loads((output_dir / "compare.json").read_text())
    assert [line["loss"] for line in stored["lines"]] == [line.loss for line in lines]
    report = (output_dir / "compare.md").read_text()
    rows = [row.split("|")[1:-1] for row in report.splitlines() if row.startswith("|")]
    size = 2 + len(lines)
    rows, measures, costs = rows[:size], rows[size : 2 * size], rows[2 * size :]
    assert measures[0][2].strip() == "exact_match"
    assert [row[1].strip() for row in measures[2:]] == [row[1].strip() for row in rows[2:]]
    for row, line in zip(rows[2:], stored["lines"], strict=True):
        cells = [cell.strip() for cell in row]
        assert cells[1] == line["label"] and cells[3] == f"{line['loss']:.4f}"  # one seed
        assert line["seed_deviation"] is None and line["interval"] is None
        difference = [float(number) for number in re.findall(r"[+-]\d+\.\d+", cells[4])]
        assert difference == pytest.approx((line["minus_random"] or [])[:1], abs=6e-5)
    assert "One seed cannot tell how far another would be from it" in report
    assert report.startswith(stored["verdict"]["sentence"]) and stored["verdict"]["arm"] == "golden"
    assert [cost[0].strip() for cost in costs[2:]] == [cost["label"] for cost in stored["costs"]]
    by_arm = {cost["arm"]: cost for cost in stored["costs"]}
    assert set(by_arm) == set(DEFAULT_ARMS) and by_arm["random"]["selection_to_training"] == 0
    golden, full = by_arm["golden"], by_arm["full"]
    assert golden["selection_to_training"] == golden["choosing_seconds"] / full["training_seconds"]
    assert by_arm["lowest_loss"]["choosing_seconds"] < golden["choosing_seconds"]
    assert set(stored["contamination"]["rows"]) == {""} and stored["contamination"]["says"] in report
    assert stored["signal_check"]["corruptions"] and stored["follows"]["reliability"][0]["k"] == 6
    assert {a["column"] for a in stored["follows"]["associations"]} >= {"completion_loss", "ifd", "corruption"}
    assert (output_dir / "compare.svg").read_text().startswith("<?xml")


def test_the_arm_ifd_takes_the_column_of_the_scores(finished):
    """It had another meaning: BOS alone stood before a completion without its prompt."""
    output_dir, lines = finished
    scores = pq.read_table(output_dir / "nuggets" / "scores.parquet")
    ifd = scores["ifd"].to_numpy(zero_copy_only=False)
    expected = np.flatnonzero(ifd <= 1)
    expected = expected[np.argsort(-ifd[expected], kind="stable")][:6]
    golden = np.flatnonzero(scores["selected"].to_numpy(zero_copy_only=False))
    share = np.isin(expected, golden).mean()
    assert next(line for line in lines if line.arm == "ifd").golden_share == pytest.approx(share)
    costs = json.loads((output_dir / "costs.json").read_text())
    assert set(costs) == {"scoring", "signals", "ica"} and costs["signals"]["share"] == 1


def test_losses_are_those_that_trl_evaluates(finished, files, tmp_path):
    """The arm `base`: TRL's own mean over all tokens of the held-out rows."""
    from trl import SFTConfig, SFTTrainer

    from nuggets_trainer.demo import demo_path
    from nuggets_trainer.prompts.trl_columns import alpaca_to_trl

    _, lines = finished
    rows = alpaca_to_trl(load_rows(str(files / "heldout.jsonl")), "chat")
    args = SFTConfig(str(tmp_path), report_to="none", use_cpu=True, bf16=False, per_device_eval_batch_size=64)
    trainer = SFTTrainer(str(demo_path("model")), args, train_dataset=rows, eval_dataset=rows)
    assert lines[0].loss == pytest.approx(trainer.evaluate()["eval_loss"], abs=1e-5)


@pytest.mark.parametrize("num_anchors", [3, 5])
def test_rows_and_places_as_users_have_them(num_anchors, files, tmp_path):
    """A list column, an anchor of the pool listed twice, few anchors, scores in a place of their own: all crashed.

    The anchor that is listed twice counts once, so one less is scored.
    """
    rows = [json.loads(line) for line in (files / "pool.jsonl").read_text().splitlines()]
    anchors = [rows[0], rows[0], *map(json.loads, (files / "anchors.jsonl").read_text().splitlines())][:num_anchors]
    tagged = [{**row, "tags": ["a", "b"][: i % 3]} for i, row in enumerate(rows[:24])]
    for name, content in (("pool", tagged), ("anchors", anchors)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in content))
    shutil.copy(files / "heldout.jsonl", tmp_path)
    output_dir, score_dir = tmp_path / "new" / "out", tmp_path / "scores"
    changes = {"arms": "golden random", "max_steps": 1, "signal_check": "false", "score_dir": score_dir}
    lines = compare_in_process(tmp_path, output_dir, **changes)
    assert [line.arm for line in lines] == ["base", "golden", "random"] and (score_dir / "scores.parquet").is_file()
    found = json.loads((output_dir / "compare.json").read_text())["follows"]
    assert "tags" not in {association["column"] for association in found["associations"]}
    assert len(found["reliability"]) == (num_anchors >= 4)
    few = "takes 4 of them, and 2 anchors could be scored" in (output_dir / "compare.md").read_text()
    assert few == (num_anchors < 4)


def test_one_arm_keeps_the_best_rows_of_each_prompt(files, tmp_path, monkeypatch):
    """The option was refused."""
    rows = [json.loads(line) for line in (files / "pool.jsonl").read_text().splitlines()]
    repeated = [{**row, "instruction": f"Task {i % 8}", "input": ""} for i, row in enumerate(rows[:24])]
    (tmp_path / "pool.jsonl").write_text("".join(json.dumps(row) + "\n" for row in repeated))
    for name in ("heldout", "anchors"):
        shutil.copy(files / f"{name}.jsonl", tmp_path)
    taken = []

    def compute(runs, rows, seed, steps):
        taken.append(rows.tolist())
        return TuningRun([1.0 + len(taken)] * len(runs.segments), 2, 1.0, 1.0, None)

    monkeypatch.setattr(TuningRuns, "_compute", compute)
    options = {"golden_fractions": 0.5, "signal_check": "false", "max_rows_per_prompt": 1}
    words = arguments(tmp_path, tmp_path / "out", arms="golden golden_by_prompt", **options)
    found = compare.run(*compare.parse(words))
    assert [(line.arm, line.num_rows) for line in found.lines[1:]] == [("golden", 12), ("golden_by_prompt", 8)]
    by_prompt = {}
    scores = pq.read_table(tmp_path / "out" / "nuggets" / "scores.parquet")
    ranks = scores["rank"].to_numpy(zero_copy_only=False)
    for i in np.argsort(ranks).tolist():
        by_prompt.setdefault(i % 8, i)
    assert sorted(taken[-1]) == sorted(by_prompt.values()) and min(ranks) == 1
    _, _, _, nuggets, chosen = compare.parse(arguments(tmp_path, tmp_path / "out", max_rows_per_prompt=2))[:5]
    assert [arm.name for arm in arms_to_run(chosen, nuggets)] == [*DEFAULT_ARMS, "golden_by_prompt"]


def test_scores_of_other_programs_are_arms(files, finished, tmp_path, monkeypatch):
    """By rows in another order and by anchor, with controls of the same lengths; what is wrong is told before work."""
    pool = [json.loads(line) for line in (files / "pool.jsonl").read_text().splitlines()]
    lengths = [len(row["output"]) for row in pool]
    scored = [{**row, "tool": {"length": size}} for row, size in zip(pool, lengths, strict=True)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in reversed(scored)))
    noise = np.random.default_rng(0).normal(size=(len(pool), 8))
    by_anchor = Dataset.from_dict({"index": list(range(len(pool))), "values": (noise - np.array(lengths)[:, None])})
    by_anchor.to_parquet(tmp_path / "anchors.parquet")
    scores = [
        f"{name}={tmp_path}/{place}"
        for name, place in (("long", "rows.jsonl:tool.length"), ("short", "anchors.parquet"))
    ]
    shutil.copytree(finished[0] / "nuggets", tmp_path / "out" / "nuggets")
    words = arguments(files, tmp_path / "out", arms="golden random random_length", signal_check="false")
    words += ["--scores", scores[0], f"--scores={scores[1]}"]
    taken = {}
    monkeypatch.setattr(TuningRuns, "_compute", lambda runs, rows, seed, steps: pytest.fail("a run was started"))
    with pytest.raises(
        ValueError, match="`--scores short=.*: there is no column 'valus'. Its columns are index, values"
    ):
        compare.run(*compare.parse([*words[:-1], f"--scores={scores[1]}:valus"]))

    def compute(runs, rows, seed, steps):
        taken[seed, len(taken)] = rows
        return TuningRun([1.0 + len(taken)] * len(runs.segments), 2, 1.0, 1.0, None)

    monkeypatch.setattr(TuningRuns, "_compute", compute)
    found = compare.run(*compare.parse(words))
    assert [line.arm for line in found.lines[-4:]] == ["long", "long_length", "short", "short_length"]
    sizes = [np.array(lengths)[rows] for rows in list(taken.values())[-4:]]
    most = np.sort(lengths)
    assert np.sort(sizes[0]).tolist() == most[-6:].tolist() and sizes[2].max() < np.median(lengths)
    assert abs(sizes[1].mean() - sizes[0].mean()) < 5 and abs(sizes[3].mean() - sizes[2].mean()) < 5
    stored = json.loads((tmp_path / "out" / "compare.json").read_text())
    assert stored["reliability_of_scores"]["short"][0]["mean_gain"] > 0.9
    report = (tmp_path / "out" / "compare.md").read_text()
    assert "short, 6 rows: reliability" in report and "best by long" in report and "random, as long as short" in report
    assert {a["column"] for a in stored["follows"]["associations"]} >= {"long", "short"}
    assert {cost["choosing_seconds"] for cost in stored["costs"] if cost["arm"] in ("long", "short")} == {None}


SCRIPT = """
import json, sys
import pandas as pd, torch
from transformers import AutoModelForCausalLM, AutoTokenizer
pool, model_dir, output = sys.argv[1:]
model, tokenizer = AutoModelForCausalLM.from_pretrained(model_dir), AutoTokenizer.from_pretrained(model_dir)
def loss(prompt, text):
    before = tokenizer(prompt)["input_ids"]
    after = tokenizer(text, add_special_tokens=False)["input_ids"]
    ids, labels = torch.tensor([before + after]), torch.tensor([[-100] * len(before) + after])
    with torch.no_grad():
        return model(input_ids=ids, labels=labels).loss.item()
rows = [json.loads(line) for line in open(pool)]
ifd = [loss(row["instruction"], row["output"]) / loss("", row["output"]) for row in rows]
pd.DataFrame({"index": range(len(rows)), "ifd": ifd}).to_parquet(output)
"""


@pytest.mark.slow
@pytest.mark.parametrize("program", ["wana", "script"])
def test_ifd_of_another_program_end_to_end(program, files, finished, tmp_path):
    """`pip install wana`, or a script of one's own, scores the pool; the comparison tunes on its best rows."""
    pool, model = str(files / "pool.jsonl"), str(demo_path("model"))
    if program == "wana":
        if importlib.util.find_spec("wana") is None:
            pytest.skip("needs the package wana")
        scores = f"{tmp_path / 'scored.jsonl'}:wana.scores.ifd"
        options = ["--provider", "transformers_cpu", "--model", model]
        run([sys.executable, "-m", "wana", "score", pool, "-o", str(tmp_path / "scored.jsonl"), *options])
    else:
        scores = str(tmp_path / "ifd.parquet")
        run([sys.executable, "-c", SCRIPT, pool, model, scores])
    shutil.copytree(finished[0], tmp_path / "out")
    changes = {"arms": "golden random random_length", "num_seeds": 2, "scores": f"other_ifd={scores}"}
    lines = compare_in_process(files, tmp_path / "out", **changes)
    assert [line.arm for line in lines[-2:]] == ["other_ifd", "other_ifd_length"]
    assert all(line.minus_random is not None and line.interval is not None for line in lines[-2:])
    associations = json.loads((tmp_path / "out" / "compare.json").read_text())["follows"]["associations"]
    found = {association["column"]: association["value"] for association in associations}
    assert found["other_ifd"] * found["ifd"] > 0  # both see the same thing


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of lm_eval
def test_several_heldout_sets_and_tasks_end_to_end(files, tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    other = tmp_path / "other.jsonl"
    other.write_text("".join(line + "\n" for line in (files / "pool.jsonl").read_text().splitlines()[:5]))
    changes = {"arms": "golden random", "num_seeds": 2, "max_steps": 1, "signal_check": "false"}
    words = arguments(files, tmp_path / "out", **changes)
    words[words.index("--eval_dataset_name") + 1] = json.dumps(
        {"in_domain": str(files / "heldout.jsonl"), "other": str(other)}
    )
    expected = ["loss of other", "exact_match of in_domain", "exact_match of other"]
    if importlib.util.find_spec("lm_eval") is not None:
        options = json.dumps({"include_path": write_tasks(tmp_path), "limit": 4, "apply_chat_template": True})
        words += ["--lm_eval_tasks", "tiny_choice", "tiny_answer", "--lm_eval_args", options]
        expected += ["tiny_choice acc", "tiny_choice acc_norm", "tiny_answer exact_match"]
    found = compare.run(*compare.parse(words))
    assert list(dict.fromkeys(line.measure for line in found.measures)) == expected
    by_name = {(line.measure, line.arm): line for line in found.measures}
    assert by_name["loss of other", "golden"].minus_random[1] is not None
    assert by_name["loss of other", "base"].mean != found.lines[0].loss
    assert found.lines[0].generation == by_name["exact_match of in_domain", "base"].mean
    report = (tmp_path / "out" / "compare.md").read_text()
    assert all(name in report for name in expected) and "Other measures: the mean over rows" in report
    raw = pq.read_table(tmp_path / "out" / "compare_runs.parquet")
    assert set(raw["measure"].to_pylist()) == {"loss", *expected} and raw.num_rows == 3 * 2 * (1 + len(expected))
    monkeypatch.setattr(TuningRuns, "_compute", lambda *_: pytest.fail("everything is on disk"))
    again = compare.run(*compare.parse(words))
    assert [dataclasses.asdict(line) for line in again.measures] == [
        dataclasses.asdict(line) for line in found.measures
    ]


def test_an_arm_without_rows_stops_before_any_run(files, tmp_path, finished, monkeypatch):
    """Arms were chosen one by one, so that the last one failed when all others were trained."""
    nothing = dataclasses.replace(ARMS["ifd"], choose=lambda *_: np.array([], dtype=np.int64))
    monkeypatch.setitem(ARMS, "ifd", nothing)
    monkeypatch.setattr(TuningRuns, "_compute", lambda *_: pytest.fail("a run was started"))
    shutil.copytree(finished[0] / "nuggets", tmp_path / "out" / "nuggets")
    with pytest.raises(ValueError, match="The arm `ifd` found no row at all"):
        compare_in_process(files, tmp_path / "out", arms="golden ifd", generation_metric="rouge_l")


@pytest.mark.slow
def test_a_comparison_killed_between_runs_continues(finished, files, tmp_path, monkeypatch):
    expected, _ = finished
    output_dir = tmp_path / "out"
    shutil.copytree(expected / "nuggets", output_dir / "nuggets")  # the scores, which have tests of their own
    compute, computed = TuningRuns._compute, []

    def fail_late(runs, *run):
        if len(computed) == 3:
            raise RuntimeError("out of luck")
        computed.append(1)
        return compute(runs, *run)

    monkeypatch.setattr(TuningRuns, "_compute", fail_late)
    changes = {"num_seeds": 2, "arms": "random golden"}
    with pytest.raises(RuntimeError, match="out of luck"):
        compare_in_process(files, output_dir, **changes)
    before = {p.name: p.stat().st_mtime_ns for p in (output_dir / "runs").glob("*.json")}
    assert len(before) == 3
    monkeypatch.setattr(TuningRuns, "_compute", compute)
    again = compare_in_process(files, output_dir, **changes)
    after = {p.name: p.stat().st_mtime_ns for p in (output_dir / "runs").glob("*.json")}
    assert after.items() >= before.items() and len(after) == 1 + 2 * 2  # none is run twice
    assert [line.num_seeds for line in again] == [2, 2, 2] and again[1].seed_deviation > 0
    common = runs_of(output_dir).keys() & runs_of(expected).keys()  # the base model, and both arms with the first seed
    assert len(common) == 3 and all(runs_of(output_dir)[name] == runs_of(expected)[name] for name in common)

    monkeypatch.setattr(TuningRuns, "_compute", lambda *_: pytest.fail("everything is on disk"))
    compare_in_process(files, output_dir, **changes)
    with pytest.raises(pytest.fail.Exception, match="everything is on disk"):
        compare_in_process(files, output_dir, **changes, learning_rate=1e-3)  # never mixed in


def test_the_runs_of_a_comparison_show_no_bars(finished, files, capfd):
    """Each run showed `Loading weights`, and the bars of datasets stayed off for the whole process."""
    enable_progress_bars()
    try:
        compare_in_process(files, finished[0])
        assert not are_progress_bars_disabled() and is_progress_bar_enabled()
    finally:
        disable_progress_bars()
    shown = capfd.readouterr().err
    assert set(re.findall(r"([\w ]+): +0%", shown)) == {"Loading weights"}
    assert len(re.findall(r"Loading weights: +0%", shown)) == 1  # the scorer's, before the first run


def test_a_quick_comparison_finds_the_golden_set_by_a_race(files, tmp_path, capsys):
    """Its options win over a config file, and those of the command line over it; the full files stay."""
    changes = {"signal_check": "false", "generation_metric": "exact_match"}
    words = arguments(files, tmp_path / "out", max_steps=1, **changes)
    at = words.index("--golden_fractions")
    parsed = compare.parse([*words[:at], *words[at + 2 :], "--quick"])
    assert parsed[4].golden_fractions == [0.1] and parsed[4].num_seeds == 1 and parsed[4].arms is None
    found = compare.run(*parsed)
    assert [line.arm for line in found.lines] == ["base", "full", *(arm for arm in QUICK_ARMS if arm != "full")]
    assert capsys.readouterr().out.startswith(found.verdict.sentence) and found.follows is None
    assert sorted(path.name for path in (tmp_path / "out").glob("compare*")) == [
        "compare_quick.json", "compare_quick.md", "compare_quick.svg", "compare_quick_runs.parquet"
    ]  # fmt: skip
    run_info = json.loads((tmp_path / "out" / "nuggets" / "run.json").read_text())
    assert run_info["config"]["schedule"] == "race" and run_info["config"]["top_fraction"] == 0.1


def test_files_of_scores_have_the_columns_of_the_pool(files, tmp_path):
    """Rows under names of their own are matched by their texts, not by the order of the lines."""
    rows = [json.loads(line) for line in (files / "pool.jsonl").read_text().splitlines()]
    lines = []
    for i, row in enumerate(rows):
        lines.append(
            {"question": row["instruction"], "input": row.get("input", ""), "answer": row["output"], "own": i}
        )
    pool, scores = tmp_path / "pool.jsonl", tmp_path / "scores.jsonl"
    pool.write_text("".join(json.dumps(line) + "\n" for line in lines))
    lines[0] = {**lines[0], "question": "Who is not in the pool?"}
    scores.write_text("".join(json.dumps(line) + "\n" for line in reversed(lines)))
    columns = "instruction=question input=input output=answer"
    words = arguments(files, tmp_path / "out", columns=columns, dataset_name=pool, scores=f"mine={scores}:own")
    with pytest.raises(ValueError, match=f"1 of {len(rows)} rows of the pool are not in the file: 0"):
        compare.run(*compare.parse(words))


def test_a_quick_comparison_draws_rows_from_the_whole_pool():
    """The first rows of a sorted pool are of one kind."""
    drawn = draw_places(100, 20, "the pool").tolist()
    assert len(set(drawn)) == 20 and drawn == sorted(drawn) and max(drawn) >= 80
    assert draw_places(100, 20, "the pool").tolist() == drawn
    assert draw_places(20, 20, "the pool").tolist() == list(range(20))


def test_a_damaged_run_is_no_run(finished):
    path = sorted((finished[0] / "runs").glob("*.json"))[0]
    key = json.loads(path.read_text())["key"]
    assert read_run(path, key) is not None and read_run(path, {**key, "seed": -1}) is None
    torn = path.with_suffix(".torn")
    torn.write_text(path.read_text()[:50])
    assert read_run(torn, key) is None


@pytest.mark.slow
def test_a_killed_process_continues(finished, files, tmp_path):
    expected, _ = finished
    command = [*ONE_PROCESS, "recipes/compare.py", *arguments(files, tmp_path / "out")]
    process = start(command)
    while len(list((tmp_path / "out").glob("runs/*.json"))) < 3:
        assert process.poll() is None
        time.sleep(0.2)
    os.killpg(process.pid, signal.SIGKILL)  # the launcher alone would leave the comparison to go on to its end
    process.communicate()
    assert not (tmp_path / "out" / "compare.json").exists()
    run(command)
    assert runs_of(tmp_path / "out") == runs_of(expected)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_comparison_killed_in_every_run_continues(files, tmp_path):
    """SIGKILL, again and again: each time one more run is done, so that every arm was killed once and continued."""
    changes = {"arms": " ".join(ARMS), "require": "ifd<1.5"}
    expected = tmp_path / "expected"
    compare_in_process(files, expected, **changes)
    command = [*ONE_PROCESS, "recipes/compare.py", *arguments(files, tmp_path / "out", **changes)]
    num_runs = len(runs_of(expected))
    for done in range(num_runs):
        process = start(command)
        while len(list((tmp_path / "out").glob("runs/*.json"))) < done:
            assert process.poll() is None
            time.sleep(0.02)
        time.sleep(0.2)  # into the next run, or, at first, into the scoring
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    assert not (tmp_path / "out" / "compare.json").exists()
    run(command)
    assert runs_of(tmp_path / "out") == runs_of(expected)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"arms": "goldn"}, "`arms` must be one of golden, full, random"),
        ({"golden_fractions": "10"}, r"`golden_fractions` must be between 0 and 1, got 10.0. Write 0.1 for 10%"),
        ({"scores": "ifd=a.parquet"}, "must have names that no other arm has, got 'ifd'. Call it my_ifd"),
        ({"scores": "mine=a.txt"}, "`scores` must be NAME=FILE or NAME=FILE:COLUMN"),
        ({"lm_eval_args": '{"limit":3}'}, "`lm_eval_args` needs `lm_eval_tasks`"),
        ({"num_seeds": 0}, "`num_seeds` must be at least 1"),
        ({"budget": "tokens"}, "`budget` must be one of steps, epochs|invalid choice"),
        ({"top_k": 5}, "`top_k` is not supported .*, got 5: it gives one size. Set `golden_fractions`"),
        ({"reselect": "epoch"}, "`reselect` is not supported by `nuggets compare`"),
        ({"packing": "true"}, "`packing` must be false .* arms of short rows would get fewer steps"),
        ({"rank_by": "gain"}, "`rank_by` is not supported .* add the arm `gain` to `arms`"),
        ({"group_by": "family"}, "`group_by` is not supported .* limits which rows go together"),
        ({"arms": "golden", "max_rows_per_prompt": 1}, "only applies to the arm golden_by_prompt, which is not in"),
        ({"group_by": "num_tokens"}, "Drop it, and add the arm `golden_by_length` to `arms`"),
        ({"arms": "golden golden_filtered"}, "The arm `golden_filtered` needs a condition. Give `require`"),
        ({"arms": "golden", "require": "ifd<1"}, "`require` only applies to the arms golden_filtered, "),
        ({"require": "ifd ~ 1"}, "`require`"),
        ({"golden_fractions": "0.1 0.2", "quick": "true"}, "`quick` compares one size, got 2 `golden_fractions`"),
    ],
)
def test_what_it_cannot_compare_is_refused_before_any_work(changes, message, files, tmp_path, capsys):
    try:
        compare.parse(arguments(files, tmp_path, **changes))
    except (ValueError, TypeError) as error:
        assert re.search(message, str(error)), str(error)
    except SystemExit:
        assert re.search(message, capsys.readouterr().err)
    else:
        pytest.fail("was not refused")
    with pytest.raises(ValueError, match=r"needs --eval_dataset_name"):
        compare.parse(["--model_name_or_path", "m", "--dataset_name", "d", "--use_cpu", "--bf16", "false"])
    with pytest.raises(ValueError, match=r"needs --dataset_name, --eval_dataset_name"):  # and not the demo's
        compare.parse(["--model-name-or-path", "m", "--use_cpu", "--bf16", "false"])


@pytest.mark.slow
def test_equal_epochs_depend_on_the_rows_of_an_arm(files, tmp_path, finished):
    shutil.copytree(finished[0] / "nuggets", tmp_path / "out" / "nuggets")
    lines = compare_in_process(
        files, tmp_path / "out", budget="epochs", num_train_epochs=1, max_steps=-1, golden_fractions=0.25, num_seeds=1,
        arms="golden random full",
    )  # fmt: skip
    steps = {line.arm: line.steps for line in lines}
    assert steps["golden"] == steps["random"] == 4 and steps["full"] == 16  # 15 and 62 rows in batches of 4


def test_the_base_model_completes_what_it_knows(finished):
    """Greedy completions of clean held-out prompts, through the chat template."""
    _, lines = finished
    assert all(line.generation is not None and 0 <= line.generation <= 1 for line in lines)
    assert lines[0].generation >= 0.5


def test_what_scores_follow_is_read_from_disk(finished, files, capsys):
    import follows

    output_dir, _ = finished
    options = ["--score_dir", str(output_dir / "nuggets"), "--dataset_name", str(files / "pool.jsonl")]
    found = follows.main(*follows.parse([*options, "--group_by", "family", "--columns", "corruption"]))
    by_column = {a["column"]: a for a in found["associations"]}
    assert by_column["corruption"]["value"] > 0.8 and by_column["corruption"]["means"]["clean"] > 0.9
    assert (
        found["within_groups"]["completion_characters"]["plain"]["groups"] == 8
    )  # one family has golden scores that do not differ
    assert "golden score against corruption: eta squared" in capsys.readouterr().out
    with pytest.raises(ValueError, match="`familly` must be a column"):
        follows.main(*follows.parse([*options, "--group_by", "familly"]))
    with pytest.raises(ValueError, match="Give the rows that were scored"):
        follows.main(*follows.parse([*options[:3], str(files / "heldout.jsonl")]))


def test_anchors_that_are_held_out_rows_are_refused_before_scoring(files, tmp_path):
    """The golden set would be chosen by the test that it is measured on."""
    mixed = tmp_path / "anchors.jsonl"
    heldout = (files / "heldout.jsonl").read_text().splitlines(keepends=True)
    mixed.write_text((files / "anchors.jsonl").read_text() + heldout[2])
    number = len(mixed.read_text().splitlines())
    with pytest.raises(
        ValueError, match=rf"1 anchor of {number} are held-out rows \(anchor {number - 1} is row 2\).*training split"
    ):
        compare_in_process(files, tmp_path / "out", anchors=mixed)
    assert not (tmp_path / "out" / "nuggets").exists()
