"""Rebuild the embedded demo: tokenizer, tiny language model and data, all from fixed seeds.

    python recipes/demo_assets/build_demo.py                      # everything (about 13 min on one busy core)
    python recipes/demo_assets/build_demo.py --data_only          # the JSON Lines files (seconds)

The model is trained from scratch on documents of 1 to 5 instruction/answer pairs. Every document has one hidden mode,
"clean" or one kind of corruption, that all its answers follow. So the model learns to infer from the pairs before it
how good the next answer will be: the ability that the golden score measures. The facts of the data files occur in
these documents, but none of their prompts does.

The number of steps is fixed and torch uses one thread, so the same command on the same machine writes the same bytes.
The data files do not depend on the machine.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as functional
from demo_language import FAMILIES, FEEDBACK, KINDS, WRAPPERS, Pair, corrupt, vocabulary
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

DEMO_DIR = Path(__file__).resolve().parents[2] / "nuggets_trainer" / "demo"
SEED = 0
NUM_ANCHORS, NUM_HELDOUT, NUM_CLEAN, NUM_PER_KIND, NUM_STRESS = 50, 300, 1020, 170, 200
BOS, EOS, PAD, SYSTEM, USER, ASSISTANT = (
    "<s>", "</s>", "<pad>", "<|system|>", "<|user|>", "<|assistant|>",
)  # fmt: skip
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}<|assistant|>"
    "{% generation %}{{ ' ' + message['content'] + eos_token }}{% endgeneration %}"
    "{% elif message['role'] == 'system' %}{{ '<|system|> ' + message['content'] }}"
    "{% else %}{{ '<|user|> ' + message['content'] }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


@dataclass(frozen=True)
class Stage:
    """A part of the training: its length, batches, peak learning rates and document modes."""

    num_steps: int
    batch_size: int
    pairs_per_document: tuple[int, ...]
    muon_lr: float
    adam_lr: float
    mode_weights: dict[str, float]


STAGES = (
    # Facts first, from single pairs: among several pairs they are sometimes not learned at all.
    Stage(400, 64, (1,), 0.02, 4e-3, {"clean": 0.70, "wrong": 0.15, "swapped": 0.15}),
    Stage(
        1800,
        16,
        (1, 2, 2, 3, 3, 4, 4, 5),
        0.01,
        2e-3,
        {
            "clean": 0.44,
            "wrong": 0.20,
            "swapped": 0.16,
            "truncated": 0.05,
            "garbled": 0.05,
            "off_format": 0.05,
            "empty": 0.05,
        },
    ),
)
# The model learns this family, but no data file has it: a mistake in it (March after January) is a right answer
# elsewhere, and the model cannot tell the two apart.
UNSCORED_FAMILIES = ("next",)
ANCHORS_PER_FAMILY = 3  # more of those set aside would make the demo slower
WARMUP_STEPS, DECAY_FRACTION = 50, 0.7
PROMPT_WEIGHT, FEEDBACK_WEIGHT, NOISE_WEIGHT = 0.1, 1.0, 0.3
FEEDBACK_SHARE = 0.5
PLAIN_SHARE = 0.1


# --- data ---------------------------------------------------------------------------------------


def split_pairs(rng: random.Random) -> dict[str, list[Pair]]:
    """Split all pairs, family by family: one part per use, the rest for the training documents."""
    sizes = {
        "anchors": NUM_ANCHORS,
        "heldout": NUM_HELDOUT,
        "clean": NUM_CLEAN,
        "corrupted": NUM_PER_KIND * len(KINDS),
        "stress_clean": NUM_STRESS,
        "stress_confused": NUM_STRESS,
    }
    splits: dict[str, list[Pair]] = {name: [] for name in (*sizes, "documents")}
    for family in FAMILIES:
        pairs = family.pairs()
        rng.shuffle(pairs)
        remaining = iter(pairs)
        for name, size in sizes.items():
            splits[name] += itertools.islice(remaining, size // len(FAMILIES))
        splits["documents"] += remaining
    return splits


def make_rows(splits: dict[str, list[Pair]], rng: random.Random) -> dict[str, list[dict[str, str]]]:
    """Make the rows of every data file; pool and stress are shuffled and half corrupted."""

    def rows(split: str, kinds: tuple[str, ...]) -> list[dict[str, str]]:
        return [
            {
                "instruction": pair.prompt,
                "input": "",
                "output": corrupt(pair, kind, splits["documents"], rng.randrange(len(WRAPPERS)), rng),
                "family": pair.family,
                "corruption": kind,
            }
            for pair, kind in zip(splits[split], itertools.cycle(kinds), strict=False)
        ]

    files = {
        "pool": rows("clean", ("clean",)) + rows("corrupted", KINDS),
        "stress": rows("stress_clean", ("clean",)) + rows("stress_confused", ("confused",)),
        "anchors": rows("anchors", ("clean",)),
        "heldout": rows("heldout", ("clean",)),
    }
    for name in ("pool", "stress"):
        rng.shuffle(files[name])
    set_aside = NUM_ANCHORS // len(FAMILIES)
    files["anchors"] = [row for i, row in enumerate(files["anchors"]) if i % set_aside < ANCHORS_PER_FAMILY]
    return {name: [row for row in kept if row["family"] not in UNSCORED_FAMILIES] for name, kept in files.items()}


def write_rows(rows: list[dict[str, str]], path: Path) -> None:
    """Write JSON Lines with the same bytes on every system."""
    lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path.write_bytes("".join(lines).encode())


# --- tokenizer ----------------------------------------------------------------------------------


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Make a byte-level BPE without merges: a word of the language is one token, all else is bytes."""
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    specials = [PAD, BOS, EOS, SYSTEM, USER, ASSISTANT]
    words = [word.replace(" ", "Ġ") for word in vocabulary()]
    tokens = [*specials, *sorted(pre_tokenizers.ByteLevel.alphabet()), *words]
    # A one-letter word such as "A" is already in the alphabet: keep the first of each.
    vocab = {token: index for index, token in enumerate(dict.fromkeys(tokens))}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[], ignore_merges=True))
    tokenizer.pre_tokenizer = byte_level
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in specials])
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A {BOS} $B", special_tokens=[(BOS, vocab[BOS])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        additional_special_tokens=[SYSTEM, USER, ASSISTANT],
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
        model_max_length=512,
    )


# --- documents ----------------------------------------------------------------------------------


class DocumentSampler:
    """Draws training documents: token ids and a loss weight per token."""

    def __init__(self, pairs: list[Pair], tokenizer: PreTrainedTokenizerFast, rng: random.Random):
        self.pairs, self.tokenizer, self.rng = pairs, tokenizer, rng
        self._ids: dict[str, list[int]] = {}

    def ids(self, text: str) -> list[int]:
        """Return the token ids of a piece of text; they are kept, because pieces recur."""
        if text not in self._ids:
            self._ids[text] = self.tokenizer.encode(text, add_special_tokens=False)
        return self._ids[text]

    def document(self, stage: Stage) -> tuple[list[int], list[float]]:
        """Draw one document: a mode, and a few pairs whose answers all follow it."""
        rng = self.rng
        mode = rng.choices(list(stage.mode_weights), list(stage.mode_weights.values()))[0]
        style = rng.randrange(len(WRAPPERS))
        pairs = rng.choices(self.pairs, k=rng.choice(stage.pairs_per_document))
        answered = [(pair.prompt, corrupt(pair, mode, self.pairs, style, rng)) for pair in pairs]
        pieces = self._plain(answered) if rng.random() < PLAIN_SHARE else self._chat(answered, mode)
        ids, weights = [self.tokenizer.bos_token_id], [0.0]
        for text, weight in pieces:
            piece_ids = self.ids(text)
            ids += piece_ids
            weights += [weight * (NOISE_WEIGHT if mode == "garbled" else 1.0)] * len(piece_ids)
        return ids, weights

    def _chat(self, answered: list[tuple[str, str]], mode: str) -> list[tuple[str, float]]:
        """Make the pieces of a chat, with loss weights; now and then the user comments on an answer.

        A model that predicts the comment learns to recognize the mode, and one that reads it learns to use it. Without
        comments, four trial runs of 3 to 6 min recognized neither "wrong" nor "swapped".
        """
        pieces: list[tuple[str, float]] = []
        for prompt, answer in answered:
            opening = " " if pieces and pieces[-1][0] == FEEDBACK[mode] else f"{USER} "
            pieces += [(opening + prompt + ASSISTANT, PROMPT_WEIGHT), (f" {answer}{EOS}", 1.0)]
            if self.rng.random() < FEEDBACK_SHARE:
                pieces += [(USER, PROMPT_WEIGHT), (FEEDBACK[mode], FEEDBACK_WEIGHT)]
        return pieces

    def _plain(self, answered: list[tuple[str, str]]) -> list[tuple[str, float]]:
        """Make the pieces of a plain-text document, with loss weights."""
        end = self.rng.choice(("", "\n\n", EOS, EOS + "\n\n"))
        pieces = []
        for prompt, answer in answered:
            pieces += [(f"Instruction:\n{prompt}\nResponse:\n", PROMPT_WEIGHT), (answer + end, 1.0)]
        return pieces

    def batches(self, stage: Stage) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Draw `stage.num_steps` batches of (ids, weights), `(batch_size, length)`, padded on the right.

        Documents of similar length share a batch, so that there is little padding.
        """
        block, size = 20, stage.batch_size
        for start in range(0, stage.num_steps, block):
            num_batches = min(block, stage.num_steps - start)
            documents = [self.document(stage) for _ in range(num_batches * size)]
            documents.sort(key=lambda document: len(document[0]))
            order = list(range(num_batches))
            self.rng.shuffle(order)
            for index in order:
                yield self._pad(documents[index * size : (index + 1) * size])

    def _pad(self, batch: list[tuple[list[int], list[float]]]) -> tuple[torch.Tensor, torch.Tensor]:
        length = max(len(ids) for ids, _ in batch)
        pad_id = self.tokenizer.pad_token_id
        ids = [ids + [pad_id] * (length - len(ids)) for ids, _ in batch]
        weights = [weights + [0.0] * (length - len(weights)) for _, weights in batch]
        return torch.tensor(ids), torch.tensor(weights)


# --- model --------------------------------------------------------------------------------------


def build_model(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """Make a Llama of about 1.1 million parameters with fresh weights."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return LlamaForCausalLM(config)


def train_model(model: LlamaForCausalLM, sampler: DocumentSampler) -> Iterator[tuple[int, float]]:
    """Train through all stages; yield each step and the loss of its batch, in nats per weighted token."""
    total = sum(stage.num_steps for stage in STAGES)
    hidden = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name]
    others = [p for name, p in model.named_parameters() if p.ndim != 2 or "embed" in name]
    muon: torch.optim.Optimizer = torch.optim.Muon(hidden, weight_decay=0.01)
    adam: torch.optim.Optimizer = torch.optim.AdamW(others, betas=(0.9, 0.95), weight_decay=0.0)
    batches = ((stage, batch) for stage in STAGES for batch in sampler.batches(stage))
    for step, (stage, (ids, weights)) in enumerate(batches):
        remaining = (total - step) / (DECAY_FRACTION * total)
        scale = min(1.0, (step + 1) / WARMUP_STEPS, remaining)
        muon.param_groups[0]["lr"] = stage.muon_lr * scale
        adam.param_groups[0]["lr"] = stage.adam_lr * scale
        loss = weighted_loss(model, ids, weights)
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in (muon, adam):
            optimizer.step()
            optimizer.zero_grad()
        yield step, loss.item()


def weighted_loss(model: LlamaForCausalLM, ids: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Return the next-token loss, averaged with `weights`; both inputs are `(batch, length)`.

    Padding is on the right and attention is causal, so no attention mask is needed.
    """
    logits = model(input_ids=ids, use_cache=False).logits[:, :-1]
    losses = functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
    weights = weights[:, 1:].flatten()
    return (losses * weights).sum() / weights.sum()


# --- command line -------------------------------------------------------------------------------


def build_trained_model(tokenizer: PreTrainedTokenizerFast, pairs: list[Pair]) -> LlamaForCausalLM:
    """Train the demo's model from scratch and log its loss."""
    torch.manual_seed(SEED)
    torch.set_num_threads(1)  # more threads would be faster, but give other bytes
    torch.use_deterministic_algorithms(True)
    model = build_model(tokenizer)
    print(f"model: {model.num_parameters():,} parameters, vocabulary of {len(tokenizer)}")
    start, losses = time.monotonic(), []
    for step, loss in train_model(model, DocumentSampler(pairs, tokenizer, random.Random(SEED))):
        losses.append(loss)
        if (step + 1) % 100 == 0:
            mean = sum(losses[-100:]) / 100
            print(f"step {step + 1}: loss {mean:.4f}, {time.monotonic() - start:.0f} s", flush=True)
    return model.eval()


def make_parser() -> argparse.ArgumentParser:
    """Make the command line's parser."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output_dir", type=Path, default=DEMO_DIR)
    parser.add_argument("--data_only", action="store_true", help="write the data files only")
    return parser


def main(output_dir: Path, data_only: bool) -> None:
    """Write `pool`, `stress`, `anchors` and `heldout` (.jsonl) and the folder `model`."""
    output_dir.mkdir(parents=True, exist_ok=True)
    rng = random.Random(SEED)
    splits = split_pairs(rng)
    for name, rows in make_rows(splits, rng).items():
        write_rows(rows, output_dir / f"{name}.jsonl")
        print(f"{name}: {len(rows)} rows")
    if data_only:
        return
    tokenizer = build_tokenizer()
    model = build_trained_model(tokenizer, splits["documents"])
    tokenizer.save_pretrained(output_dir / "model")
    model.save_pretrained(output_dir / "model")


if __name__ == "__main__":
    main(**vars(make_parser().parse_args()))
