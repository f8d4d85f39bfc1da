"""`max_rows_per_prompt`: the best answers of each prompt, in a run, after it, in training, and what is refused."""

from __future__ import annotations

import json
import logging
import shutil
from collections import Counter

import pytest
from datasets import Dataset
from trl import SFTConfig

from nuggets_trainer import NuggetsConfig, SelectedSFTTrainer, score_pool, select_again
from nuggets_trainer.commands.select import parse, run
from nuggets_trainer.data.pool import Pool
from nuggets_trainer.golden.ranking import rank_candidates
from nuggets_trainer.inspection.inspect_pool import inspect_pool
from tests.support.rows import alpaca_rows

# 12 prompts with 4 answers each; of a prompt, the second row is written in other case.
ASKED, ANSWERS = alpaca_rows(12, seed=31), alpaca_rows(48, seed=32)
ROWS = [{**row, **{name: ASKED[i % 12][name] for name in ("instruction", "input")}} for i, row in enumerate(ANSWERS)]
for row in ROWS[12:24]:
    row["instruction"] = row["instruction"].upper()
POOL, GIVEN = Dataset.from_list(ROWS), Dataset.from_list(alpaca_rows(6, seed=33))
ONE_EACH = {"max_rows_per_prompt": 1}


def scored(model, tokenizer, score_dir, anchors=GIVEN, **options):
    config = NuggetsConfig(**{"template": "plain", "top_k": 9, "signal_check": False, **options})
    return score_pool(model, tokenizer, POOL, anchors, config, score_dir)


def most_of_a_prompt(golden_set) -> int:
    return max(Counter(i % 12 for i in golden_set.indices.tolist()).values())


@pytest.fixture(scope="module")
def ranked(llama, tokenizer, tmp_path_factory):
    """A run that ranks alone, with all that other rules need."""
    score_dir = tmp_path_factory.mktemp("ranked")
    return score_dir, *scored(llama, tokenizer, score_dir, schedule="exact", row_signals=True)


@pytest.fixture
def stored(ranked, tmp_path):
    """The same, to score on."""
    shutil.copytree(ranked[0], tmp_path / "copy")
    return tmp_path / "copy"


def test_a_run_keeps_the_best_answers_of_each_prompt(ranked, stored, llama, tokenizer):
    assert most_of_a_prompt(ranked[2]) > 1  # else the limit would change nothing
    order = rank_candidates(ranked[1]).tolist()
    for most, k in ((1, 9), (2, 20)):
        _, golden_set = scored(llama, tokenizer, stored, max_rows_per_prompt=most, top_k=k)
        kept = []
        for i in order:
            if sum(j % 12 == i % 12 for j in kept) < most:
                kept.append(i)
        assert golden_set.indices.tolist() == kept[:k] and golden_set.passed_over["full_prompt"]
    report = json.loads((stored / "report.json").read_text())
    assert report["what_is_kept"] == "The golden set is the best 20 rows, with at most 2 rows of each prompt"
    assert "both shares ignore `max_rows_per_prompt`" in json.dumps(report) or report["verdict"]["stays"] is None
    run_info = json.loads((stored / "run.json").read_text())
    assert run_info["config"]["schedule"] == "auto" and run_info["contents"]["repeated_prompts"]["num_rows"]


@pytest.mark.parametrize(
    "options",
    [
        {"rank_by": "gain", "top_k": 5},
        {"rank_by": "loss"},
        {"top_k": None, "top_fraction": 0.2, "max_rows_per_prompt": 2},
        {"top_k": None, "threshold": 0.5},
        {"top_k": None, "max_tokens": 600},
        {"require": "num_tokens >= 4"},
        {"group_by": "num_tokens"},
        {"group_by": "num_tokens", "group_quota": "equal", "rank_by": "mean_gain"},
    ],
    ids=str,
)
def test_a_run_and_select_keep_the_same_answers(options, ranked, stored, llama, tokenizer):
    options = {"top_k": 9, **ONE_EACH, **options}
    again = select_again(ranked[0], NuggetsConfig(**options), Pool(POOL))
    _, golden_set = scored(llama, tokenizer, stored, **options)
    assert again.indices.tolist() == golden_set.indices.tolist() and again.passed_over == golden_set.passed_over
    assert most_of_a_prompt(golden_set) <= options["max_rows_per_prompt"] and len(golden_set) > 2


@pytest.mark.parametrize(
    "options", [{"coverage_weight": 0.5}, {"max_similarity": 0.999}, {"group_by": "output"}], ids=str
)
def test_other_limits_hold_beside_it(options, stored, llama, tokenizer):
    sets = {"one": GIVEN, "two": Dataset.from_list(alpaca_rows(3, seed=9))}
    _, golden_set = scored(llama, tokenizer, stored, sets, **ONE_EACH, **options)
    assert most_of_a_prompt(golden_set) == 1 and len(golden_set) > 4


def test_too_few_prompts_give_a_smaller_set_with_a_warning(stored, llama, tokenizer, caplog, capsys):
    caplog.set_level(logging.WARNING, "nuggets_trainer")
    scores, golden_set = scored(llama, tokenizer, stored, top_k=20, **ONE_EACH)
    assert len(golden_set) == 12 and golden_set.num_missing == 8
    assert "Caution: The golden set has 12 rows, not 20." in caplog.text
    told = {caution["title"]: caution["text"] for caution in scores.cautions}
    assert "were passed over (full_prompt 36)" in told["The golden set has 12 rows, not 20"]
    POOL.to_json(stored / "pool.jsonl")
    caplog.clear()
    choice = ["--top_k", "20", "--max_rows_per_prompt", "1", "--dataset_name", str(stored / "pool.jsonl")]
    run(*parse([str(stored), *choice, "--json"]))
    assert json.loads(capsys.readouterr().out)["indices"] == golden_set.indices.tolist()
    assert "The golden set has 12 rows, not 20: all other rows were passed over (full_prompt 36)." in caplog.text


def test_select_takes_the_quota_of_classes(ranked, capsys):
    for quota in ("equal", "proportional"):
        run(*parse([str(ranked[0]), "--top_k", "9", "--group_by", "num_tokens", "--group_quota", quota, "--json"]))
        found = json.loads(capsys.readouterr().out)
        again = select_again(ranked[0], NuggetsConfig(top_k=9, group_by="num_tokens", group_quota=quota))
        assert found["indices"] == again.indices.tolist()


def test_select_needs_the_rows_that_were_scored(ranked, stored, llama, tokenizer):
    limited = NuggetsConfig(top_k=9, **ONE_EACH)
    with pytest.raises(ValueError, match="`max_rows_per_prompt=1` needs the prompts .* `--dataset_name`"):
        select_again(ranked[0], limited)
    with pytest.raises(ValueError, match="needs the rows of the pool. Name the pool with --dataset_name"):
        parse([str(ranked[0]), "--max_rows_per_prompt", "1"])
    with pytest.raises(ValueError, match="as many rows as were scored, but not the same ones"):
        select_again(ranked[0], limited, Pool(Dataset.from_list(ROWS[::-1])))
    scored(llama, tokenizer, stored, **ONE_EACH)
    # The limit of a run is not dropped silently; another one takes its place.
    with pytest.raises(ValueError, match="with `max_rows_per_prompt`, which is not asked for now.*: repeat such an"):
        select_again(stored, NuggetsConfig(top_k=3), Pool(POOL))
    two = NuggetsConfig(top_k=9, max_rows_per_prompt=2)
    expected = select_again(ranked[0], two, Pool(POOL)).indices.tolist()
    assert select_again(stored, two, Pool(POOL)).indices.tolist() == expected


def test_rows_that_cannot_be_compared_are_warned_of(ranked, caplog):
    """`select_again` said nothing about rows in another format, whose order it had not compared."""
    converted = [{"prompt": f"{row['instruction']}\n\n{row['input']}", "completion": row["output"]} for row in ROWS]
    limited = NuggetsConfig(top_k=9, **ONE_EACH)
    caplog.set_level(logging.WARNING, "nuggets_trainer")
    expected = select_again(ranked[0], limited, Pool(POOL)).indices.tolist()
    assert not caplog.messages
    assert select_again(ranked[0], limited, Pool(Dataset.from_list(converted))).indices.tolist() == expected
    assert len(caplog.messages) == 1 and "They must be the same rows in the same order" in caplog.text


def test_a_race_decides_as_much_as_its_bounds_do(llama, tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr("nuggets_trainer.scoring.race_run.WAVE_BATCHES", 4)
    anchors = Dataset.from_list(alpaca_rows(14, seed=22))
    raced, _ = scored(llama, tokenizer, tmp_path / "raced", anchors, schedule="race", tokens_per_batch=160)
    assert raced.num_eliminated
    shutil.copytree(tmp_path / "raced", tmp_path / "exact")
    scored(llama, tokenizer, tmp_path / "exact", anchors, schedule="exact")
    decided = 0
    for k in range(1, 13):
        config = NuggetsConfig(top_k=k, **ONE_EACH)
        try:
            found = select_again(tmp_path / "raced", config, Pool(POOL)).indices.tolist()
        except ValueError as error:
            said = str(error)
            assert "`--max_rows_per_prompt 1`" in said and "do not decide" in said
            continue
        decided += 1
        assert found == select_again(tmp_path / "exact", config, Pool(POOL)).indices.tolist()
    assert 0 < decided < 12
    with pytest.raises(ValueError, match="but a race stopped .*and with `--max_rows_per_prompt 1`"):
        select_again(tmp_path / "raced", NuggetsConfig(top_k=3, rank_by="gain", **ONE_EACH), Pool(POOL))
    with pytest.raises(ValueError, match="A race leaves out pairs, but with max_rows_per_prompt"):
        NuggetsConfig(schedule="race", **ONE_EACH)


def test_rows_without_prompts_are_refused_before_any_work(llama, tokenizer, tmp_path):
    texts = Dataset.from_list([{"text": row["output"]} for row in ROWS])
    config = NuggetsConfig(template="plain", top_k=3, **ONE_EACH)
    with pytest.raises(ValueError, match="needs prompts, but the rows of `dataset` have none: each is one text"):
        score_pool(llama, tokenizer, texts, texts, config, tmp_path)
    assert not any(tmp_path.iterdir())
    assert inspect_pool(None, texts, config=config).problem.startswith("`max_rows_per_prompt=1` needs prompts")
    grouped = NuggetsConfig(top_k=3, group_by="origin")
    assert inspect_pool(None, POOL, config=grouped).problem.startswith("`group_by='origin'` is not a column")
    empty = Dataset.from_list([{**row, "output": ""} for row in ROWS])  # no row that could have a prompt is readable
    with pytest.raises(ValueError, match="all 48 were dropped \\(empty_completion 48\\)"):
        score_pool(llama, tokenizer, empty, GIVEN, config, tmp_path)
    for wrong, kind in ((0, ValueError), (True, TypeError)):
        with pytest.raises(kind, match="`max_rows_per_prompt` must be"):
            NuggetsConfig(max_rows_per_prompt=wrong)


def trainer_of(tmp_path, **options):
    return SelectedSFTTrainer(
        model="nuggets_trainer/demo/model",
        args=SFTConfig(
            output_dir=str(tmp_path),
            use_cpu=True,
            bf16=False,
            report_to="none",
            max_steps=2,
            per_device_train_batch_size=2,
            dataloader_num_workers=0,
        ),
        train_dataset=POOL,
        anchor_dataset=GIVEN,
        nuggets_config=NuggetsConfig(top_k=5, signal_check=False, **ONE_EACH, **options),
    )


@pytest.mark.slow
def test_training_keeps_the_limit_when_it_chooses_again(tmp_path):
    trainer = trainer_of(tmp_path, reselect="steps", reselect_steps=1, require="num_tokens >= 2")
    trainer.train()
    assert len(trainer.golden_set) == 5 and most_of_a_prompt(trainer.golden_set) == 1
    saved = json.loads((tmp_path / "nuggets_selection.json").read_text())
    assert saved["settings"]["max_rows_per_prompt"] == "1" and len(saved["indices"]) == 5
    with pytest.raises(ValueError, match="but with `group_by` and `reselect` training is planned for a fixed number"):
        trainer_of(tmp_path / "groups", reselect="epoch", group_by="num_tokens")
