"""The fingerprint: what can change a score changes it, and nothing else does."""

from __future__ import annotations

import json

import pytest
from peft import LoraConfig, get_peft_model
from transformers import AutoTokenizer, CTRLTokenizer

from nuggets_trainer.demo import demo_path
from nuggets_trainer.engine.adapters import adapter_layers
from nuggets_trainer.store import fingerprint
from nuggets_trainer.store.fingerprint import fingerprint_fields
from tests.support.models import tiny_model

# PEFT warns of a second adapter of a model that transformers holds.
pytestmark = pytest.mark.filterwarnings("ignore:Already found a `peft_config` attribute")


@pytest.fixture
def fields(tokenizer):
    def make(model, adapter=False, tokenizer=tokenizer):
        return fingerprint_fields(model, tokenizer, {"template": "plain"}, None, adapter)

    return make


def lora() -> LoraConfig:
    return LoraConfig(r=4, target_modules=["q_proj"], init_lora_weights=False)


def model_with(*names):
    """Return a transformers model that holds random adapters of these names itself."""
    model = tiny_model("llama", 64)
    for name in names:
        model.add_adapter(lora(), adapter_name=name)
    return model


def test_adapters_count_only_where_they_score(fields):
    base = fields(tiny_model("llama", 64))
    for model in (model_with("a", "b"), get_peft_model(tiny_model("llama", 64), lora())):
        assert fields(model) == base
        assert fields(model, adapter=True).keys() - base.keys() == {"adapter_sha256"}
        for layer in adapter_layers(model).values():
            layer.enable_adapters(False)
        assert fields(model, adapter=True) == base


def test_float32_logits_are_not_mixed_with_rounded_ones(fields, monkeypatch):
    half, full = tiny_model("llama", 64).bfloat16(), tiny_model("llama", 64)
    rounded, exact = fields(half), fields(full)
    monkeypatch.setattr(fingerprint, "keeps_float32_logits", lambda device: True)  # as on a GPU
    assert fields(half) == {**rounded, "logits": "float32"} and "logits" not in rounded
    assert fields(full) == exact


def test_the_active_adapter_is_told_from_the_others(fields):
    """Which adapter is active was not in the fingerprint: b got the golden set of a, with 0 pairs computed."""
    model = model_with("a", "b")
    found = {}
    for name in ("a", "b", ["a", "b"]):
        model.set_adapter(name)
        found[str(name)] = fields(model, adapter=True)["adapter_sha256"]
    assert len(set(found.values())) == 3
    model.set_adapter("a")
    assert fields(model, adapter=True)["adapter_sha256"] == found["a"]


def test_an_adapter_of_any_name_is_hashed(fields):
    """Under another name than "default" a re-selection died in mid-training with a KeyError."""
    found = set()
    for name in ("default", "mine"):
        model = get_peft_model(tiny_model("llama", 64), lora(), adapter_name=name)
        found.add(fields(model, adapter=True)["adapter_sha256"])
    assert len(found) == 1  # the name changes no log-prob
    model.add_adapter("other", lora())
    model.set_adapter("other")
    assert fields(model, adapter=True)["adapter_sha256"] not in found


def test_a_flag_of_the_tokenizer_counts(fields, tokenizer):
    """With `split_special_tokens` a text that spells a special token has other ids, by the same rules."""
    model = tiny_model("llama", 64)
    splitting = AutoTokenizer.from_pretrained(demo_path("model"), split_special_tokens=True)
    assert fields(model, tokenizer=splitting).items() - fields(model).items() == {("split_special_tokens", "True")}


def slow_tokenizer(tmp_path, *merges):
    """Return a tokenizer without a fast version, of one vocabulary and these merges."""
    (tmp_path / "vocab.json").write_text(
        json.dumps({"a@@": 0, "b": 1, "b@@": 2, "c": 3, "<unk>": 4, "ab": 5, "bc": 6})
    )
    (tmp_path / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]))
    return CTRLTokenizer(tmp_path / "vocab.json", tmp_path / "merges.txt")


def test_the_merges_of_a_slow_tokenizer_count(fields, tmp_path):
    model, found = tiny_model("llama", 64), []
    for merges in (("a b</w>",), ("b c</w>",), ("a b</w>",)):
        found.append(fields(model, tokenizer=slow_tokenizer(tmp_path, *merges)))
    assert found[0] == found[2]
    assert {name for name, _ in found[0].items() ^ found[1].items()} == {"tokenizer_files_sha256"}
