"""Scoring with another model than the tuned one: its weights, tokenizer and template; quantized ones too."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest
import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import BitsAndBytesConfig, LlamaForCausalLM
from trl import SFTConfig

from nuggets_trainer import NuggetsConfig, Pool, SelectedSFTTrainer, load_rows, load_scorer, score_pool
from nuggets_trainer.cli import main
from nuggets_trainer.engine.log_probs import LogProbEngine
from tests.support import oracle
from tests.support.models import tiny_model
from tests.support.rows import alpaca_rows
from tests.support.segments import random_prefix, random_segments

SCORER = "nuggets-demo/model"


def trainer_with(tokenizer, tmp_path, **options):
    """A tuned model of another family than the scorer, and a tokenizer without a chat template."""
    model = tiny_model("qwen2", len(tokenizer))
    return SelectedSFTTrainer(
        model=model,
        args=SFTConfig(output_dir=str(tmp_path), max_steps=1, bf16=False, report_to="none", disable_tqdm=True),
        train_dataset=Dataset.from_list(alpaca_rows(12, seed=1)),
        anchor_dataset=Dataset.from_list(alpaca_rows(5, seed=2)),
        processing_class=tokenizer,
        peft_config=LoraConfig(),
        nuggets_config=NuggetsConfig(top_k=3, template="plain", schedule="exact", **options),
    )


def test_the_scorer_model_scores_and_the_tuned_model_is_tuned(tokenizer, tmp_path, monkeypatch):
    alive = []
    forward = LlamaForCausalLM.forward

    def seen(self, *args, **kwargs):
        alive.append(weakref.ref(self))
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(LlamaForCausalLM, "forward", seen)
    trainer = trainer_with(tokenizer, tmp_path / "a", scorer_model=SCORER)
    trainer.train()
    model, scorer_tokenizer = load_scorer(SCORER)
    _, _, expected = oracle.golden(
        model, scorer_tokenizer, "plain", alpaca_rows(12, seed=1), alpaca_rows(5, seed=2), exclude_self=True
    )
    assert trainer.scores.golden_score.tolist() == expected.tolist()
    assert trainer.state.global_step == 1 and len(trainer.train_dataset) == 3
    gc.collect()
    assert alive and all(ref() in (None, model) for ref in alive)  # freed before training

    other = trainer_with(tokenizer, tmp_path / "b")
    other.train()
    assert other.scores.golden_score.tolist() != expected.tolist()  # by the tuned model: other scores


def test_a_checkpoint_knows_which_model_scored(tokenizer, tmp_path):
    trainer_with(tokenizer, tmp_path, scorer_model=SCORER).train()
    with pytest.raises(ValueError, match="scorer_model"):
        trainer_with(tokenizer, tmp_path).train(resume_from_checkpoint=True)


def test_a_scorer_model_that_cannot_score_is_refused_before_anything_runs(tokenizer, tmp_path):
    from transformers import BertConfig

    BertConfig(architectures=["BertForMaskedLM"]).save_pretrained(tmp_path / "bert")
    with pytest.raises(ValueError, match="must be a decoder-only language model"):
        trainer_with(tokenizer, tmp_path, scorer_model=str(tmp_path / "bert"))


def test_the_command_line_scores_with_the_scorer_model_of_a_training_config(tokenizer, tmp_path, pool_rows):
    """One YAML for both programs: the store that `nuggets score` fills is the one that training reads."""
    Dataset.from_list(alpaca_rows(12, seed=1)).to_json(tmp_path / "pool.jsonl")
    Dataset.from_list(alpaca_rows(5, seed=2)).to_json(tmp_path / "anchors.jsonl")
    arguments = {
        "model_name_or_path": "no/such-model",
        "dataset_name": tmp_path / "pool.jsonl",
        "anchors": tmp_path / "anchors.jsonl",
        "template": "plain",
        "top_k": 3,
        "schedule": "exact",
        "scorer_model": SCORER,
        "scorer_model_init_kwargs": '{"dtype": "float32"}',
        "score_dir": tmp_path / "scores",
    }
    assert main(["score", *(str(part) for name, value in arguments.items() for part in (f"--{name}", value))]) == 0
    trainer = trainer_with(
        tokenizer,
        tmp_path / "out",
        scorer_model=SCORER,
        scorer_model_init_kwargs={"dtype": "float32"},
        score_dir=str(tmp_path / "scores"),
    )
    trainer.select()
    assert trainer.scores.num_pairs_scored == 0


@pytest.mark.parametrize("quantization", [{"load_in_4bit": True}, {"load_in_8bit": True}], ids=["4bit", "8bit"])
def test_a_quantized_scorer_gives_its_own_naive_log_probs(quantization, tmp_path):
    pytest.importorskip("bitsandbytes", reason="needs the extra `quantization`")
    config = BitsAndBytesConfig(**quantization)
    model, tokenizer = load_scorer(SCORER, quantization_config=config, device_map={"": "cpu"}, dtype=torch.bfloat16)
    segments, prefix = random_segments(6, seed=1), random_prefix(40)
    expected = [oracle.mean_log_prob(model, prefix + s.ids[: s.start], s.ids[s.start :]) for s in segments]
    found = LogProbEngine(model).score(prefix, segments)
    full, _ = load_scorer(SCORER)
    exact = LogProbEngine(full).score(prefix, segments)
    # Eight bits of mantissa; and 8-bit layers treat the outliers of a batch together, so batches matter a little.
    assert np.abs(found - expected).max() < 0.1
    assert np.abs(found - exact).max() > 1e-3  # it was quantized
    pool, anchors = (Pool(load_rows(f"nuggets-demo/{n}").select(range(4))) for n in ("pool", "anchors"))
    # Loaded again: after the forward passes above, 4-bit weights may be packed in another way.
    model, _ = load_scorer(SCORER, quantization_config=config, device_map={"": "cpu"}, dtype=torch.bfloat16)
    scores, _ = score_pool(model, tokenizer, pool, anchors, config=NuggetsConfig(top_k=1), score_dir=tmp_path)
    assert np.isfinite(scores.golden_score).all()


@pytest.mark.parametrize("value", ["{", "[1]", 3])
def test_scorer_kwargs_that_are_no_mapping_are_named(value):
    with pytest.raises(TypeError, match="`scorer_model_init_kwargs` must be a mapping or a JSON object, got"):
        NuggetsConfig(scorer_model="m", scorer_model_init_kwargs=value)


def test_scorer_kwargs_without_a_scorer_are_an_error():
    with pytest.raises(ValueError, match="needs `scorer_model`, which is not given"):
        NuggetsConfig(scorer_model_init_kwargs={"dtype": "bfloat16"})
