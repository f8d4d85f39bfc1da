"""Batching, padding and the prefix cache are execution strategies: they never change a log-prob."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    MambaConfig,
    MambaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    OPTConfig,
    OPTForCausalLM,
)

from nuggets_trainer.engine import LogProbEngine, resolve_autocast_dtype
from nuggets_trainer.segment import Segment
from tests.conftest import tiny_model
from tests.oracle import mean_log_prob

VOCAB = 97


def random_segments(num_segments: int, seed: int) -> list[Segment]:
    generator = np.random.default_rng(seed)
    segments = []
    for _ in range(num_segments):
        length = int(generator.integers(2, 40))
        ids = generator.integers(0, VOCAB, length).tolist()
        segments.append(Segment(ids, int(generator.integers(1, length))))
    return segments


def random_prefix(length: int = 23) -> list[int]:
    return np.random.default_rng(5).integers(0, VOCAB, length).tolist()


@pytest.mark.parametrize("family", ["llama", "qwen2"])
@pytest.mark.parametrize("prefix", [[], random_prefix()], ids=["zero-shot", "one-shot"])
def test_log_probs_equal_one_sequence_at_a_time(family, prefix):
    model = tiny_model(family, VOCAB)
    segments = random_segments(17, seed=1)
    expected = [mean_log_prob(model, prefix + s.ids[: s.start], s.ids[s.start :]) for s in segments]
    found = LogProbEngine(model).score(prefix, segments)
    # 1e-5 nats per token: what float32 attention and log-softmax leave, two orders below any gain that matters.
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
    assert np.ptp(expected) > 1.0  # the segments are told apart


def test_log_probs_do_not_depend_on_the_token_budget():
    model, segments, prefix = tiny_model("llama", VOCAB), random_segments(17, seed=2), random_prefix()
    batch_counts, results = [], []
    for tokens_per_batch in (1, 200, 100_000):
        engine = LogProbEngine(model, tokens_per_batch)
        batch_counts.append(len(list(engine._batches([len(s.ids) for s in segments], len(prefix)))))
        results.append(engine.score(prefix, segments))
    assert (
        batch_counts[0] == 17 and batch_counts[2] == 1 and 1 < batch_counts[1] < 17
    )  # the option changed the batches
    np.testing.assert_allclose(results[1], results[0], rtol=0, atol=1e-5)
    np.testing.assert_allclose(results[2], results[0], rtol=0, atol=1e-5)


def test_batches_hold_every_segment_once_within_the_budget():
    engine = LogProbEngine(tiny_model("llama", VOCAB), tokens_per_batch=150)
    lengths = [len(s.ids) for s in random_segments(40, seed=3)]
    batches = list(engine._batches(lengths, prefix_length=10))
    assert sorted(i for batch in batches for i in batch) == list(range(40))
    assert all(len(batch) == 1 or len(batch) * (10 + max(lengths[i] for i in batch)) <= 150 for batch in batches)


def test_the_prefix_changes_the_log_probs():
    engine, segments = LogProbEngine(tiny_model("llama", VOCAB)), random_segments(8, seed=4)
    alone, behind = engine.score([], segments), engine.score(random_prefix(), segments)
    assert np.abs(alone - behind).min() > 1e-3


def test_bfloat16_log_probs_are_those_of_a_bfloat16_forward_pass():
    model, segments, prefix = tiny_model("llama", VOCAB), random_segments(6, seed=6), random_prefix()
    exact = LogProbEngine(model).score(prefix, segments)
    autocast = LogProbEngine(model, autocast_dtype=torch.bfloat16).score(prefix, segments)
    assert 1e-4 < np.abs(autocast - exact).max() < 0.2  # 8 bits of mantissa: other numbers, the same quantity
    half = LogProbEngine(model.bfloat16()).score(prefix, segments)
    assert 1e-4 < np.abs(half - exact).max() < 0.2


def other_model(name: str):
    """A tiny model, with random weights, of a family whose cache or positions are unlike Llama's."""
    torch.manual_seed(0)
    sizes = {"vocab_size": VOCAB, "hidden_size": 32, "num_hidden_layers": 2, "initializer_range": 0.3}
    heads = {"num_attention_heads": 4, "intermediate_size": 64, "max_position_embeddings": 256}
    models = {
        "gpt2": lambda: GPT2LMHeadModel(
            GPT2Config(vocab_size=VOCAB, n_embd=32, n_layer=2, n_head=4, n_positions=256, initializer_range=0.3)
        ),
        "opt": lambda: OPTForCausalLM(
            OPTConfig(
                vocab_size=VOCAB,
                hidden_size=32,
                num_hidden_layers=2,
                ffn_dim=64,
                num_attention_heads=4,
                max_position_embeddings=256,
                word_embed_proj_dim=32,
                init_std=0.3,
            )
        ),
        "bloom": lambda: BloomForCausalLM(
            BloomConfig(vocab_size=VOCAB, hidden_size=32, n_layer=2, n_head=4, initializer_range=0.3)
        ),
        "gemma3": lambda: Gemma3ForCausalLM(
            Gemma3TextConfig(**sizes, **heads, head_dim=8, num_key_value_heads=2, sliding_window=16)
        ),
        "mistral, window 16": lambda: MistralForCausalLM(
            MistralConfig(**sizes, **heads, num_key_value_heads=2, sliding_window=16)
        ),
        "mamba": lambda: MambaForCausalLM(MambaConfig(**sizes, state_size=4)),
    }
    return models[name]().eval()


@pytest.mark.parametrize("name", ["gpt2", "opt", "bloom", "gemma3", "mistral, window 16", "mamba"])
def test_a_model_whose_prefix_cache_cannot_be_trusted_is_computed_whole(name, caplog):
    model, segments, prefix = other_model(name), random_segments(9, seed=9), random_prefix(40)
    expected = [mean_log_prob(model, prefix + s.ids[: s.start], s.ids[s.start :]) for s in segments]
    engine = LogProbEngine(model)
    with caplog.at_level(logging.WARNING, logger="nuggets_trainer"):
        engine.check_prefix_sharing(prefix, segments[:3])
    np.testing.assert_allclose(engine.score(prefix, segments), expected, rtol=0, atol=1e-4)
    assert np.ptp(expected) > 0.5
    if name == "mamba":  # its state is no key/value cache
        assert "cannot reuse the cache of a shared prefix" in caplog.text and "computed whole" in caplog.text


def test_a_prefix_cache_that_gives_nan_is_not_trusted(caplog):
    """NaN compares with nothing: a broken cache passed the check, and its candidates would have been dropped."""
    model, segments, prefix = tiny_model("llama", VOCAB), random_segments(5, seed=10), random_prefix()
    expected = LogProbEngine(model).score(prefix, segments)

    def poison(module, args, kwargs, output):
        if kwargs.get("past_key_values") is not None and kwargs["input_ids"].shape[0] > 1:
            output.logits.fill_(float("nan"))

    model.register_forward_hook(poison, with_kwargs=True)
    engine = LogProbEngine(model)
    with caplog.at_level(logging.WARNING, logger="nuggets_trainer"):
        engine.check_prefix_sharing(prefix, segments[:3])
    assert "cannot reuse the cache of a shared prefix" in caplog.text
    np.testing.assert_allclose(engine.score(prefix, segments), expected, rtol=0, atol=1e-5)


def test_scoring_leaves_the_model_in_its_mode():
    model = tiny_model("llama", VOCAB).train()
    LogProbEngine(model).score([], random_segments(2, seed=7))
    assert model.training
    model.eval()
    LogProbEngine(model).score([], random_segments(2, seed=7))
    assert not model.training


def test_embeddings_are_means_of_last_hidden_states_without_padding():
    model = tiny_model("qwen2", VOCAB)
    sequences = [s.ids for s in random_segments(9, seed=8)]
    found = LogProbEngine(model, tokens_per_batch=120).embed(sequences)
    for row, ids in zip(found, sequences, strict=True):
        with torch.no_grad():
            hidden = model(torch.tensor([ids]), output_hidden_states=True).hidden_states[-1][0]
        np.testing.assert_allclose(row, hidden.mean(dim=0).numpy(), rtol=0, atol=1e-5)
    assert len({len(ids) for ids in sequences}) > 1  # something was padded


def test_score_dtype_resolves_to_autocast_only_where_it_changes_the_arithmetic():
    float32, bfloat16 = torch.float32, torch.bfloat16
    assert resolve_autocast_dtype("auto", float32) is None
    assert resolve_autocast_dtype("auto", float32, training_dtype=bfloat16) is bfloat16
    assert resolve_autocast_dtype("float32", float32, training_dtype=bfloat16) is None
    assert resolve_autocast_dtype("bfloat16", float32) is bfloat16
    assert resolve_autocast_dtype("bfloat16", bfloat16) is None
    with pytest.raises(
        ValueError, match=r"`score_dtype=float32`, but the weights were loaded as bfloat16.*dtype=float32"
    ):
        resolve_autocast_dtype("float32", bfloat16)
