"""The slow, obvious way: one sequence at a time, no cache, no batch, no padding, float64 log-softmax.

Written from DESIGN's description of the templates, without using the package: it shares no line with what it checks.
"""

from __future__ import annotations

import numpy as np
import torch


def mean_log_prob(model, context: list[int], completion: list[int]) -> float:
    """Mean of log p(completion token | everything before it), nats per token."""
    ids = torch.tensor([context + completion])
    with torch.no_grad():
        log_probs = model(input_ids=ids, use_cache=False).logits[0].double().log_softmax(dim=-1)
    targets = torch.tensor(completion)
    positions = torch.arange(len(context) - 1, len(context) + len(completion) - 1)
    return float(log_probs[positions, targets].mean())


def mean_log_prob_at(model, ids: list[int], positions: list[int]) -> float:
    """Mean of log p(token | everything before it) over the tokens at these positions, nats per token."""
    with torch.no_grad():
        log_probs = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0].double().log_softmax(dim=-1)
    return float(np.mean([float(log_probs[position - 1, ids[position]]) for position in positions]))


def render(tokenizer, template: str, anchor: dict, candidate: dict | None) -> tuple[list[int], list[int]]:
    """Context and completion token ids of an anchor (Alpaca columns), alone or behind a candidate."""
    return {"chat": _chat, "plain": _plain, "nuggets": _nuggets}[template](tokenizer, anchor, candidate)


def golden(model, tokenizer, template: str, pool: list[dict], anchors: list[dict], exclude_self: bool):
    """Zero-shot `(m,)`, one-shot `(n, m)` (NaN for a pair with itself) and golden scores `(n,)`."""
    zero = np.array([mean_log_prob(model, *render(tokenizer, template, a, None)) for a in anchors])
    one = np.full((len(pool), len(anchors)), np.nan)
    for i, candidate in enumerate(pool):
        for j, anchor in enumerate(anchors):
            if not (exclude_self and candidate == anchor):
                one[i, j] = mean_log_prob(model, *render(tokenizer, template, anchor, candidate))
    # As in the design: both sides in float32, strictly above.
    wins = (one.astype(np.float32) > zero.astype(np.float32)) & ~np.isnan(one)
    return zero, one, wins.sum(axis=1) / (~np.isnan(one)).sum(axis=1)


def row_signals(model, tokenizer, template: str, row: dict, anchors: list[dict]) -> dict[str, float]:
    """Signals of a row by itself: losses, IFD, similarity to anchors of other text, number of scored tokens."""
    context, completion = _whole(tokenizer, template, row)
    loss = -mean_log_prob(model, context, completion)
    alone = -mean_log_prob(model, _opening(tokenizer, template, row), completion)
    own = _embedding(model, context + completion)
    cosines = []
    for anchor in anchors:
        if anchor != row:
            other = _embedding(model, [token for part in _whole(tokenizer, template, anchor) for token in part])
            cosines.append(float(own @ other / np.linalg.norm(own) / np.linalg.norm(other)))
    similarity = float(np.mean(cosines))
    signals = {"loss": loss, "loss_without_prompt": alone, "ifd": loss / alone, "similarity": similarity}
    return {**signals, "num_tokens": len(completion)}


def cosines(model, tokenizer, template: str, rows: list[dict], anchors: list[dict]) -> np.ndarray:
    """Cosine of each anchor and each row, `(m, n)`; NaN for an anchor that is the row."""
    found = np.full((len(anchors), len(rows)), np.nan)
    for j, anchor in enumerate(anchors):
        other = _embedding(model, [token for part in _whole(tokenizer, template, anchor) for token in part])
        for i, row in enumerate(rows):
            if anchor != row:
                own = _embedding(model, [token for part in _whole(tokenizer, template, row) for token in part])
                found[j, i] = own @ other / np.linalg.norm(own) / np.linalg.norm(other)
    return found


def behind_examples(tokenizer, template: str, row: dict, examples: list[dict]) -> tuple[list[int], list[int]]:
    """Context and completion of a whole row (Alpaca columns) behind examples, all written out."""
    if template == "chat":
        turns = []
        for shown in [*examples, row]:
            turns.append({"role": "user", "content": _prompt(shown)})
            turns.append({"role": "assistant", "content": shown["output"].strip()})
        asked = tokenizer.apply_chat_template(turns[:-1], tokenize=False, add_generation_prompt=True)
        whole = tokenizer.apply_chat_template(turns, tokenize=False)
        prompt, ids = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in (asked, whole))
        assert ids[: len(prompt)] == prompt
        return prompt, ids[len(prompt) :]
    bos = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    context: list[int] = list(bos)
    for example in examples:
        shown_prompt, shown_completion = _whole(tokenizer, template, example)
        context += shown_prompt[len(bos) :] + shown_completion
        if template == "plain":  # no EOS between two rows, but a blank line
            assert context.pop() == tokenizer.eos_token_id
            context += tokenizer("\n\n", add_special_tokens=False)["input_ids"]
    prompt, completion = _whole(tokenizer, template, row)
    return context + prompt[len(bos) :], completion


def ica(model, tokenizer, template: str, row: dict, contexts: list[list[dict]]) -> float:
    """Mean log-prob of the completion behind examples, over the contexts, minus that of the row alone."""
    alone = mean_log_prob(model, *_whole(tokenizer, template, row))
    behind = [
        mean_log_prob(
            model, *behind_examples(tokenizer, template, row, [example for example in examples if example != row])
        )
        for examples in contexts
    ]
    return float(np.mean(behind)) - alone


def _whole(tokenizer, template: str, row: dict) -> tuple[list[int], list[int]]:
    """Context and completion of a row that is shown as candidates are: under `nuggets` with BOS, and not cut."""
    if template != "nuggets":
        return render(tokenizer, template, row, None)
    extra = f"\nInput:\n{row['input'].strip()}" if row["input"].strip() else ""
    prompt = f"Instruction:\n{row['instruction'].strip()}{extra}\nResponse:\n"
    ids = tokenizer(prompt + row["output"].strip(), add_special_tokens=False)["input_ids"]
    start = len(tokenizer(prompt, add_special_tokens=False)["input_ids"])
    return [tokenizer.bos_token_id, *ids[:start]], ids[start:]


def _opening(tokenizer, template: str, row: dict) -> list[int]:
    """What stands before a completion whose prompt is left out: BOS and the beginning of an answer."""
    header = ""
    if template == "nuggets":
        header = "Response:\n"
    elif template == "chat":
        turn = [{"role": "user", "content": _prompt(row)}]
        asked = tokenizer.apply_chat_template(turn, tokenize=False)
        header = tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)[len(asked) :]
    return [tokenizer.bos_token_id, *tokenizer(header, add_special_tokens=False)["input_ids"]]


def _embedding(model, ids: list[int]) -> np.ndarray:
    """Mean of the last hidden states, the first token with the weight 1, the second with 2, and so on."""
    with torch.no_grad():
        states = model(input_ids=torch.tensor([ids]), output_hidden_states=True).hidden_states[-1][0].double().numpy()
    total = np.zeros(states.shape[1])
    for position, state in enumerate(states, start=1):
        total += position * state
    return total / sum(range(1, len(ids) + 1))


def _prompt(row: dict) -> str:
    instruction, extra = row["instruction"].strip(), row["input"].strip()
    return instruction + ("\n\n" + extra if extra else "")


def _chat(tokenizer, anchor, candidate):
    turns = []
    if candidate is not None:
        turns.append({"role": "user", "content": _prompt(candidate)})
        turns.append({"role": "assistant", "content": candidate["output"].strip()})
    turns.append({"role": "user", "content": _prompt(anchor)})
    prompt_text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    turns.append({"role": "assistant", "content": anchor["output"].strip()})
    full_text = tokenizer.apply_chat_template(turns, tokenize=False)
    prompt = tokenizer(prompt_text, add_special_tokens=False)["input_ids"]
    full = tokenizer(full_text, add_special_tokens=False)["input_ids"]
    start = next((i for i, (a, b) in enumerate(zip(prompt, full, strict=False)) if a != b), len(prompt))
    return full[:start], full[start:]


def _plain(tokenizer, anchor, candidate):
    def ids(text: str) -> list[int]:
        return tokenizer(text, add_special_tokens=False)["input_ids"]

    context = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    if candidate is not None:
        context += ids(_prompt(candidate)) + ids("\n\n") + ids(candidate["output"].strip()) + ids("\n\n")
    context += ids(_prompt(anchor)) + ids("\n\n")
    return context, [*ids(anchor["output"].strip()), tokenizer.eos_token_id]


def _nuggets(tokenizer, anchor, candidate):
    def text(row: dict) -> tuple[str, str]:
        extra = f"\nInput:\n{row['input'].strip()}" if row["input"].strip() else ""
        return f"Instruction:\n{row['instruction'].strip()}{extra}\nResponse:\n", row["output"].strip()

    def ids(value: str) -> list[int]:
        return tokenizer(value, add_special_tokens=False)["input_ids"]

    prompt, output = text(anchor)
    start, full = len(ids(prompt)), ids(prompt + output)[:200]
    shown = [] if candidate is None else [tokenizer.bos_token_id, *ids("".join(text(candidate)))]
    return shown + full[:start], full[start:]
