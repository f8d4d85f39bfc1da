"""The model whose answers are judged: loaded with its adapter, and prompted as it was tuned."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nuggets_trainer.config.checks import check_choice
from nuggets_trainer.config.prompt_options import TEMPLATES
from nuggets_trainer.data.read_row import read_row
from nuggets_trainer.data.row import SEPARATOR
from nuggets_trainer.demo import resolve_demo
from nuggets_trainer.engine.model import check_causal_lm
from nuggets_trainer.prompts.templates import resolve_alpaca_template
from nuggets_trainer.prompts.tokenize import without_eos
from nuggets_trainer.prompts.trl_columns import train_columns
from nuggets_trainer.store.fingerprint import tokenizer_hash, weights_hash

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def load_tuned(
    name: str, adapter: str | None = None, **options: Any
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a model and its tokenizer to answer with.

    Args:
        name: hub name or local directory of a model, or `nuggets-demo/model`; or of an adapter alone, as `save_model`
            writes it with the name of its base model.
        adapter: hub name or local directory of an adapter to put on the model.
        options: arguments of `AutoModelForCausalLM.from_pretrained`; the tokenizer gets `revision` and
            `trust_remote_code` too.

    Raises:
        ValueError: if the model is not a decoder-only language model with its head.
    """
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    path = resolve_demo(name)
    shared: dict[str, Any] = {key: options[key] for key in ("revision", "trust_remote_code") if key in options}
    base = _base_model_name(path)
    # The revision names one of `path`; if that is an adapter, its base model has revisions of its own.
    of_base = shared if base == path else {}
    check_causal_lm(AutoConfig.from_pretrained(base, **of_base))
    model = AutoModelForCausalLM.from_pretrained(path, **options)
    if adapter is not None:
        model.load_adapter(adapter)
    if base == path or _has_tokenizer(path):
        tokenizer = AutoTokenizer.from_pretrained(path, **shared)
    else:
        tokenizer = AutoTokenizer.from_pretrained(base)
    return model.eval(), tokenizer


def prompt_ids(tokenizer: PreTrainedTokenizerBase, template: str, turns: Sequence[str]) -> list[int]:
    """Return the token ids before an answer, rendered as training renders them.

    Args:
        tokenizer: tokenizer of the model.
        template: `chat` (the tokenizer's chat template up to the beginning of the answer), `plain` or `nuggets` (text,
            as `train_columns` gives it for rows with Alpaca columns; a blank line follows each earlier answer).
        turns: messages of user and assistant in turn; the last one is the user's.
    """
    if template == "chat":
        roles = ("user", "assistant")
        messages = []
        for i, turn in enumerate(turns):
            messages.append({"role": roles[i % 2], "content": turn})
        rendered = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)
        return list(rendered["input_ids"])
    text = ""
    for i, turn in enumerate(turns):
        is_answer = i % 2 == 1
        text += turn + SEPARATOR if is_answer else _instruction(template, turn)
    return without_eos(tokenizer, list(tokenizer(text)["input_ids"]))


def resolve_answer_template(name: str, tokenizer: PreTrainedTokenizerBase) -> str:
    """Return the template that `auto` stands for; refuse a template that the tokenizer cannot render.

    Raises:
        ValueError: if the name is unknown, or if it is `chat` and there is no chat template.
    """
    check_choice("template", name, TEMPLATES)
    if name == "chat" and not tokenizer.chat_template:
        raise ValueError(
            "`template` must be `plain` or `nuggets` for a tokenizer without a chat template, got 'chat'. Name the "
            "template that the model was tuned with."
        )
    return resolve_alpaca_template(name, bool(tokenizer.chat_template))


def model_fields(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> dict[str, str]:
    """Return what a model's answer depends on, by name: weights, adapter, tokenizer, chat template, dtype."""
    adapter_configs = getattr(model, "peft_config", None) or {}
    adapters = {name: config.to_dict() for name, config in adapter_configs.items()}
    written = json.dumps([adapters, tokenizer.chat_template], sort_keys=True, default=_json_value)
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


def _base_model_name(path: str) -> str:
    """Return the name of an adapter's base model; a model that is not an adapter is its own base."""
    from transformers.utils.peft_utils import find_adapter_config_file

    found = find_adapter_config_file(path)
    return (
        path if found is None else str(json.loads(Path(found).read_text(encoding="utf-8"))["base_model_name_or_path"])
    )


def _has_tokenizer(path: str) -> bool:
    from transformers.utils import cached_file

    return cached_file(path, "tokenizer_config.json", _raise_exceptions_for_missing_entries=False) is not None


def _json_value(value: Any) -> Any:
    return sorted(value) if isinstance(value, (set, frozenset)) else str(value)
