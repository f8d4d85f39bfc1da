"""`ica`: equal to one pass over the whole text, on several architectures; which anchors are shown, and how often."""

from __future__ import annotations

import logging

import numpy as np
import pyarrow.parquet as pq
import pytest
from datasets import Dataset

from nuggets_trainer import NuggetsConfig, load_scorer, score_pool, score_shard
from nuggets_trainer.pipeline.request import read_request
from nuggets_trainer.pipeline.select_again import select_again
from nuggets_trainer.pipeline.stages import render_selectable, signals_of_rows
from nuggets_trainer.scoring.anchors import find_anchors
from nuggets_trainer.scoring.session import open_session
from nuggets_trainer.signals import examples, in_context
from nuggets_trainer.store import score_store
from tests.support import oracle
from tests.support.architectures import VOCAB, random_model
from tests.support.models import tiny_model
from tests.support.rows import real_alpaca_rows

TOLERANCE = 2e-5  # nats per token: what float32 leaves in a difference of two means


def ica(model, tokenizer, rows, anchors, score_dir, **options) -> np.ndarray:
    """Values of all rows, without scoring a pair."""
    config = NuggetsConfig(**{"ica": True, **options})
    pools = Dataset.from_list(rows), Dataset.from_list(anchors)
    request = read_request(model, tokenizer, *pools, config, score_dir)
    with open_session(model, request) as session:
        rendered = render_selectable(session, find_anchors(session), range(len(rows)))
        return signals_of_rows(session, rendered)["ica"]


def score(model, tokenizer, rows, anchors, score_dir, **options):
    config = NuggetsConfig(**{"top_fraction": 0.5, "schedule": "exact", "ica": True, **options})
    return score_pool(
        model, tokenizer, Dataset.from_list(rows), Dataset.from_list(anchors), config=config, score_dir=score_dir
    )


def in_drawn_order(rows: list) -> list:
    """The order in which anchors are shown."""
    return [rows[place] for place in np.random.default_rng(0).permutation(len(rows))]


def num_tokens(tokenizer, row, shown) -> int:
    return sum(map(len, oracle.behind_examples(tokenizer, "plain", row, shown)))


@pytest.mark.parametrize(("family", "template"), [("llama", "chat"), ("qwen2", "plain"), ("llama", "nuggets")])
def test_ica_equals_one_pass_over_the_whole_text(
    family, template, tokenizer, pool_rows, anchor_rows, tmp_path, rows_run
):
    model = tiny_model(family, len(tokenizer))
    pool_rows[3] = anchor_rows[2]  # it is not shown before itself
    found = ica(model, tokenizer, pool_rows, anchor_rows, tmp_path, template=template)
    expected = [oracle.ica(model, tokenizer, template, row, [in_drawn_order(anchor_rows)]) for row in pool_rows]
    np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE)
    assert np.ptp(found) > 0.01 and rows_run  # the rows differ, and the packed path was taken


@pytest.mark.parametrize("name", ["Mistral (sliding window)", "Gemma 3", "GPT-NeoX", "BLOOM", "Mamba"])
def test_each_architecture_gives_the_log_probs_of_whole_sequences(name, tokenizer, tmp_path):
    """Rows of token ids, so that any vocabulary does."""
    generator = np.random.default_rng(1)

    def row() -> dict:
        ids = generator.integers(3, VOCAB, int(generator.integers(6, 20))).tolist()
        return {"input_ids": ids, "labels": [-100] * 3 + ids[3:]}

    model, rows, anchors = random_model(name), [row() for _ in range(6)], [row() for _ in range(4)]
    values = ica(model, tokenizer, rows, anchors, tmp_path)
    context = [token for anchor in in_drawn_order(anchors) for token in anchor["input_ids"]]
    for found, own in zip(values, rows, strict=True):
        ids = own["input_ids"]
        behind, alone = (oracle.mean_log_prob(model, shown + ids[:3], ids[3:]) for shown in (context, []))
        assert found == pytest.approx(behind - alone, abs=TOLERANCE)
        assert abs(found) > 10 * TOLERANCE


@pytest.mark.parametrize("name", ["tiny-llama-icl", "stories260K"])
def test_ica_of_real_models(name, shared, tmp_path):
    model, tokenizer = load_scorer(str(shared / "models" / name))
    short = real_alpaca_rows(shared / "data/pool_alpacaeval/train.jsonl", 8, 40, 160)
    rows, anchors = short[:4], short[4:7]
    found = ica(model, tokenizer, rows, anchors, tmp_path, template="plain")
    expected = [oracle.ica(model, tokenizer, "plain", row, [in_drawn_order(anchors)]) for row in rows]
    np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE)


def test_the_prefix_is_run_once_for_all_rows(llama, tokenizer, pool_rows, anchor_rows, tmp_path, monkeypatch):
    calls = []
    score_prefixed = in_context.PATHS["packed"]

    def recorded(model, prefixed, tokens_per_batch, kernel=None):
        calls.append([(len(prefix), len(segments)) for prefix, segments in prefixed])
        return score_prefixed(model, prefixed, tokens_per_batch, kernel)

    monkeypatch.setitem(in_context.PATHS, "packed", recorded)
    ica(llama, tokenizer, pool_rows, anchor_rows, tmp_path, template="plain", tokens_per_batch=1024)
    whole = [call for call in calls if len(call) == 1 and call[0][1] == len(pool_rows)]
    assert len(whole) == 1 and whole[0][0][0] > 50


def test_a_small_context_averages_over_several(tokenizer, pool_rows, anchor_rows, tmp_path, caplog):
    """Each anchor is shown in one of them; the log-probs are averaged."""
    model = tiny_model("llama", len(tokenizer))
    model.config.max_position_embeddings = 150
    with caplog.at_level(logging.INFO, logger="nuggets_trainer"):
        found = ica(model, tokenizer, pool_rows, anchor_rows, tmp_path, template="plain")
    contexts, taken = [[]], 0
    for row in in_drawn_order(anchor_rows):
        size = num_tokens(tokenizer, row, [])
        if taken + size > 75:
            contexts.append([])
            taken = 0
        contexts[-1].append(row)
        taken += size
    assert len(contexts) > 1 and max(map(len, contexts)) > 1
    expected = [oracle.ica(model, tokenizer, "plain", row, contexts) for row in pool_rows]
    np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE)
    assert f"after 5 anchors, shown in {len(contexts)} contexts" in caplog.text


def test_a_row_that_is_an_anchor_is_averaged_over_the_other_contexts(tokenizer, tmp_path):
    """The context that shows it alone has no example left for it, which made the whole mean NaN."""
    model = tiny_model("llama", len(tokenizer))
    anchors = [{"instruction": f"Say {i}?", "input": "", "output": "one " * (20 + i)} for i in range(3)]
    sizes = [num_tokens(tokenizer, anchor, []) for anchor in anchors]
    model.config.max_position_embeddings = 2 * max(sizes) + 2
    assert sizes[0] + sizes[1] > max(sizes) + 1  # each context has one example
    other = {"instruction": "Count?", "input": "", "output": "two three"}
    found = ica(model, tokenizer, [anchors[1], other], anchors, tmp_path, template="plain")
    for value, row, shown in zip(found, (anchors[1], other), (anchors[::2], anchors), strict=True):
        expected = oracle.ica(model, tokenizer, "plain", row, [[anchor] for anchor in shown])
        assert value == pytest.approx(expected, abs=TOLERANCE)


def test_a_long_row_has_fewer_anchors_before_it(tokenizer, pool_rows, anchor_rows, tmp_path):
    model = tiny_model("llama", len(tokenizer))
    shown = in_drawn_order(anchor_rows)
    whole = [len(oracle.behind_examples(tokenizer, "plain", pool_rows[0], shown[:k])[0]) for k in (0, 2, 3)]
    room = 2 * (whole[2] - whole[0])  # three anchors take half of the context
    long_row = {"instruction": "Say?", "input": "", "output": "one " * 200}
    while True:
        if num_tokens(tokenizer, long_row, shown[:2]) <= room:
            break
        long_row["output"] = long_row["output"][4:]
    model.config.max_position_embeddings = room
    found = ica(model, tokenizer, [*pool_rows, long_row], shown[:3], tmp_path, template="plain")
    # The drawn order of the three that are given.
    given = in_drawn_order(shown[:3])
    for count in (3, 2, 1):
        if num_tokens(tokenizer, long_row, given[:count]) <= room:
            break
    assert count < 3
    assert found[-1] == pytest.approx(oracle.ica(model, tokenizer, "plain", long_row, [given[:count]]), abs=TOLERANCE)


def test_anchors_that_fit_no_context_are_refused(tokenizer, pool_rows, anchor_rows, tmp_path):
    model = tiny_model("llama", len(tokenizer))
    model.config.max_position_embeddings = 60
    long = [{"instruction": f"Say {i}?", "input": "", "output": "one " * 24} for i in range(3)]
    with pytest.raises(ValueError, match="none of the 3 anchors fits half.*60 tokens.*shortest has"):
        ica(model, tokenizer, pool_rows, long, tmp_path, template="plain")


def test_no_more_than_sixteen_anchors_are_shown(llama, tokenizer, pool_rows, tmp_path, monkeypatch):
    monkeypatch.setattr(examples, "NUM_EXAMPLES", 2)
    anchors = [{"instruction": f"Say {i}?", "input": "", "output": "one two"} for i in range(4)]
    found = ica(llama, tokenizer, pool_rows[:3], anchors, tmp_path, template="plain")
    expected = [oracle.ica(llama, tokenizer, "plain", row, [in_drawn_order(anchors)[:2]]) for row in pool_rows[:3]]
    np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE)


def test_rows_with_a_system_message_of_their_own(llama, tokenizer, tmp_path):
    """They share a prefix with rows of the same system message alone."""
    rows = []
    for i in range(6):
        system = [{"role": "system", "content": ["Be brief.", "Be kind."][i % 2]}] if i % 3 else []
        turns = [{"role": "user", "content": f"Say {i}?"}, {"role": "assistant", "content": f"one {i}"}]
        rows.append({"messages": [*system, *turns]})
    anchors = [
        {"messages": [{"role": "user", "content": w}, {"role": "assistant", "content": f"{w} two"}]} for w in "ab"
    ]
    all_found = ica(llama, tokenizer, rows, anchors, tmp_path, template="chat")
    shown = [message for anchor in in_drawn_order(anchors) for message in anchor["messages"]]
    for found, row in zip(all_found, rows, strict=True):
        *prompt, answer = row["messages"]
        system = [message for message in prompt if message["role"] == "system"]
        values = []
        for earlier in (shown, []):
            turns = [*system, *earlier, *prompt[len(system) :]]
            asked = tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_dict=True)["input_ids"]
            whole = tokenizer.apply_chat_template([*turns, answer], return_dict=True)["input_ids"]
            values.append(oracle.mean_log_prob(llama, asked, whole[len(asked) :]))
        assert found == pytest.approx(values[0] - values[1], abs=TOLERANCE)


def test_a_condition_and_a_later_selection_use_it(llama, tokenizer, pool_rows, anchor_rows, tmp_path):
    everything, _ = score(llama, tokenizer, pool_rows, anchor_rows, tmp_path)
    column = pq.read_table(tmp_path / "scores.parquet")["ica"].to_pylist()
    assert column == everything.signals["ica"].tolist()
    middle = float(np.median(everything.signals["ica"]))
    again = select_again(tmp_path, NuggetsConfig(top_fraction=1.0, require=f"ica > {middle!r}"))
    assert sorted(again.indices.tolist()) == np.flatnonzero(everything.signals["ica"] > middle).tolist()
    condition = {"require": f"ica > {middle!r}", "ica": False, "top_fraction": 1.0}
    scores, golden_set = score(llama, tokenizer, pool_rows, anchor_rows, tmp_path, **condition)
    assert scores.num_pairs_scored == 0 and sorted(golden_set.indices) == sorted(again.indices)
    score(llama, tokenizer, pool_rows, anchor_rows, tmp_path / "without", ica=False, row_signals=True)
    assert "ica" not in pq.read_table(tmp_path / "without" / "scores.parquet").column_names
    with pytest.raises(ValueError, match="'ica'.*--ica true"):
        select_again(tmp_path / "without", NuggetsConfig(require="ica > 0"))


def test_a_killed_run_and_parts_compute_what_is_missing(
    llama, tokenizer, pool_rows, anchor_rows, tmp_path, monkeypatch
):
    monkeypatch.setattr(score_store, "FLUSH_CANDIDATES", 1)
    config = NuggetsConfig(schedule="exact", ica=True, tokens_per_batch=16)
    score_shard(
        llama, tokenizer, Dataset.from_list(pool_rows), Dataset.from_list(anchor_rows), config, tmp_path, shard=(0, 2)
    )
    asked: list[int] = []
    ask = in_context._ask

    def recorded(session, wanted):
        asked.append(wanted.index)
        return ask(session, wanted)

    monkeypatch.setattr(in_context, "_ask", recorded)
    found = ica(llama, tokenizer, pool_rows, anchor_rows, tmp_path)
    assert set(asked) == {i for i in range(len(pool_rows)) if i % 2}
    asked.clear()
    ica(llama, tokenizer, pool_rows, anchor_rows, tmp_path)
    assert asked == []
    fresh = ica(llama, tokenizer, pool_rows, anchor_rows, tmp_path / "fresh")
    np.testing.assert_allclose(found, fresh, atol=TOLERANCE)


def test_after_an_error_the_engine_goes_on_by_its_own_path(
    llama, tokenizer, pool_rows, anchor_rows, tmp_path, monkeypatch
):
    """A user who caught the error would have scored pairs by the path of the rows behind anchors."""
    seen, choose = [], in_context._choose_path

    def remember(session, *others):
        seen.append((session.engine, session.engine.path))
        choose(session, *others)
        session.engine.path = "whole"

    def fail(*_):
        raise MemoryError("no room")

    monkeypatch.setattr(in_context, "_choose_path", remember)
    monkeypatch.setattr(in_context, "_compute", fail)
    with pytest.raises(MemoryError):
        ica(llama, tokenizer, pool_rows, anchor_rows, tmp_path)
    engine, path = seen[0]
    assert engine.path == path != "whole"
