"""The base model scores, and behind it the model and its adapters are as they were."""

from __future__ import annotations

import contextlib

import pytest
import torch
from datasets import Dataset
from peft import (
    LoraConfig,
    PeftModel,
    PrefixTuningConfig,
    PromptEncoderConfig,
    PromptTuningConfig,
    TaskType,
    get_peft_model,
)

from nuggets_trainer import NuggetsConfig, score_pool
from nuggets_trainer.engine.adapters import active_adapters, adapter_layers, base_model, base_weights
from nuggets_trainer.engine.log_probs import LogProbEngine
from tests.support.models import tiny_model
from tests.support.rows import alpaca_rows

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


CAUSAL = {"task_type": TaskType.CAUSAL_LM}
OUTSIDE = {
    "PROMPT_TUNING": PromptTuningConfig(num_virtual_tokens=2, **CAUSAL),
    "PREFIX_TUNING": PrefixTuningConfig(num_virtual_tokens=2, **CAUSAL),
    "P_TUNING": PromptEncoderConfig(num_virtual_tokens=2, encoder_hidden_size=8, **CAUSAL),
    "activated LoRA": lora(alora_invocation_tokens=[7, 8], **CAUSAL),
}


@pytest.mark.parametrize("kind", OUTSIDE)
def test_an_adapter_outside_the_base_model_does_not_score(kind, tokenizer, tmp_path):
    """It was left out, and the base model's scores passed for its own."""
    torch.manual_seed(0)
    model = get_peft_model(tiny_model("llama", len(tokenizer)), OUTSIDE[kind]).eval()
    rows = Dataset.from_list(alpaca_rows(6, seed=1))
    config = NuggetsConfig(top_k=2, template="plain")
    calls = []
    model.get_base_model().register_forward_pre_hook(lambda *args: calls.append(1))
    with pytest.raises(ValueError, match=f"'default' of the type {kind}.*those of the base model. Use LoRA"):
        score_pool(model, tokenizer, rows, rows.select(range(2)), config, tmp_path, adapter=True)
    with pytest.raises(ValueError, match="must act inside the layers"), base_model(model, adapter=True):
        pass
    assert calls == [] and not list(tmp_path.iterdir())
    moved(model)
    ids = torch.tensor([[5, 6, 7, 8, 9, 10]])  # with the tokens that activate LoRA
    with torch.no_grad():
        whole, inner = model(ids).logits[:, -6:], model.get_base_model()(ids).logits
    assert not torch.allclose(whole, inner)  # what scoring would have read is not what the adapter says


@pytest.mark.parametrize("config", [OUTSIDE["PROMPT_TUNING"], lora(**CAUSAL)], ids=["prompt tuning", "LoRA"])
def test_a_base_model_scores_under_any_adapter(config, tokenizer, tmp_path):
    model = get_peft_model(tiny_model("llama", len(tokenizer)), config)
    rows = Dataset.from_list(alpaca_rows(6, seed=1))
    options = {"config": NuggetsConfig(top_k=2, template="plain"), "score_dir": tmp_path}
    _, golden_set = score_pool(model, tokenizer, rows, rows.select(range(2)), **options)
    assert len(golden_set) == 2
