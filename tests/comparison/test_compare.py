"""recipes/compare.py: the arms, the intervals, and the whole of it on a few rows of the demo."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from nuggets_trainer import load_rows
from nuggets_trainer.golden.scores import golden_scores
from tests.support.launch import ONE_PROCESS, ROOT, run, start


@pytest.fixture(autouse=True, scope="module")
def recipes():
    patch = pytest.MonkeyPatch()
    patch.syspath_prepend(str(ROOT / "recipes"))
    yield
    patch.undo()


@pytest.fixture(scope="module")
def evidence():
    from compare_arms import Evidence

    generator = np.random.default_rng(0)
    one_shot = generator.normal(np.linspace(-1, 1, 200)[:, None], 1, (200, 20))
    one_shot[7] = np.nan  # dropped
    lengths = generator.integers(5, 30, 200)
    return Evidence(np.zeros(20), one_shot, lengths, generator.uniform(0.5, 1.5, 200), 0.5)


def test_every_arm_takes_as_many_different_rows_that_have_a_score(evidence):
    from compare_arms import ARMS

    for name, arm in ARMS.items():
        rows = arm(evidence, 20, 3)
        assert len(rows) == len(set(rows.tolist())) == (199 if name == "full" else 20), name
        assert 7 not in rows
        np.testing.assert_array_equal(rows, arm(evidence, 20, 3))
        same = np.array_equal(np.sort(rows), np.sort(arm(evidence, 20, 4)))
        assert same != name.startswith("random"), name


def test_arms_take_what_they_say(evidence):
    from compare_arms import ARMS

    scores = golden_scores(evidence.zero_shot, evidence.one_shot)
    golden, bottom = ARMS["golden"](evidence, 20, 0), ARMS["bottom"](evidence, 20, 0)
    assert scores.golden_score[golden].min() >= np.nanpercentile(scores.golden_score, 88)
    assert scores.golden_score[bottom].max() <= np.nanpercentile(scores.golden_score, 12)
    gain = np.where(np.isnan(scores.mean_gain), -np.inf, scores.mean_gain)
    assert set(ARMS["mean_gain"](evidence, 20, 0)) == set(np.argsort(-gain)[:20])
    assert evidence.lengths[ARMS["longest"](evidence, 20, 0)].min() >= np.sort(evidence.lengths)[-21]
    ifd = evidence.ifd[ARMS["ifd"](evidence, 20, 0)]
    assert ifd.max() <= 1 and ifd.min() >= np.sort(evidence.ifd[evidence.ifd <= 1])[-22]
    assert len(ARMS["ifd"](evidence, 190, 0)) == (evidence.ifd[evidence.ranked] <= 1).sum()  # there are no more
    ranking = dataclasses.replace(evidence, coverage_weight=1e-9)
    assert len(set(ARMS["coverage"](ranking, 20, 0)) & set(golden)) >= 19
    one_shot = -np.ones((20, 20))
    one_shot[:10, :12] = one_shot[10:, 12:] = 1.0  # two kinds of rows, each helps other anchors
    kinds = dataclasses.replace(evidence, one_shot=one_shot, coverage_weight=0.9)
    assert set(ARMS["golden"](kinds, 10, 0)) == set(range(10))
    assert 2 <= (ARMS["coverage"](kinds, 10, 0) >= 10).sum() <= 8


def test_length_matched_random_rows_have_the_lengths_of_the_golden_set(evidence):
    from compare_arms import ARMS

    wanted = np.sort(evidence.lengths[ARMS["golden"](evidence, 20, 0)])
    differences, rows = [], []
    for seed in range(20):
        rows.append(ARMS["random_length"](evidence, 20, seed))
        differences.append(np.abs(np.sort(evidence.lengths[rows[-1]]) - wanted).mean())
    assert np.mean(differences) < 0.3  # tokens
    by_chance = [
        np.abs(np.sort(evidence.lengths[ARMS["random"](evidence, 20, seed)]) - wanted).mean() for seed in range(20)
    ]
    assert np.mean(by_chance) > 3 * np.mean(differences)
    assert len({tuple(sorted(r)) for r in rows}) > 15  # and they are drawn anew
    golden = set(ARMS["golden"](evidence, 20, 0).tolist())
    assert np.mean([len(golden & set(r.tolist())) for r in rows]) < 10


def test_intervals_are_those_of_resampling_one_by_one():
    from compare_table import Bootstrap

    generator = np.random.default_rng(0)
    tokens = generator.integers(1, 9, 30)
    a, b = generator.gamma(2, 1, (3, 30)), generator.gamma(2, 1, (3, 30))
    found = Bootstrap(tokens, 3, 2000).difference(a, b)
    draws = []
    for _ in range(2000):
        rows, seeds = generator.integers(0, 30, 30), generator.integers(0, 3, 3)
        one, other = (np.average(x[seeds].mean(axis=0)[rows], weights=tokens[rows]) for x in (a, b))
        draws.append(one - other)
    assert found[0] == pytest.approx(np.average((a - b).mean(axis=0), weights=tokens))
    assert found[1:] == pytest.approx(np.quantile(draws, [0.025, 0.975]), abs=0.1)


def test_differences_are_paired():
    """Rows that are hard for both arms widen neither: only what differs counts."""
    from compare_table import Bootstrap

    generator = np.random.default_rng(0)
    hard = generator.gamma(1, 5, 50) + np.zeros((4, 1))
    a, b = hard + generator.normal(0, 0.1, (4, 50)), hard + 0.2 + generator.normal(0, 0.1, (4, 50))
    bootstrap = Bootstrap(np.ones(50, dtype=np.int64), 4, 1000)
    value, low, high = bootstrap.difference(a, b)
    assert low < value < high < 0 and high - low < 0.1
    interval = bootstrap.interval(a)
    assert interval[1] - interval[0] > 1


OPTIONS = {
    "golden_fractions": ("0.1",),
    "num_seeds": ("1",),
    "max_steps": ("2",),
    "per_device_train_batch_size": ("4",),
    "num_resamples": ("200",),
    "signal_check": ("true",),
    "generation_metric": ("exact_match",),
    "num_generations": ("3",),
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
    import compare

    return compare.main(*compare.parse(arguments(*arguments_, **changes)))


@pytest.fixture(scope="module")
def finished(files, tmp_path_factory):
    output_dir = tmp_path_factory.mktemp("compared") / "out"
    return output_dir, compare_in_process(files, output_dir)


def runs_of(output_dir: Path) -> dict[str, list[float]]:
    return {p.name: json.loads(p.read_text())["run"]["losses"] for p in (output_dir / "runs").glob("*.json")}


def test_all_arms_are_there_and_take_as_many_steps(finished):
    from compare_arms import ARMS

    _, lines = finished
    found = [(line.arm, line.fraction) for line in lines]
    others = [arm for arm in ARMS if arm != "full"]
    assert found == [("base", None), ("full", None), *((arm, 0.1) for arm in others)]
    assert {line.steps for line in lines if line.arm != "base"} == {2}
    assert {line.num_rows for line in lines if line.fraction == 0.1} == {6}
    assert all(line.minus_random is not None for line in lines if line.fraction and line.arm != "random")
    assert all(line.golden_share == 1 for line in lines if line.arm == "golden")
    assert next(line for line in lines if line.arm == "bottom").golden_share == 0
    assert all(line.choosing_seconds for line in lines if line.arm in ("golden", "ifd", "random_length"))


def test_the_table_is_the_one_of_the_json(finished):
    from compare_arms import LABELS

    output_dir, lines = finished
    stored = json.loads((output_dir / "compare.json").read_text())
    assert [line["loss"] for line in stored["lines"]] == [line.loss for line in lines]
    rows = [row.split("|")[1:-1] for row in (output_dir / "compare.md").read_text().splitlines() if row[:1] == "|"]
    assert len(rows) == 2 + len(lines)
    for row, line in zip(rows[2:], stored["lines"], strict=True):
        cells = [cell.strip() for cell in row]
        assert cells[1] == LABELS[line["arm"]] and cells[3] == f"{line['loss']:.4f} +- {line['seed_deviation']:.4f}"
        difference = [float(number) for number in re.findall(r"[+-]\d+\.\d+", cells[4])]
        assert difference == pytest.approx(line["minus_random"] or [], abs=6e-5)
    assert stored["signal_check"]["corruptions"] and stored["follows"]["reliability"][0]["k"] == 6
    assert {a["column"] for a in stored["follows"]["associations"]} >= {"completion_loss", "ifd", "corruption"}
    assert (output_dir / "compare.svg").read_text().startswith("<?xml")


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


@pytest.mark.slow
def test_killed_between_runs_and_continued_it_gives_the_same(finished, files, tmp_path, monkeypatch):
    from compare_runs import Laboratory

    expected, _ = finished
    output_dir = tmp_path / "out"
    shutil.copytree(expected / "nuggets", output_dir / "nuggets")  # the scores, which have tests of their own
    compute, computed = Laboratory._compute, []

    def fail_late(laboratory, *run):
        if len(computed) == 3:
            raise RuntimeError("out of luck")
        computed.append(1)
        return compute(laboratory, *run)

    monkeypatch.setattr(Laboratory, "_compute", fail_late)
    changes = {"num_seeds": 2, "arms": "random golden"}
    with pytest.raises(RuntimeError, match="out of luck"):
        compare_in_process(files, output_dir, **changes)
    before = {p.name: p.stat().st_mtime_ns for p in (output_dir / "runs").glob("*.json")}
    assert len(before) == 3
    monkeypatch.setattr(Laboratory, "_compute", compute)
    again = compare_in_process(files, output_dir, **changes)
    after = {p.name: p.stat().st_mtime_ns for p in (output_dir / "runs").glob("*.json")}
    assert after.items() >= before.items() and len(after) == 1 + 2 * 2  # none is run twice
    assert [line.num_seeds for line in again] == [2, 2, 2] and again[1].seed_deviation > 0
    common = runs_of(output_dir).keys() & runs_of(expected).keys()  # the base model, and both arms with the first seed
    assert len(common) == 3 and all(runs_of(output_dir)[name] == runs_of(expected)[name] for name in common)

    monkeypatch.setattr(Laboratory, "_compute", lambda *_: pytest.fail("everything is on disk"))
    compare_in_process(files, output_dir, **changes)
    with pytest.raises(pytest.fail.Exception, match="everything is on disk"):
        compare_in_process(files, output_dir, **changes, learning_rate=1e-3)  # never mixed in


def test_a_damaged_run_is_no_run(finished):
    from compare_runs import _read

    path = sorted((finished[0] / "runs").glob("*.json"))[0]
    key = json.loads(path.read_text())["key"]
    assert _read(path, key) is not None and _read(path, {**key, "seed": -1}) is None
    torn = path.with_suffix(".torn")
    torn.write_text(path.read_text()[:50])
    assert _read(torn, key) is None


@pytest.mark.slow
def test_a_killed_process_continues(finished, files, tmp_path):
    expected, _ = finished
    command = [*ONE_PROCESS, "recipes/compare.py", *arguments(files, tmp_path / "out")]
    process = start(command)
    while len(list((tmp_path / "out").glob("runs/*.json"))) < 3:
        assert process.poll() is None
        time.sleep(0.2)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    time.sleep(1)
    run(command)
    assert runs_of(tmp_path / "out") == runs_of(expected)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"arms": "goldn"}, "`arms` must be one of golden, full, random"),
        ({"golden_fractions": "10"}, r"`golden_fractions` must be between 0 and 1, got 10.0. Write 0.1 for 10%"),
        ({"num_seeds": 0}, "`num_seeds` must be at least 1"),
        ({"budget": "tokens"}, "`budget` must be one of steps, epochs|invalid choice"),
        ({"top_k": 5}, "`top_k=5` is one size: set `golden_fractions`"),
        ({"reselect": "epoch"}, "`reselect` is of the main job"),
        ({"packing": "true"}, "`packing=True` gives arms of short rows fewer steps"),
        ({"group_by": "family"}, "`group_by` limits which rows go together"),
    ],
)
def test_what_it_cannot_compare_is_refused_before_any_work(changes, message, files, tmp_path, capsys):
    import compare

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
def test_equal_epochs_give_arms_the_steps_of_their_own_rows(files, tmp_path, finished):
    shutil.copytree(finished[0] / "nuggets", tmp_path / "out" / "nuggets")
    lines = compare_in_process(
        files, tmp_path / "out", budget="epochs", num_train_epochs=1, max_steps=-1, golden_fractions=0.25, num_seeds=1,
        arms="golden random full",
    )  # fmt: skip
    steps = {line.arm: line.steps for line in lines}
    assert steps["golden"] == steps["random"] == 4 and steps["full"] == 16  # 15 and 62 rows in batches of 4


@pytest.mark.parametrize(("metric", "right", "close"), [("exact_match", 1, 0), ("rouge_l", 1, 0.8)])
def test_generated_texts_are_held_against_the_given_ones(metric, right, close):
    from compare_generation import compare_texts

    assert compare_texts("a b c", "a b c", metric) == right
    assert compare_texts("a b", "a b c", metric) == pytest.approx(close)


def test_the_base_model_completes_what_it_knows(finished):
    """Greedy completions of clean held-out prompts, through the chat template."""
    _, lines = finished
    assert all(line.generation is not None and 0 <= line.generation <= 1 for line in lines)
    assert lines[0].generation >= 0.5


def test_what_scores_follow_is_read_from_disk(finished, files, capsys):
    import follows

    output_dir, _ = finished
    options = ["--score_dir", str(output_dir / "nuggets"), "--dataset_name", str(files / "pool.jsonl")]
    found = follows.main([*options, "--group_by", "family", "--columns", "corruption"])
    by_column = {a["column"]: a for a in found["associations"]}
    assert by_column["corruption"]["value"] > 0.8 and by_column["corruption"]["means"]["clean"] > 0.9
    assert (
        found["within_groups"]["completion_characters"]["plain"]["groups"] == 8
    )  # one family has golden scores that do not differ
    assert "golden score against corruption: eta squared" in capsys.readouterr().out
    with pytest.raises(ValueError, match="`familly` is no column"):
        follows.main([*options, "--group_by", "familly"])
    with pytest.raises(ValueError, match="Give the rows that were scored"):
        follows.main([*options[:3], str(files / "heldout.jsonl")])
