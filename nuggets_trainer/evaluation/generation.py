"""Answers of a model to many prompts: batched by length, over all ranks, kept while they are made. Knows no benchmark.

Which answer a prompt gets does not depend on the number of ranks, on kills, or on the order of work: batches are laid
out over all prompts before any is answered, a rank takes whole batches, and a prompt that is sampled has a random
number generator of its own. Another `batch_size` changes an answer only where two tokens tie within rounding.
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
from nuggets_trainer.ranks import Ranks

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Prompt:
    """What is to be answered.

    Attributes:
        key: names it in the journal, and seeds its random numbers.
        ids: token ids.
        temperature: 0 for the most likely token at each step.
        max_new_tokens: where the answer is cut off.
    """

    key: str
    ids: list[int]
    temperature: float
    max_new_tokens: int


class OwnNoise(LogitsProcessor):  # type: ignore[misc]  # transformers has no types
    """Makes the largest logit a sample of each row's own.

    `argmax(logits / T + g)` with Gumbel noise `g` is a draw from `softmax(logits / T)` (the Gumbel-max trick), and a
    generator per row makes the draw independent of what else is in the batch, which sampling from the batch at once
    is not. Rows at temperature 0 are left as they are.

    Args:
        temperatures: one per row.
        seeds: one per row.
        device: of the logits.
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

    Decoding is greedy or plain temperature sampling; what a checkpoint's generation config suggests (top-p, repetition
    penalty, ...) is not used, but for its end tokens.

    Args:
        model: on this rank's device, whole.
        tokenizer: decodes, and says what ends an answer and what pads.
        ranks: of the job.
        batch_size: prompts in one forward pass.
        seed: of all random numbers.
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
        self._end_ids = _end_ids(model, tokenizer)
        model.generation_config = GenerationConfig()  # else `generate` fills what we leave unset from the checkpoint's

    def room(self, prompt: Prompt) -> int:
        """How many tokens the answer may have: what is asked for, or what the context leaves."""
        left = prompt.max_new_tokens if self._context is None else self._context - len(prompt.ids)
        return max(0, min(left, prompt.max_new_tokens))

    def answer(self, prompts: Sequence[Prompt], journal: Journal, label: str) -> dict[str, dict[str, Any]]:
        """Answer all prompts, except for those that the journal has.

        Args:
            prompts: the same on all ranks.
            journal: where answers are kept; the main process reads it, every rank writes what it makes.
            label: of the progress bar.

        Returns:
            For each key `text`, `num_tokens` and `end`: `stop`, `length` (cut off), or `no_room` (the prompt fills the
            context; the text is empty).
        """
        done: dict[str, Any] = self._ranks.on_main(journal.read)
        wanted = {prompt.key for prompt in prompts}
        answers = {key: answer for key, answer in done.items() if key in wanted}
        todo = [batch for batch in self._batches(prompts) if not all(prompt.key in answers for prompt in batch)]
        own = self._ranks.share(todo)

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
        return answers

    def _batches(self, prompts: Sequence[Prompt]) -> list[list[Prompt]]:
        """Longest prompts first; one whose room is short stands alone, as its batch would be cut with it."""
        ordered = sorted(prompts, key=lambda prompt: (-len(prompt.ids), prompt.key))
        short = [[prompt] for prompt in ordered if self.room(prompt) < prompt.max_new_tokens]
        whole = [prompt for prompt in ordered if self.room(prompt) == prompt.max_new_tokens]
        limits = sorted({prompt.max_new_tokens for prompt in whole})
        batches = short
        for limit in limits:
            alike = [prompt for prompt in whole if prompt.max_new_tokens == limit]
            batches += [alike[i : i + self._batch_size] for i in range(0, len(alike), self._batch_size)]
        return batches

    @torch.inference_mode()
    def _answer_batch(self, batch: list[Prompt]) -> dict[str, dict[str, Any]]:
        room = self.room(batch[0])
        if room == 0:
            return {prompt.key: {"text": "", "num_tokens": 0, "end": "no_room"} for prompt in batch}
        device = self._model.device
        longest = max(len(prompt.ids) for prompt in batch)
        padding = [longest - len(prompt.ids) for prompt in batch]
        pad_id = self._end_ids[0] if self._tokenizer.pad_token_id is None else self._tokenizer.pad_token_id
        ids = torch.tensor(
            [[pad_id] * p + prompt.ids for p, prompt in zip(padding, batch, strict=True)], device=device
        )
        mask = torch.tensor([[0] * p + [1] * (longest - p) for p in padding], device=device)
        noise = OwnNoise([prompt.temperature for prompt in batch], [self._seed_of(prompt) for prompt in batch], device)
        sequences = self._model.generate(
            ids,
            attention_mask=mask,
            logits_processor=LogitsProcessorList([noise]),
            generation_config=GenerationConfig(
                do_sample=False, max_new_tokens=room, eos_token_id=self._end_ids, pad_token_id=pad_id, use_cache=True
            ),
        )
        return {
            prompt.key: self._read(row) for prompt, row in zip(batch, sequences[:, longest:].tolist(), strict=True)
        }

    def _read(self, ids: list[int]) -> dict[str, Any]:
        """Cut at the first end token; decode."""
        ends = [position for position, token in enumerate(ids) if token in self._end_ids]
        ids = ids[: ends[0]] if ends else ids
        text = self._tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return {"text": text.strip(), "num_tokens": len(ids), "end": "stop" if ends else "length"}

    def _seed_of(self, prompt: Prompt) -> int:
        digest = hashlib.sha256(f"{self._seed} {prompt.key}".encode()).digest()
        return int.from_bytes(digest[:8], "little") >> 1  # torch takes seeds below 2^63


def _end_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Tokens that end an answer: the checkpoint's and the tokenizer's.

    Raises:
        ValueError: if there is none, as every answer would then run to its limit.
    """
    of_model = model.generation_config.eos_token_id if model.generation_config is not None else None
    listed = of_model if isinstance(of_model, list) else [of_model]
    ends = list(dict.fromkeys(token for token in [tokenizer.eos_token_id, *listed] if token is not None))
    if not ends:
        raise ValueError(
            "Neither tokenizer nor generation config has an end token (EOS): no answer would ever stop. Set "
            "`tokenizer.eos_token`."
        )
    return ends
