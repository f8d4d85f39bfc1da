"""The model whose answers are judged: loaded with its adapter, and prompted as it was tuned. Knows no benchmark."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nuggets_trainer.data.read_row import read_row
from nuggets_trainer.data.row import SEPARATOR
from nuggets_trainer.demo import resolve_demo
from nuggets_trainer.engine.model import check_causal_lm
from nuggets_trainer.prompts.templates import resolve_alpaca_template, train_columns
from nuggets_trainer.prompts.tokenize import without_eos
from nuggets_trainer.store.fingerprint import tokenizer_hash, weights_hash

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

TEMPLATES = ("auto", "chat", "plain", "nuggets")


def load_tuned(
    name: str, adapter: str | None = None, **options: Any
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a model and its tokenizer to answer with.

    Args:
        name: hub name, local directory, or `nuggets-demo/model`; also of an adapter alone, as `save_model` writes one,
            which knows its base model.
        adapter: hub name or local directory of an adapter to put on it.
        options: for `AutoModelForCausalLM.from_pretrained`; `revision` and `trust_remote_code` hold for the tokenizer.

    Raises:
        ValueError: if it is not a decoder-only language model with its head.
    """
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    path = resolve_demo(name)
    shared = {key: options[key] for key in ("revision", "trust_remote_code") if key in options}
    base = _base_of(path)
    # An adapter's revision is none of its base model's.
    check_causal_lm(AutoConfig.from_pretrained(base, **(shared if base == path else {})))
    model = AutoModelForCausalLM.from_pretrained(path, **options)
    if adapter is not None:
        model.load_adapter(adapter)
    tokenizer_name = path if base == path or _has_tokenizer(path) else base
    return model.eval(), AutoTokenizer.from_pretrained(tokenizer_name, **(shared if tokenizer_name == path else {}))


def prompt_ids(tokenizer: PreTrainedTokenizerBase, template: str, turns: Sequence[str]) -> list[int]:
    """Token ids before an answer, rendered as training renders them.

    Args:
        tokenizer: of the model.
        template: `chat` (the tokenizer's chat template, ready for the assistant), `plain` or `nuggets` (text, as
            `train_columns` gives it for rows with Alpaca columns). Earlier turns of a text stand before it, parted by
            a blank line.
        turns: what user and assistant said in turn; the last one is the user's.
    """
    if template == "chat":
        roles = ("user", "assistant")
        messages = [{"role": roles[i % 2], "content": text} for i, text in enumerate(turns)]
        rendered = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)
        return list(rendered["input_ids"])
    pieces = [text if i % 2 else _instruction(template, text) for i, text in enumerate(turns)]
    text = "".join(piece + (SEPARATOR if i % 2 else "") for i, piece in enumerate(pieces))
    return without_eos(tokenizer, list(tokenizer(text)["input_ids"]))


def resolve_answer_template(name: str, tokenizer: PreTrainedTokenizerBase) -> str:
    """Name the template that `auto` stands for; refuse one that the tokenizer cannot render.

    Raises:
        ValueError: for an unknown name, or `chat` without a chat template.
    """
    if name not in TEMPLATES:
        raise ValueError(f"`template` must be one of {', '.join(TEMPLATES)}, got {name!r}.")
    if name == "chat" and not tokenizer.chat_template:
        raise ValueError(
            "`template='chat'`, but the tokenizer has no chat template. Name the template the model was tuned with: "
            "`plain` or `nuggets`."
        )
    return resolve_alpaca_template(name, tokenizer.chat_template)


def model_fields(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> dict[str, str]:
    """Name and value of what a model's answer depends on: weights, adapter, tokenizer, chat template, dtype."""
    adapters = {name: config.to_dict() for name, config in (getattr(model, "peft_config", None) or {}).items()}
    written = json.dumps([adapters, tokenizer.chat_template], sort_keys=True, default=_sortable)
    return {
        "weights_sha256": weights_hash(model.state_dict()),
        "tokenizer_sha256": tokenizer_hash(tokenizer),
        "template_and_adapter_sha256": hashlib.sha256(written.encode()).hexdigest()[:32],
        "dtype": str(model.dtype).removeprefix("torch."),
    }


def _instruction(template: str, text: str) -> str:
    prompt = train_columns(template, read_row({"instruction": text, "output": "-"}, "alpaca"))["prompt"]
    assert isinstance(prompt, str), template
    return prompt


def _base_of(path: str) -> str:
    """Name of the base model of an adapter; of any other model its own."""
    from transformers.utils.peft_utils import find_adapter_config_file

    found = find_adapter_config_file(path)
    return path if found is None else str(json.loads(Path(found).read_text())["base_model_name_or_path"])


def _has_tokenizer(path: str) -> bool:
    from transformers.utils import cached_file

    return cached_file(path, "tokenizer_config.json", _raise_exceptions_for_missing_entries=False) is not None


def _sortable(value: Any) -> Any:
    return sorted(value) if isinstance(value, (set, frozenset)) else str(value)
