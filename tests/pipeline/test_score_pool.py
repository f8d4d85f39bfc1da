"""`score_pool` on real models: equal to the oracle, complete, resumable, and nothing lost on the way."""

from __future__ import annotations

import json
import logging

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from datasets import Dataset
from transformers import AutoTokenizer

from nuggets_trainer import NuggetsConfig, Pool, load_scorer, score_pool
from nuggets_trainer.prompts.templates import make_template
from nuggets_trainer.store.score_store import ScoreStore
from tests.support import oracle
from tests.support.models import tiny_model
from tests.support.rows import alpaca_rows, real_alpaca_rows

# What float32 attention leaves; the design asks for it. Gains that matter are a hundred times larger.
TOLERANCE = 1e-5


def run(model, tokenizer, pool_rows, anchor_rows, score_dir, template="chat", **config):
    pool = Pool(Dataset.from_list(pool_rows))
    anchors = None if anchor_rows is None else Pool(Dataset.from_list(anchor_rows), "anchors")
    config = NuggetsConfig(**{"top_fraction": 0.5, "template": template, "schedule": "exact", **config})
    return score_pool(
        model,
        tokenizer,
        pool,
        anchors,
        config=config,
        score_dir=score_dir,
    )


def read_pairs(score_dir) -> np.ndarray:
    rows = pq.read_table(score_dir / "pairs.parquet")["one_shot"].to_pylist()
    return np.array([[np.nan if value is None else value for value in row] for row in rows])


def assert_equal_to_oracle(model, tokenizer, template, pool_rows, anchor_rows, score_dir):
    scores, golden_set = run(model, tokenizer, pool_rows, anchor_rows, score_dir, template)
    zero, one, golden = oracle.golden(model, tokenizer, template, pool_rows, anchor_rows, template != "nuggets")
    np.testing.assert_allclose(scores.anchors.zero_shot, zero, rtol=0, atol=TOLERANCE)
    np.testing.assert_allclose(read_pairs(score_dir), one, rtol=0, atol=TOLERANCE)
    assert scores.golden_score.tolist() == golden.tolist()
    assert len(set(golden.tolist())) > 1  # the candidates are told apart
    gain = np.nanmean(one - zero, axis=1)
    expected = sorted(range(len(pool_rows)), key=lambda i: (-golden[i], -gain[i], i))[: len(golden_set)]
    assert golden_set.indices.tolist() == expected


def test_chosen_anchors_of_earlier_versions(llama, tokenizer, pool_rows, tmp_path):
    """They were kept under a hash that did not see unreadable rows: with one deleted, other rows became anchors."""
    pool_rows = [{"instruction": "", "input": "", "output": "nothing was asked"}, *pool_rows]
    options = {"num_anchors": 4, "anchor_selection": "kmeans"}
    scores, _ = run(llama, tokenizer, pool_rows, None, tmp_path, **options)
    (path,) = tmp_path.glob("*/note-*.json")
    note = json.loads(path.read_text())
    path.unlink()
    assert note["answer"] == scores.anchors.pool_index
    question = {name: value for name, value in note["question"].items() if name != "pool_rows"}
    question["pool_sha256"] = Pool(Dataset.from_list(pool_rows)).hash_without_places
    fields = json.loads((tmp_path / "run.json").read_text())["fingerprint"]["fields"]
    ScoreStore(tmp_path, fields).write_note(question, note["answer"])
    again, _ = run(llama, tokenizer, pool_rows, None, tmp_path, **options)
    assert again.num_pairs_scored == 0 and again.anchors.pool_index == scores.anchors.pool_index
    for new in tmp_path.glob("*/note-*.json"):
        if json.loads(new.read_text())["question"] != question:
            new.unlink()
    fewer, _ = run(llama, tokenizer, pool_rows[1:], None, tmp_path, **options)
    assert [i + 1 for i in fewer.anchors.pool_index] == scores.anchors.pool_index  # chosen again: the same rows


@pytest.mark.parametrize("family", ["llama", "qwen2"])
@pytest.mark.parametrize("template", ["chat", "plain", "nuggets"])
def test_scores_equal_the_oracle(family, template, tokenizer, pool_rows, anchor_rows, tmp_path):
    model = tiny_model(family, len(tokenizer))
    pool_rows[3] = anchor_rows[2]  # a candidate that is itself an anchor
    assert_equal_to_oracle(model, tokenizer, template, pool_rows, anchor_rows, tmp_path)


@pytest.mark.parametrize("name", ["tiny-llama-icl", "tiny-llama-instruct", "stories260K"])
@pytest.mark.parametrize("template", ["chat", "plain", "nuggets"])
def test_scores_of_real_models_on_real_rows_equal_the_oracle(name, template, shared, tmp_path):
    model, tokenizer = load_scorer(str(shared / "models" / name))
    if template == "chat" and not tokenizer.chat_template:
        pytest.skip(f"{name} has no chat template")
    pool = real_alpaca_rows(shared / "data/pool_alpacaeval/train.jsonl", 5, 40, 200)
    anchors = real_alpaca_rows(shared / "data/anchors_kmeans100/anchors.jsonl", 7, 0, 250)
    assert_equal_to_oracle(model, tokenizer, template, pool, anchors, tmp_path)


def test_a_candidate_that_is_an_anchor_is_not_scored_against_itself(
    llama, tokenizer, pool_rows, anchor_rows, tmp_path
):
    pool_rows[0] = anchor_rows[1]
    scores, _ = run(llama, tokenizer, pool_rows, anchor_rows, tmp_path / "default")
    assert np.isnan(read_pairs(tmp_path / "default")[0]).tolist() == [False, True, False, False, False]
    assert scores.num_anchors.tolist() == [4] + [5] * 11
    scores, _ = run(llama, tokenizer, pool_rows, anchor_rows, tmp_path / "off", exclude_self=False)
    assert scores.num_anchors.tolist() == [5] * 12


def test_scores_do_not_depend_on_token_budget_or_on_the_other_candidates(
    llama, tokenizer, pool_rows, anchor_rows, tmp_path
):
    whole, _ = run(llama, tokenizer, pool_rows, anchor_rows, tmp_path / "a")
    narrow, _ = run(llama, tokenizer, pool_rows, anchor_rows, tmp_path / "b", tokens_per_batch=1)
    reverse, _ = run(llama, tokenizer, pool_rows[::-1][:7], anchor_rows, tmp_path / "c")
    assert narrow.golden_score.tolist() == whole.golden_score.tolist()
    assert reverse.golden_score.tolist() == whole.golden_score[::-1][:7].tolist()
    np.testing.assert_array_equal(read_pairs(tmp_path / "c"), read_pairs(tmp_path / "a")[::-1][:7])


def test_a_second_run_scores_nothing(llama, tokenizer, pool_rows, anchor_rows, tmp_path):
    first, golden_set = run(llama, tokenizer, pool_rows, anchor_rows, tmp_path)
    bytes_before = (tmp_path / "scores.parquet").read_bytes()
    again, golden_again = run(llama, tokenizer, pool_rows, anchor_rows, tmp_path)
    assert (first.num_pairs_scored, again.num_pairs_scored) == (60, 0)
    assert golden_again.indices.tolist() == golden_set.indices.tolist()
    assert (tmp_path / "scores.parquet").read_bytes() == bytes_before


def test_added_rows_and_anchors_are_scored_alone(llama, tokenizer, pool_rows, anchor_rows, tmp_path):
    run(llama, tokenizer, pool_rows[:9], anchor_rows[:4], tmp_path)
    more_rows, _ = run(llama, tokenizer, pool_rows, anchor_rows[:4], tmp_path)
    assert more_rows.num_pairs_scored == 3 * 4
    more_anchors, _ = run(llama, tokenizer, pool_rows[::-1], anchor_rows, tmp_path)
    assert more_anchors.num_pairs_scored == 12 * 1
    fresh, _ = run(llama, tokenizer, pool_rows[::-1], anchor_rows, tmp_path / "fresh")
    assert more_anchors.golden_score.tolist() == fresh.golden_score.tolist()


@pytest.mark.parametrize("change", ["weights", "template", "dtype", "tokenizer"])
def test_a_change_that_can_change_scores_does_not_reuse_them_and_is_named(
    change, tokenizer, pool_rows, anchor_rows, tmp_path, caplog
):
    model = tiny_model("llama", len(tokenizer))
    run(model, tokenizer, pool_rows, anchor_rows, tmp_path)
    template = "chat"
    if change == "weights":
        with torch.no_grad():
            model.model.layers[0].mlp.up_proj.weight[0, 0] += 1e-3
    elif change == "template":
        template = "plain"
    elif change == "dtype":
        model = model.bfloat16()
    else:
        tokenizer = AutoTokenizer.from_pretrained(tokenizer.name_or_path)
        tokenizer.chat_template = tokenizer.chat_template.replace("user", "human", 1)
    with caplog.at_level(logging.WARNING, logger="nuggets_trainer"):
        again, _ = run(model, tokenizer, pool_rows, anchor_rows, tmp_path, template)
    assert again.num_pairs_scored == 60
    named = {"weights": "weights_sha256", "template": "template: chat there, plain now", "dtype": "weights_dtype"}
    assert named.get(change, "chat_template_sha256") in caplog.text and "not reused" in caplog.text


def test_equal_rows_are_scored_once_and_get_the_same_score(llama, tokenizer, pool_rows, anchor_rows, tmp_path):
    """A golden set has one of them, unless the user wants all."""
    pool_rows[5] = dict(pool_rows[2])
    scores, golden_set = run(llama, tokenizer, pool_rows, anchor_rows, tmp_path, top_fraction=1.0)
    assert scores.num_pairs_scored == 11 * 5
    assert scores.dropped[5] == "duplicate" and sorted(golden_set.indices.tolist()) == [0, 1, 2, 3, 4, *range(6, 12)]
    all_rows, with_all = run(llama, tokenizer, pool_rows, anchor_rows, tmp_path, top_fraction=1.0, deduplicate="no")
    assert all_rows.num_pairs_scored == 0 and len(with_all) == 12
    assert all_rows.golden_score[5] == all_rows.golden_score[2]
    others = [i for i in range(12) if i != 5]
    assert all_rows.golden_score[others].tolist() == scores.golden_score[others].tolist()


def test_rows_with_questions_of_a_test_are_left_out(llama, tokenizer, pool_rows, anchor_rows, tmp_path, caplog):
    question = "How many birds sing in the tall green trees at the end of a long day?"
    pool_rows[3]["instruction"] += f" {question}"
    test = tmp_path / "test.jsonl"
    test.write_text(json.dumps({"question": question}))
    options = {"top_fraction": 1.0, "decontaminate": [str(test)]}
    with caplog.at_level(logging.INFO, logger="nuggets_trainer"):
        scores, golden_set = run(llama, tokenizer, pool_rows, anchor_rows, tmp_path / "s", **options)
    assert [i for i, reason in enumerate(scores.dropped) if reason == "contaminated"] == [3]
    assert 3 not in golden_set.indices and len(golden_set) == 11
    says = f"0 rows repeat an earlier one, 0 near-duplicates, 1 row holds questions of {test} (left out)"
    assert f"duplicates: {says}" in caplog.text
    assert json.loads((tmp_path / "s" / "run.json").read_text())["overlap"]["says"] == says


def test_a_row_with_a_question_of_a_test_is_no_anchor_from_an_earlier_run(llama, tokenizer, pool_rows, tmp_path):
    options = {"num_anchors": 4, "anchor_selection": "random"}
    first, _ = run(llama, tokenizer, pool_rows, None, tmp_path / "s", **options)
    taken = first.anchors.pool_index
    question = pool_rows[taken[0]]["instruction"] + " " + pool_rows[taken[0]]["input"]
    (tmp_path / "test.jsonl").write_text(json.dumps({"question": question}))
    options["decontaminate"] = [str(tmp_path / "test.jsonl")]
    again, _ = run(llama, tokenizer, pool_rows, None, tmp_path / "s", **options)
    assert again.dropped[taken[0]] == "contaminated" and taken[0] not in again.anchors.pool_index
    anew, _ = run(llama, tokenizer, pool_rows, None, tmp_path / "anew", **options)
    assert again.anchors.pool_index == anew.anchors.pool_index  # whatever was stored before
    del options["decontaminate"]
    assert run(llama, tokenizer, pool_rows, None, tmp_path / "s", **options)[0].anchors.pool_index == taken


def test_every_dropped_row_has_a_counted_reason(tokenizer, pool_rows, anchor_rows, tmp_path):
    model = tiny_model("llama", len(tokenizer))
    model.config.max_position_embeddings = 220
    pool_rows[0]["output"] = "  "
    pool_rows[1]["instruction"] = ""
    pool_rows[2]["output"] = None
    pool_rows[3]["output"] = "red blue " * 120
    scores, golden_set = run(model, tokenizer, pool_rows, anchor_rows, tmp_path, top_fraction=1.0)
    reasons = ["empty_completion", "empty_prompt", "completion_not_text", "too_long"]
    assert scores.dropped == reasons + [None] * 8
    assert np.isnan(scores.golden_score[:4]).all() and not np.isnan(scores.golden_score[4:]).any()
    assert sorted(golden_set.indices.tolist()) == list(range(4, 12))
    line = scores.describe()
    assert "scored 8 candidates x 5 anchors" in line and "dropped 4 (" in line
    assert all(f"{reason} 1" in line for reason in reasons)


def test_anchors_that_cannot_be_scored_whole_are_reported_and_left_out(llama, tokenizer, pool_rows, tmp_path):
    anchor_rows = alpaca_rows(5, seed=2)
    anchor_rows[1]["output"] = ""
    anchor_rows[3]["output"] = "red blue " * 600
    scores, _ = run(llama, tokenizer, pool_rows, anchor_rows, tmp_path)
    assert scores.anchors.dropped == [None, "empty_completion", None, "too_long", None]
    assert scores.num_anchors.tolist() == [3] * 12
    assert "anchors dropped 2 (empty_completion 1, too_long 1)" in scores.describe()
    table = pq.read_table(tmp_path / "anchors.parquet").to_pydict()
    for name in ("zero_shot", "gain_mean", "gain_deviation"):
        assert [value is None for value in table[name]] == [False, True, False, True, False]
    assert np.isnan(read_pairs(tmp_path)[:, [1, 3]]).all() and not np.isnan(read_pairs(tmp_path)[:, [0, 2, 4]]).any()


def test_candidates_without_a_finite_log_prob_are_dropped_not_scored(tokenizer, pool_rows, anchor_rows, tmp_path):
    model = tiny_model("llama", len(tokenizer))
    pool_rows[4]["instruction"] = "Say % ?"
    percent = tokenizer(" %", add_special_tokens=False)["input_ids"]
    others = {i for row in pool_rows[:4] + anchor_rows for i in tokenizer(str(row))["input_ids"]}
    with torch.no_grad():  # a rotten embedding: every prompt that holds this token gives NaN
        model.get_input_embeddings().weight[[i for i in percent if i not in others]] = float("nan")
    scores, golden_set = run(model, tokenizer, pool_rows, anchor_rows, tmp_path)
    assert scores.dropped == [None] * 4 + ["non_finite_log_prob"] + [None] * 7
    assert 4 not in golden_set.indices
    again, _ = run(model, tokenizer, pool_rows, anchor_rows, tmp_path)
    assert again.num_pairs_scored == 0  # that it has none is known too


def test_result_files_have_the_documented_columns(llama, tokenizer, pool_rows, anchor_rows, tmp_path):
    pool_rows[6]["output"] = ""
    _, golden_set = run(llama, tokenizer, pool_rows, anchor_rows, tmp_path, top_k=3, top_fraction=None)
    scores = pq.read_table(tmp_path / "scores.parquet")
    assert scores.schema.names == [
        "index", "golden_score", "standard_error", "mean_gain", "num_anchors", "upper_bound", "dropped", "rank",
        "selected", "mean_gain_error", "gain", "gain_error", "repetition",
    ]  # fmt: skip
    rows = scores.to_pylist()
    assert [row["index"] for row in rows] == list(range(12))
    assert rows[6] == {
        "index": 6, "golden_score": None, "standard_error": None, "mean_gain": None, "num_anchors": 0,
        "upper_bound": None, "dropped": "empty_completion", "rank": None, "selected": False,
        "mean_gain_error": None, "gain": None, "gain_error": None, "repetition": None,
    }  # fmt: skip
    by_rank = sorted((row["rank"], row["index"]) for row in rows if row["rank"] is not None)
    assert [rank for rank, _ in by_rank] == list(range(1, 12))
    assert [index for _, index in by_rank][:3] == golden_set.indices.tolist()
    assert [row["index"] for row in rows if row["selected"]] == sorted(golden_set.indices.tolist())
    pairs = pq.read_table(tmp_path / "pairs.parquet")
    assert pairs.schema.names == ["index", "one_shot"] and str(pairs.schema.types[1]) == "list<element: float>"
    assert pairs["one_shot"].to_pylist()[6] == [None] * 5
    assert pq.read_table(tmp_path / "anchors.parquet").schema.names == [
        "index", "pool_index", "zero_shot", "num_tokens", "gain_mean", "gain_deviation",
    ]  # fmt: skip


@pytest.mark.parametrize("selection", ["kmeans", "random"])
def test_anchors_chosen_from_the_pool_are_the_same_on_every_run(selection, llama, tokenizer, tmp_path):
    rows = alpaca_rows(30, seed=3)
    options = {"num_anchors": 6, "anchor_selection": selection}
    first, _ = run(llama, tokenizer, rows, None, tmp_path / "a", **options)
    chosen = first.anchors.pool_index
    assert len(set(chosen)) == 6 and chosen == sorted(chosen)
    assert first.num_anchors.tolist() == [5 if i in chosen else 6 for i in range(30)]
    embedded = []

    def hook(model, arguments, options, output):
        embedded.append("output_hidden_states" in options)

    handle = llama.register_forward_hook(hook, with_kwargs=True)
    again, _ = run(llama, tokenizer, rows, None, tmp_path / "a", **options)
    handle.remove()
    assert again.anchors.pool_index == chosen and again.num_pairs_scored == 0
    assert embedded and not any(embedded)  # some pairs are checked; the choice is read back, nothing is embedded again
    fresh, _ = run(llama, tokenizer, rows, None, tmp_path / "b", **options)
    assert fresh.anchors.pool_index == chosen
    other, _ = run(llama, tokenizer, rows, None, tmp_path / "a", **options, anchor_seed=7)
    assert other.anchors.pool_index != chosen


def test_what_was_scored_before_an_error_is_kept(tokenizer, pool_rows, anchor_rows, tmp_path):
    model = tiny_model("llama", len(tokenizer))
    calls = []

    def fail_late(*_):
        calls.append(1)
        if len(calls) > 60:  # after the check of the engine and the first candidates
            raise RuntimeError("out of luck")

    handle = model.base_model.register_forward_pre_hook(fail_late)
    with pytest.raises(RuntimeError, match="out of luck"):
        run(model, tokenizer, pool_rows, anchor_rows, tmp_path, tokens_per_batch=20)
    handle.remove()
    after, _ = run(model, tokenizer, pool_rows, anchor_rows, tmp_path)
    assert 0 < after.num_pairs_scored < 60
    whole, _ = run(model, tokenizer, pool_rows, anchor_rows, tmp_path / "whole")
    assert after.golden_score.tolist() == whole.golden_score.tolist()


def test_one_very_long_row_never_becomes_an_anchor_that_costs_the_pool(tokenizer, tmp_path):
    """A row that fills the context once became an anchor, and every candidate was too long beside it."""
    model = tiny_model("llama", len(tokenizer))
    rows = alpaca_rows(12, seed=3)
    alone = len(
        make_template("chat", tokenizer, Pool(Dataset.from_list(rows))).zero_shot(Pool(Dataset.from_list(rows))[0]).ids
    )
    rows[5]["output"] = "red " * (500 - alone)
    for selection in ("kmeans", "random"):
        options = {"num_anchors": 11, "anchor_selection": selection}
        scores, _ = run(model, tokenizer, rows, None, tmp_path / selection, **options)
        assert scores.anchors.pool_index == [i for i in range(12) if i != 5]
        assert sum(reason is None for reason in scores.dropped) >= 11


def test_a_long_anchor_that_costs_candidates_is_named(tokenizer, pool_rows, anchor_rows, tmp_path, caplog):
    model = tiny_model("llama", len(tokenizer))
    pool_rows[2]["output"] = "red " * 60
    anchor_rows[3]["output"] = "red " * 430
    with caplog.at_level(logging.WARNING, logger="nuggets_trainer"):
        run(model, tokenizer, pool_rows, anchor_rows, tmp_path)
    assert "candidates are too long" in caplog.text and "the longest, anchor 3, has" in caplog.text
    assert "Shorten or drop long anchors." in caplog.text


def test_a_row_that_is_too_long_itself_is_named(tokenizer, pool_rows, anchor_rows, tmp_path, caplog):
    """The advice was to shorten the anchors, of which the longest had some 30 tokens."""
    model = tiny_model("llama", len(tokenizer))
    pool_rows[2]["output"] = "red " * 600
    with caplog.at_level(logging.WARNING, logger="nuggets_trainer"):
        run(model, tokenizer, pool_rows, anchor_rows, tmp_path)
    assert "1 candidate is too long." in caplog.text and "Shorten the rows" in caplog.text
    assert "drop long anchors" not in caplog.text


def test_a_template_that_writes_the_date_does_not_mix_days(llama, tokenizer, pool_rows, anchor_rows, tmp_path):
    days = []
    for day in ("Monday", "Tuesday"):
        tokenizer = AutoTokenizer.from_pretrained(tokenizer.name_or_path)
        tokenizer.chat_template = "{{ day() }}" + tokenizer.chat_template.replace("{{ day() }}", "")
        tokenizer.chat_template = tokenizer.chat_template.replace("day()", f"strftime_now('{day}')")
        days.append(make_template("chat", tokenizer, Pool(Dataset.from_list(pool_rows))).describe())
    assert days[0]["chat_template_renders_sha256"] != days[1]["chat_template_renders_sha256"]


def test_rows_with_the_same_text_in_other_columns_are_the_same_row(llama, tokenizer, pool_rows, anchor_rows, tmp_path):
    anchor = anchor_rows[1]
    text = "\n\n".join(part for part in (anchor["instruction"], anchor["input"].strip()) if part)
    messages = [{"role": "user", "content": text}, {"role": "assistant", "content": anchor["output"].strip()}]
    scores, _ = run(llama, tokenizer, [{"messages": messages}], anchor_rows, tmp_path, top_fraction=1.0)
    assert scores.num_anchors.tolist() == [4]


def test_rows_whose_columns_differ_do_not_share_a_score(llama, tokenizer, anchor_rows, tmp_path):
    """The same text under `chat`, but not under `nuggets`, where the input has a heading of its own."""
    rows = [
        {"instruction": "Add these.\n\n2 3", "input": "", "output": "5"},
        {"instruction": "Add these.", "input": "2 3", "output": "5"},
    ]
    scores, _ = run(llama, tokenizer, rows, anchor_rows, tmp_path, "nuggets")
    assert scores.mean_gain[0] != scores.mean_gain[1]


def test_the_first_error_of_a_chat_template_is_shown_and_the_others_are_counted(
    llama, tokenizer, pool_rows, anchor_rows, tmp_path, caplog
):
    tokenizer = AutoTokenizer.from_pretrained(tokenizer.name_or_path)
    refuse = "{% for m in messages %}{% if 'Say %' in m.content %}{{ raise_exception('no: ' + m.content) }}"
    tokenizer.chat_template = refuse + "{% endif %}{% endfor %}" + tokenizer.chat_template
    for i in (2, 5):
        pool_rows[i]["instruction"] = f"Say % {i}?"
    with caplog.at_level(logging.WARNING, logger="nuggets_trainer"):
        scores, _ = run(llama, tokenizer, pool_rows, anchor_rows, tmp_path)
    assert [i for i, reason in enumerate(scores.dropped) if reason == "not_tokenizable"] == [2, 5]
    assert caplog.text.count("is dropped as not_tokenizable") == 1 and "no: Say % 2?" in caplog.text


def test_a_template_that_refuses_every_anchor_is_quoted(llama, tokenizer, pool_rows, anchor_rows, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(tokenizer.name_or_path)
    for row in anchor_rows:
        row["instruction"] = "Say %?"
    refuse = "{% for m in messages %}{% if 'Say %' in m.content %}{{ raise_exception('no percents') }}"
    tokenizer.chat_template = refuse + "{% endif %}{% endfor %}" + tokenizer.chat_template
    with pytest.raises(ValueError, match=r"not_tokenizable 5\).*The first error was TemplateError\('no percents'\)"):
        run(llama, tokenizer, pool_rows, anchor_rows, tmp_path)


def test_scores_do_not_depend_on_the_order_of_the_pool_or_on_its_other_rows(tokenizer, tmp_path, rows_run):
    rows, anchors = alpaca_rows(24, seed=5), alpaca_rows(6, seed=6)
    model = tiny_model("qwen2", len(tokenizer))
    found, packings = {}, []
    pools = {"all": rows, "backwards": rows[::-1], "every third": rows[::3], "alone": rows[7:8]}
    for name, pool in pools.items():
        rows_run.clear()
        scores, _ = run(model, tokenizer, pool, anchors, tmp_path / name, tokens_per_batch=300)
        log_probs = read_pairs(tmp_path / name)
        found[name] = {row["output"]: (s, p) for row, s, p in zip(pool, scores.golden_score, log_probs, strict=True)}
        packings.append(list(rows_run))
    assert len({tuple(packing) for packing in packings}) >= 3  # rows were packed in other ways
    for name in ("backwards", "every third", "alone"):
        for text, (score, log_probs) in found[name].items():
            assert score == found["all"][text][0]
            np.testing.assert_allclose(log_probs, found["all"][text][1], rtol=0, atol=1e-5)
