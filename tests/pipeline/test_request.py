"""`score_pool` obeys its config: what is not given is read from it, and what it cannot do is refused."""

from __future__ import annotations

import json

import pytest
import torch
from datasets import Dataset, DatasetDict

from nuggets_trainer import NuggetsConfig, Pool, plan_pool, score_pool, score_shard
from nuggets_trainer.config.row_options import RowOptions
from nuggets_trainer.pipeline.request import AsTrained, read_request
from nuggets_trainer.store.files import join
from tests.support.models import tiny_model
from tests.support.rows import alpaca_rows


@pytest.fixture
def anchor_file(tmp_path):
    path = tmp_path / "anchors.jsonl"
    Dataset.from_list(alpaca_rows(5, seed=2)).to_json(path)
    return str(path)


def run_facts(score_dir):
    return json.loads((score_dir / "run.json").read_text())


def test_what_is_not_given_is_read_from_the_config(llama, tokenizer, pool, anchor_file, tmp_path):
    """It took 100 k-means anchors in float32, never made `score_dir`, and recorded the config as if obeyed."""
    score_dir = tmp_path / "scores"
    config = NuggetsConfig(anchors=anchor_file, score_dtype="bfloat16", score_dir=str(score_dir), pool_size=9, top_k=2)
    scores, golden_set = score_pool(llama, tokenizer, pool, config=config)
    assert len(scores) == 9 and len(scores.anchors) == 5 and len(golden_set) == 2
    facts = run_facts(score_dir)
    assert facts["anchors"]["given"] and facts["fingerprint"]["fields"]["score_dtype"] == "bfloat16 autocast"


def test_a_dataset_and_a_pool_give_the_same_request(llama, tokenizer, pool, anchors, tmp_path):
    config = NuggetsConfig(score_dir=str(tmp_path))
    given = [
        read_request(llama, tokenizer, pool, anchors, config),
        read_request(llama, tokenizer, Pool(pool), {"": Pool(anchors)}, config),
    ]
    hashes = {(request.pool.content_hash, request.anchors[""].content_hash) for request in given}
    assert len(hashes) == 1


def test_auto_dtype_follows_the_training_dtype(llama, tokenizer, pool, tmp_path):
    arguments = (llama, tokenizer, pool, None, NuggetsConfig(score_dir=str(tmp_path)))
    assert read_request(*arguments).autocast_dtype is None
    assert (
        read_request(*arguments, as_trained=AsTrained(training_dtype=torch.bfloat16)).autocast_dtype is torch.bfloat16
    )


@pytest.mark.parametrize("entry", [score_pool, plan_pool, lambda *a: score_shard(*a, shard=(0, 2))])
@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"score_dir": "elsewhere"}, "`score_dir='here'` must be the config's `score_dir`, which is 'elsewhere'"),
        ({"reselect": "epoch"}, "`reselect` only applies to training"),
        ({"match_full_steps": True}, "`match_full_steps` only applies to training"),
        ({"response_field": "output"}, "`response_field='output'` needs a `formatting_func`"),
        ({"scorer_model": "nuggets-demo/model"}, "must be the model that is passed, which is ''. Pass"),
        ({"anchors": "a.jsonl"}, "`anchors` and the config's `anchors='a.jsonl'` both say what the anchors are"),
        ({"group_by": "origin"}, "`group_by='origin'` is not a column of `dataset`"),
        ({"combine_anchor_sets": "worst"}, "needs several anchor sets"),
    ],
    ids=str,
)
def test_what_scoring_cannot_do_is_refused(entry, config, message, llama, tokenizer, pool, anchors):
    with pytest.raises(ValueError, match=message):
        entry(llama, tokenizer, pool, anchors, NuggetsConfig(**config), "here")


def test_scores_must_go_somewhere(llama, tokenizer, pool, anchors):
    with pytest.raises(ValueError, match="`score_dir` must say where scores and results go"):
        score_pool(llama, tokenizer, pool, anchors)


def test_anchors_without_their_split_are_refused(llama, tokenizer, pool, anchors, tmp_path):
    with pytest.raises(TypeError, match="`anchors` must be one split"):
        score_pool(llama, tokenizer, pool, DatasetDict(train=anchors), score_dir=tmp_path)
    with pytest.raises(ValueError, match="`anchors` is an empty mapping"):
        score_pool(llama, tokenizer, pool, {}, score_dir=tmp_path)


def test_options_for_a_pool_that_is_read_already_are_refused(llama, tokenizer, pool, anchors, tmp_path):
    """They say how rows are read, and it has read them otherwise."""
    ready = Pool(pool)
    cases = [
        (
            {"row_options": RowOptions(dataset_text_field="content")},
            "`dataset_text_field` must be given when a `Pool`",
        ),
        ({"row_options": RowOptions(completion_only_loss=False)}, "`completion_only_loss` must be given"),
        ({"formatting_func": lambda row: row["output"]}, "`formatting_func` must be given"),
        ({"config": NuggetsConfig(pool_size=3)}, "`pool_size` must be given"),
    ]
    for options, message in cases:
        with pytest.raises(ValueError, match=message):
            score_pool(llama, tokenizer, ready, anchors, score_dir=tmp_path, **options)
    same = RowOptions(completion_only_loss=True)  # what the rows have by default
    assert (
        read_request(llama, tokenizer, ready, anchors, score_dir=tmp_path, as_trained=AsTrained(row_options=same)).pool
        is ready
    )


def test_a_loaded_scorer_model_is_the_one_that_the_config_names(tokenizer, pool, anchors, tmp_path):
    model = tiny_model("llama", len(tokenizer))
    model.config._name_or_path = "some/model"
    config = NuggetsConfig(scorer_model="some/model", score_dir=str(tmp_path))
    assert read_request(model, tokenizer, pool, anchors, config).config is config


def test_row_options_change_the_tokenizer_of_the_scorer_alone(llama, tokenizer, pool, anchors, tmp_path):
    template = tmp_path / "chat.jinja"
    template.write_text("{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}")
    eos_token = tokenizer.convert_ids_to_tokens(9)
    options = RowOptions(chat_template_path=str(template), eos_token=eos_token)
    before = tokenizer.chat_template, tokenizer.eos_token
    request = read_request(
        llama, tokenizer, pool, anchors, score_dir=tmp_path, as_trained=AsTrained(row_options=options)
    )
    assert request.tokenizer.chat_template == template.read_text() and request.tokenizer.eos_token == eos_token
    assert request.template.name == "chat"
    assert (tokenizer.chat_template, tokenizer.eos_token) == before
    # A scorer model keeps its own: training does not touch its tokenizer.
    config = NuggetsConfig(scorer_model="some/model")
    model = tiny_model("llama", len(tokenizer))
    model.config._name_or_path = "some/model"
    request = read_request(
        model, tokenizer, pool, anchors, config, tmp_path, as_trained=AsTrained(row_options=options)
    )
    assert request.tokenizer is tokenizer


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"eos_token": "<|no such|>"}, ValueError, "`eos_token` must be a token of the tokenizer's vocabulary"),
        ({"chat_template_path": "some/tokenizer"}, ValueError, "`chat_template_path` must be a file that ends in"),
        ({"chat_template_path": "no.jinja"}, FileNotFoundError, "there is no file 'no.jinja'"),
        ({"assistant_only_loss": True}, ValueError, "Pass `training_chat_template`"),
    ],
    ids=str,
)
def test_row_options_that_cannot_be_obeyed_are_refused(options, error, message, llama, tokenizer, pool, tmp_path):
    with pytest.raises(error, match=message):
        score_pool(llama, tokenizer, pool, score_dir=tmp_path, row_options=RowOptions(**options))


def test_a_url_may_be_given_twice_in_two_spellings(llama, tokenizer, pool, anchors):
    config = NuggetsConfig(score_dir="memory://scores/")
    request = read_request(llama, tokenizer, pool, anchors, config, "memory://scores")
    assert join(request.score_dir, "x").endswith("scores/x")
