"""Batching, padding and the prefix cache are execution strategies: they never change a log-prob."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch
from torch._dynamo.utils import counters
from transformers import GPT2Config, MptConfig, OPTConfig, OPTForCausalLM

from nuggets_trainer.engine import compiled, device, portable
from nuggets_trainer.engine import log_probs as engine_module
from nuggets_trainer.engine.attention import PackedRow
from nuggets_trainer.engine.compiled import PIECES, WHOLE_LAYERS, compiling_pays, parts_to_compile
from nuggets_trainer.engine.device import affordable_tokens, find_tokens_per_batch
from nuggets_trainer.engine.log_probs import LogProbEngine
from nuggets_trainer.engine.model import check_attention, context_length, matmul_weights, resolve_autocast_dtype
from nuggets_trainer.engine.portable import batches
from nuggets_trainer.engine.precision import describe_difference, rounding_tolerances
from nuggets_trainer.prompts.segment import Segment, scored_at
from tests.support.architectures import random_model
from tests.support.models import tiny_model
from tests.support.oracle import mean_log_prob, mean_log_prob_at
from tests.support.segments import VOCAB, random_prefix, random_segments


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


def masked_segments(num_segments: int, seed: int) -> list[Segment]:
    """Segments of which any of the tokens but the first are scored; of one in three all from some position on."""
    generator = np.random.default_rng(seed)
    segments = []
    for k, segment in enumerate(random_segments(num_segments, seed)):
        inside = generator.random(len(segment.ids) - 1) < 0.4
        inside[int(generator.integers(len(inside)))] = True
        scored = [p + 1 for p in np.flatnonzero(inside).tolist()]
        segments.append(segment if k % 3 == 0 else scored_at(segment.ids, scored))
    return segments


@pytest.mark.parametrize("family", ["llama", "qwen2"])
@pytest.mark.parametrize("path", ["packed", "cached", "whole", "naive"])
@pytest.mark.parametrize("prefix", [[], random_prefix()], ids=["zero-shot", "one-shot"])
@pytest.mark.parametrize("tokens_per_batch", [1, 150, 10_000])
def test_log_probs_average_the_scored_tokens_alone(family, path, prefix, tokens_per_batch):
    model, segments = tiny_model(family, VOCAB), masked_segments(17, seed=13)
    expected = [
        mean_log_prob_at(model, prefix + s.ids, [len(prefix) + position for position in s.positions]) for s in segments
    ]
    found = LogProbEngine(model, tokens_per_batch, path=path).score(prefix, segments)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
    whole = LogProbEngine(model, path=path).score(prefix, [Segment(s.ids, s.start) for s in segments])
    masked = [k for k, s in enumerate(segments) if s.scored is not None]
    assert len(masked) > 5
    assert np.abs(whole - found)[masked].max() > 0.1  # leaving tokens out makes a difference


def test_groups_with_masked_segments_share_rows(rows_run):
    model, segments = tiny_model("qwen2", VOCAB), masked_segments(12, seed=14)
    prefixed = [(random_prefix(n), segments[k : k + 4]) for k, n in enumerate((5, 40, 11, 23, 1))]
    engine = LogProbEngine(model, tokens_per_batch=150, path="packed")
    together = engine.score_prefixed(prefixed)
    together_lengths = list(rows_run)
    rows_run.clear()
    for found, (prefix, own) in zip(together, prefixed, strict=True):
        np.testing.assert_allclose(found, engine.score(prefix, own), rtol=0, atol=1e-5)
    assert len(together_lengths) < len(rows_run)


def test_a_segment_moves_with_its_scored_tokens():
    segment = scored_at([5, 6, 7, 8, 9], [2, 4])
    assert (segment.start, segment.scored, segment.targets, segment.num_completion_tokens) == (2, (2, 4), [7, 9], 2)
    behind = segment.behind([1, 2])
    assert behind == Segment([1, 2, 5, 6, 7, 8, 9], 4, (4, 6))
    assert behind.targets == segment.targets
    assert behind.without_first(2) == segment
    assert segment.without_first(1) == Segment([6, 7, 8, 9], 1, (1, 3))
    assert scored_at([5, 6, 7], [1, 2]) == Segment([5, 6, 7], 1)
    with pytest.raises(AssertionError):
        segment.without_first(2)  # nothing would stand before the first scored token


@pytest.mark.parametrize("path", ["packed", "cached", "whole"])
def test_log_probs_do_not_depend_on_the_token_budget(path, rows_run):
    model, segments, prefix = tiny_model("llama", VOCAB), random_segments(17, seed=2), random_prefix()
    num_batches, results = [], []
    for tokens_per_batch in (1, 200, 100_000):
        rows_run.clear()
        results.append(LogProbEngine(model, tokens_per_batch, path=path).score(prefix, segments))
        lengths = [len(s.ids) for s in segments]
        num_batches.append(len(rows_run) or len(list(batches(lengths, len(prefix), tokens_per_batch))))
    assert num_batches[0] >= 17 and num_batches[2] == 1 and 1 < num_batches[1] < 17  # the option changed the batches
    np.testing.assert_allclose(results[1], results[0], rtol=0, atol=1e-5)
    np.testing.assert_allclose(results[2], results[0], rtol=0, atol=1e-5)


def test_log_probs_do_not_depend_on_what_shares_a_row(rows_run):
    model, segments = tiny_model("qwen2", VOCAB), random_segments(12, seed=11)
    prefixed = [(random_prefix(n), segments[k : k + 4]) for k, n in enumerate((5, 40, 11, 23, 1))]
    prefixed.append(([], segments))
    engine = LogProbEngine(model, tokens_per_batch=150, path="packed")
    together = engine.score_prefixed(prefixed)
    together_lengths = list(rows_run)
    rows_run.clear()
    backwards = engine.score_prefixed(prefixed[::-1])[::-1]
    alone = [engine.score(prefix, own) for prefix, own in prefixed]
    assert len(together_lengths) < len(rows_run) / 2  # else they did not share rows
    for a, b, c in zip(together, backwards, alone, strict=True):
        np.testing.assert_allclose(a, c, rtol=0, atol=1e-5)
        np.testing.assert_allclose(b, c, rtol=0, atol=1e-5)


def test_batches_hold_every_segment_within_the_budget():
    lengths = [len(s.ids) for s in random_segments(40, seed=3)]
    found = list(batches(lengths, 10, 150))
    assert sorted(i for batch in found for i in batch) == list(range(40))
    assert all(len(batch) == 1 or len(batch) * (10 + max(lengths[i] for i in batch)) <= 150 for batch in found)


def test_a_prefix_that_returns_no_logits_takes_none_of_their_room():
    """A long candidate of a model with a large vocabulary ran its anchors one by one."""
    found = list(batches([10] * 20, 100, 1000, positions=60))
    assert [len(batch) for batch in found] == [6, 6, 6, 2]
    assert [len(batch) for batch in batches([10] * 20, 100, 1000, positions=1000)] == [9, 9, 2]


def out_of_memory_above(model, num_tokens):
    """A fake: the CPU has memory enough. The message is that of a CUDA device."""

    def hook(module, args, kwargs):
        if kwargs["input_ids"].numel() > num_tokens:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB")

    model.base_model.register_forward_pre_hook(hook, with_kwargs=True)


@pytest.mark.parametrize("path", ["packed", "cached", "whole"])
def test_out_of_memory_halves_the_budget_and_goes_on(path, caplog):
    model, segments, prefix = tiny_model("llama", VOCAB), random_segments(17, seed=12), random_prefix()
    expected = LogProbEngine(model).score(prefix, segments)
    out_of_memory_above(model, 90)
    engine = LogProbEngine(model, tokens_per_batch=1000, path=path)
    with caplog.at_level(logging.WARNING, logger="nuggets_trainer"):
        np.testing.assert_allclose(engine.score(prefix, segments), expected, rtol=0, atol=1e-5)
    assert engine.tokens_per_batch in (62, 125) and "going on with tokens_per_batch=" in caplog.text
    engine.score(prefix, segments)
    assert engine.tokens_per_batch in (62, 125)  # it remembers


def caused(message):
    error = RuntimeError("compiled code failed")
    error.__cause__ = RuntimeError(message, "and what is known of it")
    return error


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        caused("OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB"),
    ],
    ids=["cuBLAS", "compiled"],
)
def test_memory_that_runs_out_in_a_library_is_survived(error):
    """Such an error ended the job: only torch's own were known."""
    model, segments, prefix = tiny_model("llama", VOCAB), random_segments(9, seed=12), random_prefix()
    expected = LogProbEngine(model).score(prefix, segments)

    def fail(module, args, kwargs):
        if kwargs["input_ids"].numel() > 90:
            raise error

    model.base_model.register_forward_pre_hook(fail, with_kwargs=True)
    engine = LogProbEngine(model, tokens_per_batch=1000, path="packed")
    np.testing.assert_allclose(engine.score(prefix, segments), expected, rtol=0, atol=1e-5)
    assert engine.tokens_per_batch < 1000


@pytest.mark.parametrize("path", ["cached", "whole"])
def test_logits_do_not_run_out_of_memory(path, monkeypatch):
    """16,384 tokens of a vocabulary of 262k are 8.6 GB of logits: memory ran out, and all passes were halved."""
    model, segments, prefix = tiny_model("llama", VOCAB), random_segments(17, seed=1), random_prefix()
    engine = LogProbEngine(model, 4096, path=path)
    expected, rows = engine.score(prefix, segments), engine.score_rows(segments)
    monkeypatch.setattr(portable, "MAX_LOGITS", 150 * VOCAB)
    sizes: list[int] = []
    model.lm_head.register_forward_hook(lambda module, args, logits: sizes.append(logits.numel()))
    np.testing.assert_allclose(engine.score(prefix, segments), expected, rtol=0, atol=1e-5)
    for found, whole in zip(engine.score_rows(segments), rows, strict=True):
        np.testing.assert_allclose(found, whole, rtol=0, atol=1e-5)
    assert len(sizes) > 4 and max(sizes) <= 150 * VOCAB and engine.tokens_per_batch == 4096


def test_out_of_memory_for_one_pair_says_what_to_do():
    model = tiny_model("llama", VOCAB)
    out_of_memory_above(model, 1)
    with pytest.raises(RuntimeError, match="single pair. Use a smaller `scorer_model`"):
        LogProbEngine(model, path="packed").score(random_prefix(), random_segments(3, seed=1))


def test_another_error_is_not_taken_for_lack_of_memory():
    model = tiny_model("llama", VOCAB)
    with pytest.raises(IndexError):
        LogProbEngine(model, path="packed").score([VOCAB + 1], random_segments(3, seed=1))


def test_the_budget_follows_the_free_memory():
    assert find_tokens_per_batch(tiny_model("llama", VOCAB)) == 1024  # on the CPU
    assert affordable_tokens(80e9, 1e6) == 16384
    assert affordable_tokens(10e9, 2e6) == 2560  # 0.6 of 5,000 tokens, in steps of 512
    assert affordable_tokens(1e6, 2e6) == 512


@pytest.mark.parametrize("config", [GPT2Config(n_positions=300), MptConfig(max_seq_len=300)])
def test_the_context_is_found_under_each_of_its_names(config):
    """Rows beyond it are dropped, and the probe of the memory keeps to it: on a GPU it ran past the positions."""
    assert context_length(config) == 300


def test_the_share_of_the_peak_counts_products_with_weights(monkeypatch):
    monkeypatch.setattr(device, "matmul_peak", lambda where, dtype: 1e9)
    model = tiny_model("llama", VOCAB)
    body = 2 * (2 * 48 * 48 + 2 * 48 * 24 + 3 * 48 * 96)  # two layers: q and o, k and v, feed-forward
    found = LogProbEngine(model).share_of_peak(1000.0, 0.5)
    assert found == pytest.approx(1000 * 2 * (body + 0.5 * 48 * VOCAB) / 1e9)
    model.config.num_experts = 4
    assert LogProbEngine(model).share_of_peak(1000.0, 0.5) is None


def test_the_peak_of_the_device_is_measured():
    assert 1e8 < device.matmul_peak(torch.device("cpu"), torch.float32) < 1e14


def test_the_plan_says_how_much_faster_bfloat16_is_on_a_gpu(monkeypatch):
    """Float32 is the default, and its share of its own peak may be high although the run takes 15 times as long."""
    peaks = {torch.float32: 5e13, torch.bfloat16: 7e14}
    monkeypatch.setattr(device, "matmul_peak", lambda where, dtype: peaks[dtype])
    cuda, cpu = torch.device("cuda"), torch.device("cpu")
    assert "in bfloat16 are 14 times as fast" in device.describe_float32(cuda, torch.float32)
    assert device.describe_float32(cuda, torch.bfloat16) is device.describe_float32(cpu, torch.float32) is None
    peaks[torch.bfloat16] = 6e13  # a device without units for half precision
    assert device.describe_float32(cuda, torch.float32) is None


@pytest.mark.parametrize(("family", "hidden_size"), [("llama", 512), ("qwen2", 128)])
def test_float32_suffices_for_the_models_of_the_gpu_tests(family, hidden_size):
    """Their rounding errors were 2e-3 and more than the check allows, so paths were refused on a GPU and on a CPU."""
    model, prefix, segments = tiny_model(family, VOCAB, hidden_size), random_prefix(90), random_segments(4, seed=1)
    found = LogProbEngine(model, path="naive").score(prefix, segments)
    expected = LogProbEngine(model.double(), path="naive").score(prefix, segments)
    np.testing.assert_allclose(found, expected, rtol=0, atol=5e-5)
    assert np.abs(expected - LogProbEngine(model, path="naive").score([], segments)).mean() > 0.1


def test_the_prefix_changes_the_log_probs():
    engine, segments = LogProbEngine(tiny_model("llama", VOCAB)), random_segments(8, seed=4)
    alone, behind = engine.score([], segments), engine.score(random_prefix(), segments)
    assert np.abs(alone - behind).min() > 1e-3


def test_bfloat16_changes_log_probs_only_a_little():
    model, segments, prefix = tiny_model("llama", VOCAB), random_segments(6, seed=6), random_prefix()
    exact = LogProbEngine(model).score(prefix, segments)
    autocast = LogProbEngine(model, autocast_dtype=torch.bfloat16).score(prefix, segments)
    assert 1e-4 < np.abs(autocast - exact).max() < 0.2  # 8 bits of mantissa: other numbers, the same quantity
    half = LogProbEngine(model.bfloat16()).score(prefix, segments)
    assert 1e-4 < np.abs(half - exact).max() < 0.2


def test_a_path_that_gives_nan_is_not_trusted(caplog):
    """NaN compares with nothing: a broken cache passed the check, and its candidates would have been dropped."""
    model, segments, prefix = tiny_model("llama", VOCAB), random_segments(5, seed=10), random_prefix()
    expected = LogProbEngine(model, path="naive").score(prefix, segments)

    def poison_packed(module, args, kwargs, output):
        if kwargs.get("position_ids") is not None:
            output.last_hidden_state.fill_(float("nan"))

    def poison_cached(module, args, kwargs, output):
        cache = kwargs.get("cache", kwargs.get("past_key_values"))  # transformers 5.24 renamed it
        if cache is not None and kwargs["input_ids"].shape[0] > 1:
            output.logits.fill_(float("nan"))

    engine = LogProbEngine(model)
    model.base_model.register_forward_hook(poison_packed, with_kwargs=True)
    with caplog.at_level(logging.WARNING, logger="nuggets_trainer"):
        assert engine.choose_path([(prefix, segments[:3])]) == "cached"
        assert "cannot take the packed path (log-probs differ by nan" in caplog.text
        np.testing.assert_allclose(engine.score(prefix, segments), expected, rtol=0, atol=1e-5)
        model.register_forward_hook(poison_cached, with_kwargs=True)
        assert engine.choose_path([(prefix, segments[:3])]) == "whole"
    np.testing.assert_allclose(engine.score(prefix, segments), expected, rtol=0, atol=1e-5)


def test_compiled_layers_that_fail_leave_the_packed_path(monkeypatch, caplog):
    model, segments, prefix = tiny_model("llama", VOCAB), random_segments(5, seed=10), random_prefix()

    def no_compiler(*args, **kwargs):
        raise RuntimeError("no C compiler found")

    monkeypatch.setattr(engine_module, "compiling_pays", lambda model, num_tokens: num_tokens > 0)
    monkeypatch.setattr(torch.nn.Module, "compile", no_compiler)
    engine = LogProbEngine(model)
    with caplog.at_level(logging.WARNING, logger="nuggets_trainer"):
        assert engine.choose_path([(prefix, segments[:3])], num_tokens=10**9) == "packed"
    assert not engine.compiles and "packed path with compiled layers (RuntimeError: no C compiler" in caplog.text
    assert not compiling_pays(model, 10**12)  # on the CPU it saves a tenth at best


def test_only_large_layers_are_compiled_whole(monkeypatch):
    """A small model's layers take the device less time than the host needs for a whole layer."""
    model, experts = tiny_model("llama", VOCAB), random_model("Mixtral")
    weights = matmul_weights(model)[0] // 2
    assert parts_to_compile(model) == PIECES
    monkeypatch.setattr(compiled, "MIN_LAYER_WEIGHTS", weights)
    assert parts_to_compile(model) == WHOLE_LAYERS and parts_to_compile(experts) == PIECES
    monkeypatch.setattr(compiled, "MIN_LAYER_WEIGHTS", weights + 1)
    assert parts_to_compile(model) == PIECES
    monkeypatch.setattr(compiled, "MIN_LAYER_WEIGHTS", weights)
    model.lm_head.to("meta")
    assert parts_to_compile(model) == PIECES


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own
@pytest.mark.parametrize(("names", "number"), [(PIECES, 2 * 3 + 1), (WHOLE_LAYERS, 2 * 3 + 1)])
@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_compiled_parts_change_no_log_prob_and_go_again(family, names, number):
    model, segments, prefix = tiny_model(family, VOCAB), random_segments(17, seed=1), random_prefix()
    engine = LogProbEngine(model, path="packed")
    expected = engine.score(prefix, segments)
    engine.compiles, engine.compiled_names = True, names
    np.testing.assert_allclose(engine.score(prefix, segments), expected, rtol=0, atol=1e-5)
    graphs = counters["stats"]["unique_graphs"]
    for part in (slice(5), slice(3, 17)):  # other lengths of rows
        np.testing.assert_allclose(engine.score(prefix, segments[part]), expected[part], rtol=0, atol=1e-5)
    assert counters["stats"]["unique_graphs"] - graphs <= 4 and not counters["recompiles"]
    with engine.scoring(compiles=True):
        assert sum(module._compiled_call_impl is not None for module in model.modules()) == number
    assert all(module._compiled_call_impl is None for module in model.modules())


def test_a_path_wrong_across_passes_is_not_chosen(caplog, monkeypatch):
    """Layers that share a number overwrite each other's prefix, which only the next row reads again."""
    model, segments, prefix = tiny_model("llama", VOCAB), random_segments(9, seed=1), random_prefix(40)
    expected = LogProbEngine(model, path="naive").score(prefix, segments)
    for layer in model.model.layers:
        layer.self_attn.layer_idx = 0
    monkeypatch.setattr(PackedRow, "layer", property(lambda row: 0, lambda row, number: None), raising=False)
    wrong = LogProbEngine(model, tokens_per_batch=100, path="packed").score(prefix, segments)
    assert np.abs(wrong - expected).max() > 0.1
    engine = LogProbEngine(model, tokens_per_batch=1000)
    with caplog.at_level(logging.WARNING, logger="nuggets_trainer"):
        assert engine.choose_path([(prefix, segments[:3])]) == "whole"  # the stock cache is fooled as well
    np.testing.assert_allclose(engine.score(prefix, segments), expected, rtol=0, atol=1e-5)


def test_a_bias_in_half_precision_is_not_rounding():
    model, segments, prefix = tiny_model("llama", VOCAB).bfloat16(), random_segments(6, seed=6), random_prefix()
    assert LogProbEngine(model).choose_path([(prefix, segments)]) == "packed"

    def biased(module, args, kwargs, output):
        if kwargs.get("position_ids") is not None:
            output.last_hidden_state.mul_(1.03)

    model.base_model.register_forward_hook(biased, with_kwargs=True)
    engine = LogProbEngine(model)
    exact, found = (LogProbEngine(model, path=path).score(prefix, segments) for path in ("naive", "packed"))
    assert np.abs(found - exact).max() < 0.15  # hardly above what rounding explains
    assert engine.choose_path([(prefix, segments)]) == "cached"


def test_the_noise_of_a_short_completion_is_not_taken_for_a_fault():
    """One tolerance for all lengths refused the packed path in 9 of 30 checks on completions of one token."""
    expected, noise = np.full(4, -2.0, dtype=np.float32), np.array([0.25, -0.2, 0.01, -0.02], dtype=np.float32)
    short = rounding_tolerances(torch.bfloat16, [1, 1, 40, 200])
    assert describe_difference(expected + noise, expected, short) is None
    long = rounding_tolerances(torch.bfloat16, [16, 20, 40, 200])
    assert "differ by 0.25 nats per token, and rounding explains 0.1" in describe_difference(
        expected + noise, expected, long
    )
    assert "0.3 nats per token on average" in describe_difference(expected + 0.3, expected, np.full(4, 0.4))
    assert rounding_tolerances(torch.float32, [1, 200]).tolist() == [1e-4, 1e-4]


def test_scoring_leaves_the_model_in_its_mode():
    model = tiny_model("llama", VOCAB).train()
    LogProbEngine(model).score([], random_segments(2, seed=7))
    assert model.training
    model.eval()
    LogProbEngine(model).score([], random_segments(2, seed=7))
    assert not model.training


@pytest.fixture
def product_settings():
    """The settings of float32 products, which a test may change."""
    places = torch.backends.cuda.matmul, torch.backends.mkldnn.matmul
    if not hasattr(places[0], "fp32_precision"):
        pytest.skip("torch before 2.9 has other settings")
    before = [place.fp32_precision for place in places]
    yield places
    torch.set_float32_matmul_precision("highest")
    for place, precision in zip(places, before, strict=True):
        place.fp32_precision = precision


@pytest.mark.parametrize("way", ["old", "new"])
def test_float32_products_are_exact_whatever_training_has_set(way, product_settings):
    """Training with TF32 (bfloat16 on CPUs) used to change the scores, which were mixed with exact ones."""
    model = tiny_model("llama", VOCAB)
    prefix, segments = random_prefix(), random_segments(4, seed=1)
    expected = LogProbEngine(model, path="packed").score(prefix, segments)
    if way == "old":
        torch.set_float32_matmul_precision("medium")
    else:
        for place, precision in zip(product_settings, ("tf32", "bf16"), strict=True):
            place.fp32_precision = precision
    chosen = [place.fp32_precision for place in product_settings]
    seen, by_name = [], []

    def look(*_):
        seen.append([place.fp32_precision for place in product_settings])
        # The compiler reads both: each raised RuntimeError where only the settings of the devices were changed.
        by_name.append((torch.get_float32_matmul_precision(), torch.backends.cuda.matmul.allow_tf32))

    hook = model.base_model.register_forward_pre_hook(look)
    engine = LogProbEngine(model)
    np.testing.assert_array_equal(engine.score(prefix, segments), expected)
    hook.remove()
    assert engine.path == "packed" and seen and all(one == ["ieee", "ieee"] for one in seen)
    assert set(by_name) == {("highest", False)}
    assert [place.fp32_precision for place in product_settings] == chosen == ["tf32", "bf16"]


def test_embeddings_are_means_without_padding():
    model = tiny_model("qwen2", VOCAB)
    sequences = [s.ids for s in random_segments(9, seed=8)]
    found = LogProbEngine(model, tokens_per_batch=120).embed(sequences)
    for row, ids in zip(found, sequences, strict=True):
        with torch.no_grad():
            hidden = model(torch.tensor([ids]), output_hidden_states=True).hidden_states[-1][0]
        np.testing.assert_allclose(row, hidden.mean(dim=0).numpy(), rtol=0, atol=1e-5)
    assert len({len(ids) for ids in sequences}) > 1  # something was padded


def test_rows_of_a_model_that_passes_its_base_model_by_are_embedded():
    """OPT's language model calls the decoder inside its base model, whose own hooks see nothing."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "ffn_dim": 64, "word_embed_proj_dim": 32, "num_hidden_layers": 2}
    config = OPTConfig(vocab_size=VOCAB, num_attention_heads=4, max_position_embeddings=256, **sizes)
    model, rows = OPTForCausalLM(config).eval(), random_segments(5, seed=8)
    log_probs, embeddings = LogProbEngine(model, tokens_per_batch=120).score_rows(rows)
    for row, log_prob, embedding in zip(rows, log_probs, embeddings, strict=True):
        with torch.no_grad():
            hidden = model(torch.tensor([row.ids]), output_hidden_states=True).hidden_states[-1][0]
        weights = torch.arange(1, len(row.ids) + 1)[:, None]
        np.testing.assert_allclose(embedding, ((hidden * weights).sum(0) / weights.sum()).numpy(), rtol=0, atol=1e-5)
        expected = mean_log_prob(model, row.ids[: row.start], row.ids[row.start :])
        np.testing.assert_allclose(log_prob, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("decoder", ["tuple", "unnamed"])
def test_embeddings_of_a_model_of_custom_code(decoder, caplog):
    """A decoder that returns a tuple, or that `base_model` does not find, ended k-means with an AttributeError."""
    model, rows = tiny_model("llama", VOCAB), random_segments(5, seed=8)
    expected = LogProbEngine(model).embed([row.ids for row in rows])
    expected_rows = LogProbEngine(model).score_rows(rows)
    if decoder == "tuple":
        inside, forward = [], model.model.forward

        def as_tuple(*args, **kwargs):
            output = forward(*args, **kwargs)
            return output if inside else tuple(output.values())  # the head of Llama does not read a tuple

        model.model.forward = as_tuple
        model.register_forward_pre_hook(lambda *_: inside.append(True))
        model.register_forward_hook(lambda *_: inside.clear())
    else:
        model.base_model_prefix = "body"
        assert model.base_model is model
    engine = LogProbEngine(model)
    np.testing.assert_allclose(engine.embed([row.ids for row in rows]), expected, rtol=0, atol=1e-5)
    for found, wanted in zip(engine.score_rows(rows), expected_rows, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5)
    with caplog.at_level(logging.WARNING, logger="nuggets_trainer"):
        path = engine.choose_path([(random_prefix(), rows[:3])])
    assert path == ("packed" if decoder == "tuple" else "cached")
    assert ("has no decoder that returns hidden states" in caplog.text) is (decoder == "unnamed")


def test_a_model_without_hidden_states_is_named():
    model = tiny_model("llama", VOCAB)
    model.base_model_prefix = "body"
    model.register_forward_hook(lambda _, __, output: setattr(output, "hidden_states", None))
    with pytest.raises(ValueError, match="must return its hidden states.*LlamaForCausalLM returns none"):
        LogProbEngine(model).embed([[1, 2, 3]])


def test_flash_attention_in_float32_is_refused():
    """All paths failed at the first layer, the last one with the kernel's own message."""
    model = tiny_model("llama", VOCAB)
    model.config._attn_implementation_internal = "flash_attention_2"
    with pytest.raises(ValueError, match="flash_attention_2` computes in half precision only.*score_dtype=bfloat16"):
        check_attention(model, None)
    check_attention(model, torch.bfloat16)
    check_attention(model.bfloat16(), None)


def test_autocast_only_where_it_changes_arithmetic():
    float32, bfloat16 = torch.float32, torch.bfloat16
    assert resolve_autocast_dtype("auto", float32) is None
    assert resolve_autocast_dtype("auto", float32, training_dtype=bfloat16) is bfloat16
    assert resolve_autocast_dtype("float32", float32, training_dtype=bfloat16) is None
    assert resolve_autocast_dtype("bfloat16", float32) is bfloat16
    assert resolve_autocast_dtype("bfloat16", bfloat16) is None
    with pytest.raises(
        ValueError, match=r"`score_dtype=float32` needs weights in float32, got bfloat16.*dtype=float32"
    ):
        resolve_autocast_dtype("float32", bfloat16)
