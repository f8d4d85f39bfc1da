"""Bad input is refused before the first forward pass: what is wrong, what was expected, what to do."""

from __future__ import annotations

import copy
import os
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset, DatasetDict
from transformers import (
    AutoModelForCausalLM,
    BertConfig,
    BertForMaskedLM,
    LlamaConfig,
    LlamaModel,
    T5Config,
    T5ForConditionalGeneration,
)

from nuggets_trainer.config.nuggets_config import NuggetsConfig
from nuggets_trainer.data.anchors import anchors_like
from nuggets_trainer.data.pool import Pool
from nuggets_trainer.engine.loading import load_scorer
from nuggets_trainer.engine.model import check_causal_lm
from nuggets_trainer.pipeline.score_pool import score_pool
from nuggets_trainer.training.trainer import SelectedSFTTrainer
from recipes.train import parse

CONTEXT = 512  # of the tiny models
LONG = "red " * (CONTEXT + 50)


@pytest.fixture()
def guarded(llama):
    """Give a real model that refuses to run."""

    def refuse(*_: object) -> None:
        raise AssertionError("a forward pass ran")

    hook = llama.register_forward_pre_hook(refuse)
    yield llama
    hook.remove()


@pytest.fixture()
def run(tokenizer, tmp_path):
    """Score the rows as `nuggets score` and the trainer do."""

    def score(
        model, rows, anchor_rows=None, template="plain", score_dir=tmp_path / "scores", tokenizer=tokenizer, **config
    ):
        pool = Pool(rows if not isinstance(rows, list) else Dataset.from_list(rows))
        anchors = None if anchor_rows is None else anchors_like(Dataset.from_list(anchor_rows), pool)
        return score_pool(
            model,
            tokenizer,
            pool,
            anchors,
            config=NuggetsConfig(template=template, **config),
            score_dir=score_dir,
        )

    return score


def test_the_guard_sees_the_first_forward_pass(guarded, run, pool_rows, anchor_rows):
    with pytest.raises(AssertionError, match="a forward pass ran"):
        run(guarded, pool_rows, anchor_rows, top_k=2)


# ---------------------------------------------------------------- rows


@pytest.mark.parametrize("missing", ["instruction", "output"])
def test_missing_columns_are_found_with_the_expected_ones_shown(missing, guarded, run, pool_rows, anchor_rows):
    rows = [{name: text for name, text in row.items() if name != missing} for row in pool_rows]
    left = sorted({"instruction", "input", "output"} - {missing})
    with pytest.raises(
        ValueError, match=rf"`train_dataset` has the columns \['{left[0]}', '{left[1]}'\].*Expected .*`instruction`"
    ):
        run(guarded, rows, anchor_rows)


def test_anchors_with_unknown_columns_are_shown_beside_the_pools(guarded, run, pool_rows):
    with pytest.raises(
        ValueError, match=r"`anchors` has the columns \['answer', 'question'\].*\['input', 'instruction', 'output'\]"
    ):
        run(guarded, pool_rows, [{"question": "a", "answer": "b"}])


def test_a_dataset_dict_is_refused_by_the_trainer_before_anything_is_loaded(pool, tmp_path):
    splits = DatasetDict(train=pool, test=pool)
    with pytest.raises(
        TypeError, match=r"`train_dataset` must be one split, got DatasetDict with the splits \['test', 'train'\]"
    ):
        SelectedSFTTrainer(model="no/such-model", train_dataset=splits, nuggets_config=NuggetsConfig())


def test_an_empty_pool_is_refused(guarded, run):
    with pytest.raises(ValueError, match="`train_dataset` is empty"):
        run(guarded, Dataset.from_dict({"instruction": [], "output": []}))


def test_a_pool_of_empty_completions_is_refused_with_the_count(guarded, run, pool_rows, anchor_rows):
    rows = [{**row, "output": " "} for row in pool_rows]
    with pytest.raises(
        ValueError, match=r"No row of the pool can be scored: all 12 were dropped \(empty_completion 12\)"
    ):
        run(guarded, rows, anchor_rows)


def test_anchors_without_any_completion_are_refused_with_the_count(guarded, run, pool_rows, anchor_rows):
    rows = [{**row, "output": ""} for row in anchor_rows]
    with pytest.raises(ValueError, match=r"No anchor can be scored: all 5 were dropped \(empty_completion 5\)"):
        run(guarded, pool_rows, rows)


# ---------------------------------------------------------------- numbers


@pytest.mark.parametrize("rules", [{"top_fraction": 0.1, "top_k": 5}, {"top_k": 5, "threshold": 0.5}])
def test_two_rules_are_refused(rules):
    with pytest.raises(ValueError, match=r"Expected one selection rule, got `\w+=.*` and `\w+=.*`\. Keep one"):
        NuggetsConfig(**rules)


@pytest.mark.parametrize("value", [0, 1.5])
def test_a_fraction_outside_its_range_is_refused(value):
    with pytest.raises(ValueError, match=rf"`top_fraction` must be in \(0, 1\], got {value}\. Write 0\.1 for 10%"):
        NuggetsConfig(top_fraction=value)


def test_k_larger_than_the_usable_pool_is_refused_with_the_reasons(guarded, run, pool_rows, anchor_rows):
    rows = [*pool_rows[:3], {**pool_rows[3], "output": ""}]
    message = r"`top_k=4` is larger than the usable pool: 3 of 4 rows can be scored \(dropped: empty_completion 1\)"
    with pytest.raises(ValueError, match=rf"{message}\. Lower `top_k`"):
        run(guarded, rows, anchor_rows, top_k=4)


def test_rows_too_long_for_the_model_do_not_count_as_usable(guarded, run, pool_rows, anchor_rows):
    rows = [*pool_rows[:3], {**pool_rows[3], "instruction": LONG}]
    message = r"`top_k=4` is larger than the usable pool: 3 of 4 rows can be scored \(dropped: too_long 1\)"
    with pytest.raises(ValueError, match=message):
        run(guarded, rows, anchor_rows, top_k=4)


@pytest.mark.parametrize("anchor_selection", ["kmeans", "random"])
def test_fewer_usable_rows_than_anchors_are_refused(anchor_selection, guarded, run, pool_rows):
    rows = [*pool_rows[:5], {**pool_rows[5], "output": ""}]
    message = r"`num_anchors` must be at most the number of usable pool rows \(5\), got 6\. Lower `num_anch"
    with pytest.raises(ValueError, match=message):
        run(guarded, rows, num_anchors=6, anchor_selection=anchor_selection)


def test_the_default_number_of_anchors_is_named_when_the_pool_is_too_small_for_it(guarded, run, pool_rows):
    with pytest.raises(
        ValueError, match=r"`num_anchors` must be at most the number of usable pool rows \(12\), got 100"
    ):
        run(guarded, pool_rows)


# ---------------------------------------------------------------- the model's context


def test_a_pool_of_too_long_rows_is_refused_with_the_count(guarded, run, pool_rows, anchor_rows):
    rows = [{**row, "instruction": LONG} for row in pool_rows]
    with pytest.raises(ValueError, match=r"No row of the pool can be scored: all 12 were dropped \(too_long 12\)"):
        run(guarded, rows, anchor_rows)


@pytest.mark.parametrize("anchor_selection", ["kmeans", "random"])
def test_a_pool_of_too_long_rows_is_refused_too_when_anchors_come_from_it(anchor_selection, guarded, run, pool_rows):
    rows = [{**row, "instruction": LONG} for row in pool_rows]
    with pytest.raises(ValueError, match="too_long (12|3)|rows .0., got"):
        run(guarded, rows, num_anchors=3, anchor_selection=anchor_selection)


def test_too_long_anchors_are_refused_with_the_context(guarded, run, pool_rows, anchor_rows):
    rows = [{**row, "instruction": LONG} for row in anchor_rows]
    with pytest.raises(ValueError, match=rf"No anchor can be scored.*\(too_long 5\).*context is {CONTEXT} tokens"):
        run(guarded, pool_rows, rows)


def test_a_prompt_longer_than_the_context_is_dropped_and_the_others_are_scored(llama, run, pool_rows, anchor_rows):
    rows = [{**pool_rows[0], "instruction": LONG}, *pool_rows[1:]]
    scores, golden_set = run(llama, rows, [*anchor_rows, {**anchor_rows[0], "instruction": LONG}], top_k=11)
    assert scores.dropped == ["too_long", *[None] * 11]
    assert scores.anchors.dropped == [*[None] * 5, "too_long"]
    assert sorted(golden_set.indices.tolist()) == list(range(1, 12))
    assert np.isnan(scores.golden_score).tolist() == [True, *[False] * 11]
    assert "dropped 1 (too_long 1); anchors dropped 1 (too_long 1)" in scores.describe()


# ---------------------------------------------------------------- tokenizers


@pytest.mark.parametrize(
    ("template", "attribute", "message"),
    [
        (
            "nuggets",
            "bos_token",
            r"`template='nuggets'`.*BOS.*tokenizer has none.*`tokenizer\.bos_token` or use `template='plain'`",
        ),
        ("plain", "eos_token", r"`template='plain'`.*EOS.*tokenizer has none.*Set `eos_token`"),
        (
            "chat",
            "chat_template",
            r"`template='chat'`.*chat template.*tokenizer has none.*`chat_template_path`.*`template='plain'`",
        ),
    ],
)
def test_a_tokenizer_without_what_the_template_needs_is_refused(
    template, attribute, message, guarded, run, tokenizer, pool_rows, anchor_rows
):
    lacking = copy.deepcopy(tokenizer)
    setattr(lacking, attribute, None)
    with pytest.raises(ValueError, match=message):
        run(guarded, pool_rows, anchor_rows, template=template, tokenizer=lacking)


@pytest.mark.parametrize("template", ["chat", "plain", "nuggets"])
def test_a_tokenizer_without_pad_scores_the_same(template, llama, run, tokenizer, pool_rows, anchor_rows, tmp_path):
    lacking = copy.deepcopy(tokenizer)
    lacking.pad_token = None
    results = [
        run(llama, pool_rows, anchor_rows, template=template, tokenizer=used, top_k=3, score_dir=tmp_path / name)
        for name, used in (("with", tokenizer), ("without", lacking))
    ]
    assert results[1][1].indices.tolist() == results[0][1].indices.tolist()
    np.testing.assert_array_equal(results[1][0].golden_score, results[0][0].golden_score)
    assert len(set(results[0][0].mean_gain.tolist())) > 1


# ---------------------------------------------------------------- models


SIZES = {"vocab_size": 64, "hidden_size": 32}


def bert() -> BertForMaskedLM:
    return BertForMaskedLM(BertConfig(num_hidden_layers=1, num_attention_heads=2, intermediate_size=64, **SIZES))


def t5() -> T5ForConditionalGeneration:
    return T5ForConditionalGeneration(T5Config(vocab_size=64, d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2))


def llama_body() -> LlamaModel:
    return LlamaModel(LlamaConfig(num_hidden_layers=1, num_attention_heads=2, intermediate_size=64, **SIZES))


HEADLESS = [
    (bert, r"BertForMaskedLM \(bert\)"),
    (t5, r"T5ForConditionalGeneration \(t5\)"),
    (llama_body, r"LlamaModel \(llama\)"),
]
MESSAGE = r"must be a decoder-only language model with its head, got {}\. Expected.*AutoModelForCausalLM.*LlamaFor"


@pytest.mark.parametrize(("build", "got"), HEADLESS)
def test_a_checkpoint_without_a_causal_head_is_not_loaded(build, got, tmp_path):
    model = build()
    model.save_pretrained(tmp_path / "model")
    for weights in (tmp_path / "model").glob("*.safetensors"):
        weights.unlink()  # refused before gigabytes are read
    with pytest.raises(ValueError, match=MESSAGE.format(got)):
        load_scorer(str(tmp_path / "model"))
    with pytest.raises(ValueError, match=MESSAGE.format(got)):
        check_causal_lm(model.config)


@pytest.mark.parametrize(("build", "got"), HEADLESS)
def test_a_model_without_a_causal_head_is_refused_before_scoring(build, got, run, pool_rows, anchor_rows):
    """A model that was never saved has no `architectures` in its config: its class tells."""
    model = build()
    model.register_forward_pre_hook(lambda *_: pytest.fail("a forward pass ran"))
    with pytest.raises(
        ValueError, match="must be a decoder-only language model with its head, got " + got.split(" ")[0]
    ):
        run(model, pool_rows, anchor_rows)


def test_a_body_that_was_given_a_random_head_on_loading_is_refused(run, pool_rows, anchor_rows, tmp_path):
    """`AutoModelForCausalLM` completes a body with random weights, and only logs it."""
    llama_body().save_pretrained(tmp_path / "body")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "body")
    with pytest.raises(ValueError, match=MESSAGE.format(r"LlamaModel \(llama\)")):
        run(model, pool_rows, anchor_rows)


def test_an_encoder_with_the_head_of_a_decoder_is_refused(tmp_path):
    """`BertLMHeadModel` without `is_decoder` looks at the tokens that it is asked to predict."""
    sizes = {"num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64, **SIZES}
    check_causal_lm(BertConfig(architectures=["BertLMHeadModel"], is_decoder=True, **sizes))
    with pytest.raises(ValueError, match="must be a decoder-only language model"):
        check_causal_lm(BertConfig(architectures=["BertLMHeadModel"], **sizes))


def test_the_trainer_refuses_a_model_without_a_causal_head(pool, tokenizer):
    with pytest.raises(ValueError, match="must be a decoder-only language model with its head"):
        SelectedSFTTrainer(model=t5(), processing_class=tokenizer, train_dataset=pool, nuggets_config=NuggetsConfig())


def test_a_causal_model_passes_the_check(llama):
    check_causal_lm(llama.config)
    check_causal_lm(LlamaConfig(architectures=["LlamaForCausalLM"]))
    check_causal_lm(LlamaConfig(architectures=["Gemma3ForConditionalGeneration"]))  # a text model inside a larger one


# ---------------------------------------------------------------- the score directory


@pytest.mark.parametrize("below", ["", "deeper", "deeper/still"])
def test_a_file_in_the_way_of_the_score_directory_is_named(below, guarded, run, pool_rows, anchor_rows, tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(NotADirectoryError, match=r"`score_dir='.*file.*'` must be a directory"):
        run(guarded, pool_rows, anchor_rows, score_dir=tmp_path / "file" / below)
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.skipif(
    not Path("/proc/self").is_dir(), reason="needs a directory in which even root cannot create a file"
)
@pytest.mark.parametrize("directory", ["/proc", "/proc/nuggets-scores"])
def test_a_score_directory_that_cannot_be_written_to_is_refused(directory, guarded, run, pool_rows, anchor_rows):
    with pytest.raises(PermissionError, match=rf"`score_dir='{directory}'` must be writable, got: .*name a directory"):
        run(guarded, pool_rows, anchor_rows, score_dir=directory)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_score_directory_is_refused(guarded, run, pool_rows, anchor_rows, tmp_path):
    (tmp_path / "mine").mkdir(mode=0o500)
    with pytest.raises(PermissionError, match=r"`score_dir='.*mine'` must be writable, got: Permission denied"):
        run(guarded, pool_rows, anchor_rows, score_dir=tmp_path / "mine")


def test_a_score_directory_that_is_not_there_is_made(guarded, run, pool_rows, anchor_rows, tmp_path):
    with pytest.raises(AssertionError, match="a forward pass ran"):
        run(guarded, pool_rows, anchor_rows, top_k=2, score_dir=tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()
    assert not list((tmp_path / "a" / "b").glob(".probe*"))


# ---------------------------------------------------------------- config files


@pytest.fixture()
def config_file(tmp_path):
    def write(text: str) -> str:
        path = tmp_path / "config.yaml"
        path.write_text(f"output_dir: {tmp_path}\nreport_to: none\nuse_cpu: true\n{text}" if text else "")
        return str(path)

    return write


RIGHT = "model_name_or_path: nuggets-demo/model\ndataset_name: nuggets-demo/pool\n"


def test_a_config_file_without_mistakes_is_read(config_file):
    script, _, model, nuggets = parse(["--config", config_file(RIGHT + "top_k: 7\nanchors: a.jsonl\n")])
    assert (script.dataset_name, model.model_name_or_path) == ("nuggets-demo/pool", "nuggets-demo/model")
    assert (nuggets.selection_rule, nuggets.anchors) == (("top_k", 7), "a.jsonl")


def test_the_command_line_wins_over_the_config_file(config_file):
    path = config_file(RIGHT + "top_k: 7\n")
    assert parse(["--config", path, "--top_k", "9"])[3].selection_rule == ("top_k", 9)
    assert parse([f"--config={path}", "--top_k=9"])[3].selection_rule == ("top_k", 9)


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("top_fracton", "top_fraction"),
        ("num_anchor", "num_anchors"),
        ("learning_rte", "learning_rate"),
        ("top-k", "top_k"),
    ],
)
def test_a_misspelled_key_of_a_config_file_is_named_with_the_right_one(wrong, right, config_file):
    with pytest.raises(
        ValueError,
        match=rf"Config file .*config\.yaml has the key `{wrong}`, which no argument has\. Did you mean `{right}`\?",
    ):
        parse(["--config", config_file(f"{RIGHT}{wrong}: 1\n")])


def test_an_unknown_key_of_a_config_file_that_resembles_none_is_named(config_file):
    with pytest.raises(ValueError, match=r"has the key `zzzzqqqq`, which no argument has\. See `--help`"):
        parse(["--config", config_file(f"{RIGHT}zzzzqqqq: 1\n")])


def test_an_unknown_option_of_the_command_line_is_named(config_file):
    with pytest.raises(ValueError, match="--top_fracton"):
        parse(["--config", config_file(RIGHT), "--top_fracton", "0.2"])


@pytest.mark.parametrize(
    ("line", "error", "message"),
    [
        ("top_k: 2.5", TypeError, r"`top_k` must be a whole number, got 2\.5"),
        ("top_k: true", TypeError, "`top_k` must be a whole number, got True"),
        ("top_fraction: 1.5", ValueError, r"`top_fraction` must be in \(0, 1\], got 1\.5"),
        ("template: chatty", ValueError, "`template` must be one of auto, chat, plain, nuggets, got 'chatty'"),
        ("top_k: 5\ntop_fraction: 0.5", ValueError, "Expected one selection rule"),
    ],
)
def test_values_of_a_config_file_are_checked_like_those_of_the_command_line(line, error, message, config_file):
    with pytest.raises(error, match=message):
        parse(["--config", config_file(f"{RIGHT}{line}\n")])


def test_a_config_file_that_holds_no_mapping_is_refused(config_file, tmp_path):
    with pytest.raises(
        ValueError, match=r"Config file .*config\.yaml must hold a YAML mapping of argument names to values"
    ):
        parse(["--config", config_file("")])


def test_a_missing_config_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"There is no config file '.*none\.yaml'"):
        parse(["--config", str(tmp_path / "none.yaml")])


@pytest.mark.parametrize(
    ("text", "missing"),
    [
        ("dataset_name: a.jsonl\n", "--model_name_or_path"),
        ("model_name_or_path: m\n", "--dataset_name"),
        ("top_k: 1\n", "--model_name_or_path and --dataset_name"),
    ],
)
def test_what_is_missing_from_a_config_file_is_named(text, missing, config_file):
    with pytest.raises(ValueError, match=rf"Training needs {missing} \(or no arguments at all, for the demo\)"):
        parse(["--config", config_file(text)])


# ---------------------------------------------------------------- contradictions in the trainer's arguments


def test_anchors_without_a_nuggets_config_are_refused(pool, anchors):
    with pytest.raises(
        ValueError, match="`anchor_dataset` is given without `nuggets_config`. Pass a `nuggets_config`"
    ):
        SelectedSFTTrainer(model="no/such-model", train_dataset=pool, anchor_dataset=anchors)


def test_anchors_given_twice_are_refused(pool, anchors):
    config = NuggetsConfig(anchors="a.jsonl")
    with pytest.raises(ValueError, match=r"`anchor_dataset` and the config's `anchors='a\.jsonl'` both say.*Keep one"):
        SelectedSFTTrainer(model="no/such-model", train_dataset=pool, anchor_dataset=anchors, nuggets_config=config)


def test_a_trainer_without_a_pool_is_refused(tokenizer):
    with pytest.raises(TypeError, match=r"`train_dataset` must be a datasets\.Dataset, got NoneType"):
        SelectedSFTTrainer(model="no/such-model", nuggets_config=NuggetsConfig())


# ---------------------------------------------------------------- tokens that the model does not have


def test_a_token_without_an_embedding_is_refused(guarded, run, tokenizer, tmp_path):
    """It ended in an IndexError in mid-scoring, with most of the pool scored."""
    larger = copy.deepcopy(tokenizer)
    larger.add_tokens(["<extra>"])
    rows = [{"instruction": f"Say {i}.", "output": f"{i} it is."} for i in range(8)]
    beyond = [*rows, {"instruction": "Say it.", "output": "<extra> it is."}]
    message = r"got {:,} rows, but row {} of `{}` has the token '<extra>' with the id {:,}.*resize_token_embeddings"
    size = len(tokenizer)
    for template in ("plain", "nuggets"):
        with pytest.raises(ValueError, match=message.format(size, 8, "train_dataset", size)):
            run(guarded, beyond, rows[:3], template=template, tokenizer=larger)
        with pytest.raises(ValueError, match=message.format(size, 8, "anchors", size)):
            run(guarded, rows, beyond, template=template, tokenizer=larger)
    with pytest.raises(ValueError, match=message.format(size, 8, "train_dataset", size)):
        run(guarded, beyond, template="plain", tokenizer=larger, num_anchors=3)  # before rows are embedded


def test_ids_without_an_embedding_are_refused(guarded, run, tokenizer):
    """Ids that not even the tokenizer has drop their row; here the tokenizer has the token, and the model has not."""
    larger = copy.deepcopy(tokenizer)
    larger.add_tokens(["<extra>"])
    rows = [{"input_ids": [5, 6, 7, 8 + i], "labels": [-100, -100, 7, 8 + i]} for i in range(5)]
    rows[3]["input_ids"][0] = len(tokenizer)
    with pytest.raises(ValueError, match=rf"row 3 of .* with the id {len(tokenizer):,}"):
        run(guarded, rows, rows[:2], template="auto", tokenizer=larger)


def test_a_larger_tokenizer_scores_what_it_can(llama, run, tokenizer):
    """A padding token that no row has is a token that the model need not have."""
    larger = copy.deepcopy(tokenizer)
    larger.add_special_tokens({"pad_token": "<mine>"})
    rows = [{"instruction": f"Say {i}.", "output": f"{i} it is."} for i in range(8)]
    scores, _ = run(llama, rows, rows[:3], tokenizer=larger)
    assert np.isfinite(scores.golden_score).all()
