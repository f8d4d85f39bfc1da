"""The base model scores, and behind it the model and its adapters are as they were."""

from __future__ import annotations

import contextlib

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model

from nuggets_trainer.engine.adapters import active_adapters, adapter_layers, base_model, base_weights
from nuggets_trainer.engine.log_probs import LogProbEngine
from tests.support.models import tiny_model

# PEFT warns of a second adapter of a model that transformers holds.
pytestmark = pytest.mark.filterwarnings("ignore:Already found a `peft_config` attribute")

IDS = torch.tensor([[5, 6, 7, 8, 9, 10]])
SHAPES = {
    "all linear layers": {"target_modules": "all-linear"},
    "a saved module": {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
    "trained tokens": {"target_modules": ["q_proj"], "trainable_token_indices": [5, 6]},
}


def lora(**options) -> LoraConfig:
    return LoraConfig(**{"r": 4, "target_modules": ["q_proj", "v_proj"], "init_lora_weights": False, **options})


def held(model, *names, **options):
    """Add adapters in transformers' own way; the last one is active."""
    for name in names:
        model.add_adapter(lora(**options), adapter_name=name)
    return model


def wrapped(model, **options):
    return get_peft_model(model, lora(**options))


def moved(model):
    """Move everything that is trainable, so that an adapter that is on changes the logits."""
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight.add_(0.3)
    return model


def logits(model) -> torch.Tensor:
    with torch.no_grad():
        return model(IDS).logits


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("add", [wrapped, lambda model, **options: held(model, "a", **options)], ids=["peft", "held"])
def test_adapters_are_off_and_their_weights_left_out(add, shape):
    bare = tiny_model("llama", 64)
    expected, hashed = logits(bare), base_weights(bare)
    model = moved(add(tiny_model("llama", 64), **SHAPES[shape]))
    with_adapter = logits(model)
    assert not torch.allclose(with_adapter, expected, atol=1e-2)
    with base_model(model) as base:
        assert torch.equal(logits(base), expected) and active_adapters(model) == []
    assert torch.equal(logits(model), with_adapter)
    found = base_weights(model)
    assert found.keys() == hashed.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in hashed.items())


@pytest.mark.parametrize("add", [wrapped, lambda model: held(model, "a", "b")], ids=["peft", "held"])
def test_frozen_weights_stay_frozen(add):
    """PEFT makes a whole adapter trainable when it is switched on again: a frozen lora_A then moved by 0.012."""
    model = add(tiny_model("llama", 64))
    for name, weight in model.named_parameters():
        if "lora_A" in name:
            weight.requires_grad_(False)
    before = {name: weight.requires_grad for name, weight in model.named_parameters()}
    assert len(set(before.values())) == 2
    with base_model(model):
        pass
    assert {name: weight.requires_grad for name, weight in model.named_parameters()} == before
    with contextlib.suppress(KeyError), base_model(model):
        raise KeyError  # scoring may fail
    assert {name: weight.requires_grad for name, weight in model.named_parameters()} == before


def test_layers_that_were_off_stay_off():
    model = wrapped(tiny_model("llama", 64))
    off = next(iter(adapter_layers(model)))
    adapter_layers(model)[off].enable_adapters(False)
    with pytest.warns(UserWarning, match="some adapter layers that are enabled"), base_model(model):
        pass
    assert [name for name, layer in adapter_layers(model).items() if layer.disable_adapters] == [off]


def test_the_active_adapter_stays_active():
    model = held(tiny_model("llama", 64), "a", "b")
    model.set_adapter("a")
    with base_model(model, adapter=True) as base:
        assert base is model and active_adapters(model) == ["a"]
    with base_model(model):
        pass
    assert active_adapters(model) == ["a"]


def test_a_merged_adapter_is_refused():
    model = wrapped(tiny_model("llama", 64))
    model.merge_adapter()
    message = r"an adapter is merged into its weights .* Call `unmerge_adapter\(\)`"
    with pytest.raises(ValueError, match=message), base_model(model):
        pass
    with base_model(model, adapter=True):
        pass  # what is merged takes part


def test_each_module_gets_its_mode_back():
    model = tiny_model("llama", 64).train()
    model.model.layers[0].eval()  # as one freezes a part of a model
    model.lm_head.eval()
    before = [module.training for module in model.modules()]
    assert len(set(before)) == 2
    with LogProbEngine(model).scoring():
        assert not any(module.training for module in model.modules())
    assert [module.training for module in model.modules()] == before


def test_a_peft_model_from_disk_scores_like_its_base(tmp_path):
    wrapped(tiny_model("llama", 64)).save_pretrained(tmp_path)
    expected = logits(tiny_model("llama", 64))
    model = PeftModel.from_pretrained(tiny_model("llama", 64), tmp_path, adapter_name="mine")
    with base_model(model) as base:
        assert torch.equal(logits(base), expected)
