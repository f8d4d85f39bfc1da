"""Answers of a model to many prompts: batched by length, shared by all ranks, kept while they are made.

The answer to a prompt does not depend on the number of ranks, on kills, or on the order of work: all prompts are put
into batches before any is answered, a rank takes whole batches, and a sampled prompt has a random number generator of
its own. Another `batch_size` changes an answer only if two tokens tie within rounding.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from tqdm.auto import tqdm
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

from nuggets_trainer.engine.model import context_length
from nuggets_trainer.evaluation.journal import Journal
from nuggets_trainer.prompts.generated import (
    decode_with_reasoning,
    find_turn_end,
    opens_reasoning,
    without_reasoning,
)
from nuggets_trainer.ranks import Ranks
from nuggets_trainer.wording import counted

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

PROMPT_END = 8  # tokens that are long enough for a mark and white space


@dataclass(frozen=True)
class Prompt:
    """Prompt that a model answers.

    Attributes:
        key: name of the prompt in the journal, and seed of its random numbers.
        ids: token ids.
        temperature: temperature of sampling; 0 for the most likely token at each step.
        max_new_tokens: number of tokens after which the answer is cut off.
    """

    key: str
    ids: list[int]
    temperature: float
    max_new_tokens: int


class OwnNoise(LogitsProcessor):  # type: ignore[misc]  # transformers has no types
    """Adds noise to logits, so that the largest one is a sample; each row has its own noise.

    `argmax(logits / T + g)` with Gumbel noise `g` is a draw from `softmax(logits / T)` (the Gumbel-max trick). Each
    row has its own generator, so a draw does not depend on the other rows of the batch. It would if the whole batch
    were sampled at once. Rows at temperature 0 stay as they are.

    Args:
        temperatures: temperature of each row.
        seeds: seed of each row.
        device: device of the logits.
    """

    def __init__(self, temperatures: Sequence[float], seeds: Sequence[int], device: torch.device) -> None:
        self._temperatures = temperatures
        self._generators = [torch.Generator(device).manual_seed(seed) for seed in seeds]

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Return `(rows, vocabulary)` logits with each row's noise, in float32."""
        scores = scores.float()
        for row, (temperature, generator) in enumerate(zip(self._temperatures, self._generators, strict=True)):
            if temperature > 0:
                noise = -torch.empty_like(scores[row]).exponential_(generator=generator).log()
                scores[row] = scores[row] / temperature + noise
        return scores


class Answerer:
    """Answers prompts with one model on all ranks.

    Decoding is greedy or plain temperature sampling. Of the checkpoint's generation config only the end tokens are
    used, not top-p, repetition penalty and the like.

    Args:
        model: whole model on this rank's device.
        tokenizer: tokenizer of the model; its EOS token ends an answer too, and so does the token that its chat
            template writes behind an answer.
        ranks: ranks of the job.
        batch_size: number of prompts in one forward pass.
        seed: seed of all random numbers.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        ranks: Ranks,
        batch_size: int = 16,
        seed: int = 0,
    ) -> None:
        self._model, self._tokenizer, self._ranks = model, tokenizer, ranks
        self._batch_size, self._seed = batch_size, seed
        self._context = context_length(model.config)
        self._end_ids = end_ids(model, tokenizer)
        # `generate` would fill what we leave unset from the checkpoint's own config.
        model.generation_config = GenerationConfig()

    def room(self, prompt: Prompt) -> int:
        """Return how many tokens the answer can have: what is asked for, or what the context leaves."""
        if self._context is None:
            return prompt.max_new_tokens
        return max(0, min(self._context - len(prompt.ids), prompt.max_new_tokens))

    def answer(self, prompts: Sequence[Prompt], journal: Journal, label: str) -> dict[str, dict[str, Any]]:
        """Answer all prompts, except those that the journal has answers to.

        Args:
            prompts: prompts, the same on all ranks.
            journal: journal of the answers; the main process reads it, and every rank writes its own answers.
            label: label of the progress bar.

        Returns:
            `text`, `num_tokens` and `end` for each key. The text is the answer without reasoning, which the journal
            keeps. `end` is `stop`, `length` (cut off), or `no_room` (the prompt fills the context and the text is
            empty).
        """
        done: dict[str, Any] = self._ranks.on_main(journal.read)
        answers: dict[str, dict[str, Any]] = {}
        for prompt in prompts:
            if prompt.key in done:
                answers[prompt.key] = done[prompt.key]
        # A batch with one missing answer is made again whole, so that no answer depends on a kill.
        unfinished = []
        for batch in self._batches(prompts):
            if any(prompt.key not in answers for prompt in batch):
                unfinished.append(batch)
        own = self._ranks.share(unfinished)

        def answer_own() -> list[tuple[str, dict[str, Any]]]:
            made: dict[str, dict[str, Any]] = {}
            total = sum(map(len, own))
            with tqdm(total=total, desc=label, unit="answer", mininterval=1.0, disable=not self._ranks.is_main) as bar:
                for batch in own:
                    batch_answers = self._answer_batch(batch)
                    journal.append(batch_answers)
                    made.update(batch_answers)
                    bar.update(len(batch))
            return list(made.items())

        for key, answer in self._ranks.gather_from(answer_own):
            answers.setdefault(key, answer)
        return self._without_reasoning(prompts, answers, label)

    def _without_reasoning(
        self, prompts: Sequence[Prompt], answers: dict[str, dict[str, Any]], label: str
    ) -> dict[str, dict[str, Any]]:
        """Return the answers without reasoning; warn of those that consist of nothing else."""
        opened = {}
        for prompt in prompts:
            end_of_prompt = self._tokenizer.decode(prompt.ids[-PROMPT_END:], skip_special_tokens=False)
            opened[prompt.key] = opens_reasoning(end_of_prompt)
        read = {}
        for key, answer in answers.items():
            read[key] = {**answer, "text": without_reasoning(answer["text"], opened[key])}
        empty = sum(bool(answers[key]["text"]) and not read[key]["text"] for key in read)
        if empty and self._ranks.is_main:
            logger.warning(
                "%s: the reasoning of %s did not come to an end, so the text is empty. Raise `max_new_tokens`.",
                label,
                counted(empty, "answer"),
            )
        return read

    def _batches(self, prompts: Sequence[Prompt]) -> list[list[Prompt]]:
        """Put prompts into batches of one answer length, longest prompts first.

        A prompt with too little room is a batch of its own, because all answers of its batch would be cut with it.
        """
        batches: list[list[Prompt]] = []
        by_limit: dict[int, list[Prompt]] = {}
        for prompt in sorted(prompts, key=lambda prompt: (-len(prompt.ids), prompt.key)):
            if self.room(prompt) < prompt.max_new_tokens:
                batches.append([prompt])
            else:
                by_limit.setdefault(prompt.max_new_tokens, []).append(prompt)
        for limit in sorted(by_limit):
            alike = by_limit[limit]
            for start in range(0, len(alike), self._batch_size):
                batches.append(alike[start : start + self._batch_size])
        return batches

    @torch.inference_mode()
    def _answer_batch(self, batch: list[Prompt]) -> dict[str, dict[str, Any]]:
        room = self.room(batch[0])
        if room == 0:
            (prompt,) = batch  # `_batches` lets it stand alone
            return {prompt.key: {"text": "", "num_tokens": 0, "end": "no_room"}}
        device = self._model.device
        pad_id = self._tokenizer.pad_token_id
        if pad_id is None:
            pad_id = self._end_ids[0]
        longest = max(len(prompt.ids) for prompt in batch)
        padded, mask, temperatures, seeds = [], [], [], []
        for prompt in batch:  # padded on the left: the answer follows the prompt
            missing = longest - len(prompt.ids)
            padded.append([pad_id] * missing + prompt.ids)
            mask.append([0] * missing + [1] * len(prompt.ids))
            temperatures.append(prompt.temperature)
            seeds.append(self._seed_of(prompt))
        noise = OwnNoise(temperatures, seeds, device)
        sequences = self._model.generate(
            torch.tensor(padded, device=device),
            attention_mask=torch.tensor(mask, device=device),
            logits_processor=LogitsProcessorList([noise]),
            generation_config=GenerationConfig(
                do_sample=False, max_new_tokens=room, eos_token_id=self._end_ids, pad_token_id=pad_id, use_cache=True
            ),
        )
        answers = {}
        for prompt, answer_ids in zip(batch, sequences[:, longest:].tolist(), strict=True):
            answers[prompt.key] = self._read(answer_ids)
        return answers

    def _read(self, ids: list[int]) -> dict[str, Any]:
        """Cut the answer before its first end token, and decode it."""
        end = "length"
        for position, token in enumerate(ids):
            if token in self._end_ids:
                ids, end = ids[:position], "stop"
                break
        text = decode_with_reasoning(self._tokenizer, ids)
        return {"text": text.strip(), "num_tokens": len(ids), "end": end}

    def _seed_of(self, prompt: Prompt) -> int:
        digest = hashlib.sha256(f"{self._seed} {prompt.key}".encode()).digest()
        return int.from_bytes(digest[:8], "little") >> 1  # torch takes seeds below 2^63


def end_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return the tokens that end an answer: the tokenizer's, the checkpoint's and the chat template's.

    Raises:
        ValueError: if there is none, because every answer would then run to its limit.
    """
    ends = _named_end_ids(model, tokenizer)
    added = added_end(model, tokenizer)
    if added is not None:
        ends.append(added)
    if not ends:
        raise ValueError(
            "The tokenizer or the generation config must have an end token (EOS), got none: no answer would ever "
            "stop. Set `tokenizer.eos_token`."
        )
    return ends


def added_end(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> int | None:
    """Return the token that ends an answer in the chat template alone; None if tokenizer or checkpoint name it too."""
    turn_end = find_turn_end(tokenizer)
    return None if turn_end in _named_end_ids(model, tokenizer) else turn_end


def _named_end_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return the end tokens that the tokenizer and the checkpoint name."""
    found = [tokenizer.eos_token_id]
    if model.generation_config is not None:
        of_model = model.generation_config.eos_token_id
        found += of_model if isinstance(of_model, list) else [of_model]
    return [token for token in dict.fromkeys(found) if token is not None]
