"""Log-probs of targets in blocks over rows and vocabulary are those of one float64 log-softmax."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch._dynamo.utils import counters

from nuggets_trainer.engine import lm_head
from tests.support.architectures import VOCAB, random_model


@pytest.mark.parametrize("name", ["Llama", "Phi", "Granite", "Cohere 2", "Gemma 2"])
@pytest.mark.parametrize(("rows", "vocabulary"), [(1024, 8192), (7, 10), (1, 97), (64, 96)])
def test_blocks_give_the_log_softmax_of_all_logits(name, rows, vocabulary, monkeypatch):
    """Phi's head has a bias; Granite, Cohere and Gemma 2 scale or cap the logits."""
    monkeypatch.setattr(lm_head, "CPU_BLOCK", (rows, vocabulary))
    model = random_model(name)
    ids = torch.randint(0, VOCAB, (1, 40), generator=torch.Generator().manual_seed(0))
    targets = torch.randint(0, VOCAB, (40,), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = model(ids).logits[0].double().log_softmax(dim=-1)[torch.arange(40), targets]
        hidden = model.base_model(ids).last_hidden_state[0]
        found = lm_head.target_log_probs(model, hidden, targets)
    np.testing.assert_allclose(found, expected.numpy(), rtol=0, atol=1e-5)
    assert found.dtype == torch.float32 and np.ptp(found.numpy()) > 1


def test_a_head_of_another_class_is_called_whole():
    class Doubled(torch.nn.Linear):
        def forward(self, hidden):
            return 2 * super().forward(hidden)

    model = random_model("Llama")
    plain = model.lm_head
    model.lm_head = Doubled(32, VOCAB, bias=False)
    model.lm_head.weight = plain.weight
    hidden = torch.randn(5, 32)
    with torch.no_grad():
        found = lm_head.target_log_probs(model, hidden, torch.arange(5))
        expected = (2 * plain(hidden)).double().log_softmax(dim=-1)[torch.arange(5), torch.arange(5)]
    np.testing.assert_allclose(found, expected.numpy(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["Llama", "Phi"])
@pytest.mark.parametrize("autocast", [False, True])
def test_logits_of_half_precision_are_not_rounded_on_a_gpu(name, autocast, monkeypatch):
    """Their rounding flips a third of the wins that bfloat16 flips in a real model."""
    monkeypatch.setattr(lm_head, "keeps_float32_logits", lambda device: True)
    model, targets = random_model(name), torch.arange(40)
    hidden = 8 * torch.randn(40, 32, generator=torch.Generator().manual_seed(0))
    if not autocast:
        model, hidden = model.bfloat16(), hidden.bfloat16()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        found = lm_head.target_log_probs(model, hidden, targets).numpy()
        rounded = model.lm_head(hidden).float().log_softmax(dim=-1)[targets, targets].numpy()
    weight = model.lm_head.weight.bfloat16().double()
    logits = hidden.bfloat16().double() @ weight.t()
    if model.lm_head.bias is not None:
        logits += model.lm_head.bias.double()
    expected = logits.log_softmax(dim=-1)[targets, targets].detach().numpy()
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)
    assert np.abs(rounded - expected).max() > 0.01


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own
def test_compiled_blocks_are_few_and_nearly_full(monkeypatch):
    """A row of 16,384 tokens has some 13,600 targets, which were filled up to 16,384; each code was compiled twice."""
    torch._dynamo.reset()
    rows, add_block = [], torch.compile(lm_head._add_block, backend="eager", dynamic=False)

    def recorded(total, found, hidden, *rest):
        rows.append(len(hidden))
        return add_block(total, found, hidden, *rest)

    monkeypatch.setattr(lm_head, "CPU_BLOCK", (64, 40))
    monkeypatch.setattr(lm_head, "compiling", lambda: True)
    monkeypatch.setattr(lm_head, "compiled_in_use", lambda function: recorded)
    model = random_model("Llama")
    before = counters["stats"]["unique_graphs"]
    for number in (210, 64, 3, 129):
        rows.clear()
        hidden, targets = torch.randn(number, 32), torch.randint(0, VOCAB, (number,))
        with torch.no_grad():
            found = lm_head.target_log_probs(model, hidden, targets)
            expected = model.lm_head(hidden).log_softmax(-1).gather(1, targets[:, None])[:, 0]
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
        assert sum(rows) == 3 * -(-number // 16) * 16  # three blocks of the vocabulary
    # Whole and quarter blocks of rows, and whole blocks of the vocabulary and what is left.
    assert counters["stats"]["unique_graphs"] - before == 4 and not counters["recompiles"]


def test_a_head_that_is_called_whole_gets_few_rows(monkeypatch):
    """At 4,096 rows and 152k entries its logits took 8.7 GB beside what the memory probe knows of."""
    monkeypatch.setattr(lm_head, "_can_be_cut", lambda head: False)
    monkeypatch.setattr(lm_head, "WHOLE_LOGITS", 10 * VOCAB)
    model, hidden, targets = random_model("Llama"), torch.randn(64, 32), torch.arange(64)
    sizes = []
    model.lm_head.register_forward_hook(lambda _, __, logits: sizes.append(logits.shape[0]))
    with torch.no_grad():
        found = lm_head.target_log_probs(model, hidden, targets)
        expected = model.lm_head(hidden).double().log_softmax(dim=-1)[targets, targets]
    assert sizes[:-1] == [10] * 6 + [4]
    np.testing.assert_allclose(found, expected.numpy(), rtol=0, atol=1e-5)


def test_head_memory_does_not_grow_with_vocabulary():
    """The largest tensor made on the way, by torch's own record of allocations."""

    def largest_allocation(vocabulary):
        torch.manual_seed(0)
        model = torch.nn.Module()
        model.lm_head = torch.nn.Linear(16, vocabulary, bias=False)
        model.get_output_embeddings = lambda: model.lm_head
        model.config = random_model("Llama").config
        hidden, targets = torch.randn(500, 16), torch.arange(500)
        with torch.profiler.profile(profile_memory=True) as profile, torch.no_grad():
            lm_head.target_log_probs(model, hidden, targets)
        return max(event.self_cpu_memory_usage for event in profile.events())

    assert largest_allocation(80_000) <= 1.01 * largest_allocation(20_000)
