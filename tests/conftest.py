"""Real parts for the tests: tiny models of two families, the demo's tokenizer, real models where they are at hand."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # the tensors are tiny: threads only get in each other's way
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")

import torch
from datasets import Dataset, disable_progress_bars
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

from nuggets_trainer.engine import packed
from nuggets_trainer.demo import demo_path

SHARED = Path(__file__).parent.parent.parent / "shared"
torch.set_num_threads(1)
disable_progress_bars()


@pytest.fixture(scope="session")
def shared() -> Path:
    """Real data and models beside the project; tests that use them skip without."""
    if not (SHARED / "models").is_dir():
        pytest.skip("needs ../shared (real data and models), which is not part of the project")
    return SHARED


@pytest.fixture(scope="session")
def tokenizer():
    return AutoTokenizer.from_pretrained(demo_path("model"))


def tiny_model(family: str, vocab_size: int):
    """Random weights, large enough that log-probs differ between contexts by far more than rounding."""
    torch.manual_seed(0)
    common = {
        "vocab_size": vocab_size,
        "hidden_size": 48,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "initializer_range": 0.3,
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": None,
    }
    model = {
        "llama": lambda: LlamaForCausalLM(LlamaConfig(**common)),
        "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**common, tie_word_embeddings=True)),
    }[family]()
    return model.eval()


@pytest.fixture(scope="session")
def llama(tokenizer):
    return tiny_model("llama", len(tokenizer))


WORDS = [
    "red",
    "blue",
    "green",
    "cat",
    "dog",
    "bird",
    "run",
    "jump",
    "sleep",
    "one",
    "two",
    "three",
    "north",
    "south",
    "east",
    "west",
    "day",
    "night",
    "sun",
    "rain",
]


def alpaca_rows(num_rows: int, seed: int = 0) -> list[dict[str, str]]:
    """Different rows with Alpaca columns, some with an input, of different lengths."""
    generator = torch.Generator().manual_seed(seed)

    def words(low: int, high: int) -> str:
        count = int(torch.randint(low, high, (1,), generator=generator))
        return " ".join(WORDS[i] for i in torch.randint(len(WORDS), (count,), generator=generator).tolist())

    return [
        {
            "instruction": f"Say {words(2, 8)}?",
            "input": f" {words(1, 5)} " if i % 3 == 0 else "",
            "output": f"{words(1, 14)}.\n" if i % 2 else words(1, 14),
        }
        for i in range(num_rows)
    ]


@pytest.fixture()
def pool_rows() -> list[dict[str, str]]:
    return alpaca_rows(12, seed=1)


@pytest.fixture()
def anchor_rows() -> list[dict[str, str]]:
    return alpaca_rows(5, seed=2)


@pytest.fixture()
def pool(pool_rows) -> Dataset:
    return Dataset.from_list(pool_rows)


@pytest.fixture()
def anchors(anchor_rows) -> Dataset:
    return Dataset.from_list(anchor_rows)


@pytest.fixture
def rows_run(monkeypatch):
    """Tokens of each forward pass on the packed path, as they are run."""
    lengths: list[int] = []
    score_row = packed._score_row

    def recorded(model, row, *arguments):
        lengths.append(row.length)
        return score_row(model, row, *arguments)

    monkeypatch.setattr(packed, "_score_row", recorded)
    return lengths
