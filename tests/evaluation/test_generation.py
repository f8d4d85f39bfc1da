"""Answers do not depend on batches, ranks, kills or the order of work; the random ones are drawn as they should be."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import trl
from transformers import AutoTokenizer

from nuggets_trainer.evaluation.generation import Answerer, OwnNoise, Prompt, added_end
from nuggets_trainer.evaluation.journal import Journal
from nuggets_trainer.evaluation.tuned import prompt_ids
from nuggets_trainer.ranks import Ranks
from tests.support.models import chat_model, tiny_model


class OneOf(Ranks):
    """One rank of several, without the others: takes its share, and gathers nothing."""

    def __init__(self, index: int, world: int) -> None:
        super().__init__()
        self._place = (index, world)

    def share(self, items):
        return list(items[self._place[0] :: self._place[1]])


def prompts(tokenizer, count: int = 24, temperature: float = 0.0, max_new_tokens: int = 12) -> list[Prompt]:
    """Prompts of many lengths."""
    generator = np.random.default_rng(0)
    return [
        Prompt(f"p/{i}", generator.integers(5, len(tokenizer), 1 + (7 * i) % 23).tolist(), temperature, max_new_tokens)
        for i in range(count)
    ]


def answerer(tokenizer, batch_size: int, ranks: Ranks | None = None, seed: int = 0) -> Answerer:
    return Answerer(tiny_model("llama", len(tokenizer)), tokenizer, ranks or Ranks(), batch_size, seed)


@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_answers_do_not_depend_on_batch_size_or_padding(tokenizer, tmp_path, temperature):
    asked = prompts(tokenizer, temperature=temperature)
    answers = [
        answerer(tokenizer, size).answer(asked, Journal(tmp_path / str(size)), "answers") for size in (1, 5, 24)
    ]
    assert answers[0] == answers[1] == answers[2]
    assert len({answer["text"] for answer in answers[0].values()}) > 12  # not all the same, so the test can fail


def test_answers_of_two_ranks_are_those_of_one(tokenizer, tmp_path):
    asked = prompts(tokenizer, temperature=0.7)
    alone = answerer(tokenizer, 4).answer(asked, Journal(tmp_path / "alone"), "answers")
    parts = []
    for rank in (0, 1):
        own = answerer(tokenizer, 4, OneOf(rank, 2)).answer(asked, Journal(tmp_path / f"rank{rank}"), "answers")
        parts.append(own)
    assert not parts[0].keys() & parts[1].keys() and min(map(len, parts)) > 4  # both had work
    assert {**parts[0], **parts[1]} == alone


def test_a_half_finished_journal_is_completed(tokenizer, tmp_path):
    asked = prompts(tokenizer, temperature=0.7)
    whole = answerer(tokenizer, 4).answer(asked, Journal(tmp_path / "whole"), "answers")
    journal = Journal(tmp_path / "half")
    answerer(tokenizer, 4, OneOf(0, 2)).answer(asked, journal, "answers")
    (path,) = (tmp_path / "half").glob("*.jsonl")
    path.write_bytes(path.read_bytes()[:-40])  # and its last line was torn
    kept = set(Journal(tmp_path / "half").read())
    assert 4 < len(kept) < len(asked)
    assert answerer(tokenizer, 4).answer(asked, Journal(tmp_path / "half"), "answers") == whole
    new = [file for file in (tmp_path / "half").glob("*.jsonl") if file != path]
    written = [json.loads(line)["key"] for file in new for line in file.read_text().splitlines()]
    assert len(written) <= len(asked) - len(kept) + 3  # of the torn batch of 4, 3 were there


def test_greedy_answers_are_those_of_generate(tokenizer, tmp_path):
    """The naive way: one prompt at a time, `do_sample=False`."""
    asked = prompts(tokenizer, 6)
    answers = answerer(tokenizer, 6).answer(asked, Journal(tmp_path), "answers")
    model = tiny_model("llama", len(tokenizer))
    for prompt in asked:
        ids = torch.tensor([prompt.ids])
        out = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=12,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
        expected = tokenizer.decode(out[0, len(prompt.ids) :], skip_special_tokens=True).strip()
        assert answers[prompt.key]["text"] == expected


def test_own_noise_draws_from_the_softmax():
    """Frequencies of 20,000 draws at temperature 0.7, within 4 standard errors; and no noise at temperature 0."""
    logits = torch.tensor([1.0, 0.0, -1.0, 0.5])
    rows = 20_000
    noise = OwnNoise([0.7] * rows, list(range(rows)), torch.device("cpu"))
    drawn = noise(None, logits.repeat(rows, 1).clone()).argmax(-1)
    expected = torch.softmax(logits / 0.7, -1)
    found = torch.bincount(drawn, minlength=4) / rows
    assert (found - expected).abs().max() < 4 * (0.25 / rows) ** 0.5
    still = OwnNoise([0.0], [1], torch.device("cpu"))
    assert torch.equal(still(None, logits[None].clone()), logits[None])


def test_the_seed_changes_random_answers_alone(tokenizer, tmp_path):
    for temperature in (0.0, 0.7):
        asked = prompts(tokenizer, 8, temperature)
        one, two = (
            answerer(tokenizer, 4, seed=seed).answer(asked, Journal(tmp_path / f"{temperature}-{seed}"), "answers")
            for seed in (1, 2)
        )
        assert (one == two) == (temperature == 0.0)


def test_an_answer_gets_the_room_that_the_context_leaves(tokenizer, tmp_path):
    """The model reads 512 tokens: 500 leave 12, 512 leave none; the neighbours' answers stay whole."""
    lengths = (500, 512, 20, 20)
    asked = [Prompt(f"p/{i}", [7 + i] * length, 0.0, 20) for i, length in enumerate(lengths)]
    answers = answerer(tokenizer, 4).answer(asked, Journal(tmp_path), "answers")
    assert answers["p/1"] == {"text": "", "num_tokens": 0, "end": "no_room"}
    assert answers["p/0"]["num_tokens"] <= 12
    assert [answers[f"p/{i}"]["num_tokens"] for i in (2, 3) if answers[f"p/{i}"]["end"] == "length"] in (
        [20, 20],
        [20],
    )


def test_decoding_ignores_the_checkpoint_suggestions(tokenizer, tmp_path):
    asked = prompts(tokenizer, 6)
    plain = answerer(tokenizer, 6).answer(asked, Journal(tmp_path / "plain"), "answers")
    model = tiny_model("llama", len(tokenizer))
    model.generation_config.repetition_penalty = 5.0
    model.generation_config.max_new_tokens = 2
    ids = torch.tensor([asked[2].ids])
    penalized = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, pad_token_id=0)
    suggested = tokenizer.decode(penalized[0, ids.shape[1] :], skip_special_tokens=True).strip()
    assert suggested != plain[asked[2].key]["text"]  # it would matter
    answers = Answerer(model, tokenizer, Ranks(), 6).answer(asked, Journal(tmp_path / "suggested"), "answers")
    assert answers == plain


def test_a_tokenizer_without_an_end_is_refused(tokenizer):
    class Endless:
        eos_token_id = chat_template = None

    with pytest.raises(ValueError, match="no answer would ever stop"):
        Answerer(tiny_model("llama", len(tokenizer)), Endless(), Ranks())


@pytest.fixture
def chatml(shared):
    """Qwen3's chat template, whose turns end with `<|im_end|>`."""
    path = Path(trl.__file__).parent / "chat_templates" / "qwen3.jinja"
    tokenizer = AutoTokenizer.from_pretrained(shared / "tokenizers/minimind")
    tokenizer.chat_template = path.read_text()
    return tokenizer


@pytest.mark.parametrize("eos_token", ["<|im_end|>", "<|endoftext|>"])
def test_a_chat_answer_stops_and_has_no_reasoning(eos_token, chatml, tmp_path):
    """Judges were shown `<think></think>`; under the EOS of Qwen's base models each answer ran on to its limit."""
    chatml.eos_token = eos_token
    model = chat_model(chatml, "Say blue.", "blue!")
    asked = [Prompt("q", prompt_ids(chatml, "chat", ["Say blue."]), 0.0, 40)]
    for _ in range(2):  # answered, and read from the journal
        answer = Answerer(model, chatml, Ranks()).answer(asked, Journal(tmp_path), "answers")["q"]
        assert (answer["text"], answer["end"]) == ("blue!", "stop")
    assert "</think>" in Journal(tmp_path).read()["q"]["text"]  # nothing is lost
    fresh = tiny_model("llama", len(chatml))
    fresh.generation_config.eos_token_id = chatml.eos_token_id
    added = added_end(fresh, chatml)
    assert added == (None if eos_token == "<|im_end|>" else chatml.convert_tokens_to_ids("<|im_end|>"))


def test_reasoning_that_is_cut_off_is_no_answer(chatml, tmp_path, caplog):
    model = chat_model(chatml, "Say blue.", "<think>\nBlue is a colour, so I should say it.\n</think>\n\nblue!")
    asked = [Prompt("q", prompt_ids(chatml, "chat", ["Say blue."]), 0.0, 6)]
    answer = Answerer(model, chatml, Ranks()).answer(asked, Journal(tmp_path), "answers")["q"]
    assert (answer["text"], answer["end"], answer["num_tokens"]) == ("", "length", 6)
    assert "the reasoning of 1 answer did not" in caplog.text and "Raise `max_new_tokens`" in caplog.text
