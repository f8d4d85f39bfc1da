"""The template of a pool, the reason for it, and the source of its text."""

from __future__ import annotations

from typing import Any

from nuggets_trainer.config.nuggets_config import NuggetsConfig
from nuggets_trainer.config.row_options import RowOptions
from nuggets_trainer.data.pool import Pool
from nuggets_trainer.demo import resolve_demo
from nuggets_trainer.inspection.facts import TemplateFact

DEMO_MODEL = "nuggets-demo/model"
OWN_TEXT = {
    "plain": "the texts as they are, with a blank line between row and anchor",
    "nuggets": "the paper's code: `Instruction:`, `Input:` and `Response:`",
    "tokens": "the token ids as they are",
}


def template_fact(
    name: str,
    pool: Pool,
    tokenizer: Any,
    config: NuggetsConfig,
    options: RowOptions,
    training_chat_template: str | None,
) -> TemplateFact:
    """Describe the template of a pool.

    Args:
        name: name of the template that is used.
        pool: candidates.
        tokenizer: tokenizer of the model that scores, with the chat template of training.
        config: options of the user; `template` and `scorer_model` are read.
        options: options of training; `chat_template_path` is read.
        training_chat_template: chat template that marks what the assistant says; None without `assistant_only_loss`.
    """
    if name != "chat":
        return TemplateFact(name, _why(name, pool, tokenizer, config), OWN_TEXT[name])
    owner = tokenizer.name_or_path
    if owner == resolve_demo(DEMO_MODEL):
        owner = DEMO_MODEL
    source = f"the chat template of {owner}"
    if options.chat_template_path is not None and config.scorer_model is None:
        source = f"{options.chat_template_path} (`chat_template_path`)"
    if training_chat_template is not None and training_chat_template != tokenizer.chat_template:
        source += ", as TRL changes it for `assistant_only_loss`"
    return TemplateFact(name, _why(name, pool, tokenizer, config), source)


def loss_on(pool: Pool, training_chat_template: str | None) -> str:
    """Return which tokens TRL puts loss on, as a value of `PoolFacts.loss_on`.

    Args:
        pool: candidates.
        training_chat_template: chat template that marks what the assistant says; None without `assistant_only_loss`.
    """
    if training_chat_template is not None:
        return "assistant"
    if pool.format == "tokenized":
        return "labels"
    if pool.format in ("prompt_completion", "alpaca") and pool.completion_only:
        return "completions"
    return "all"


def _why(name: str, pool: Pool, tokenizer: Any, config: NuggetsConfig) -> str:
    if config.template != "auto":
        return "`template` says so"
    if name == "tokens":
        return "the rows are tokenized already"
    kind = "the rows are conversations"
    if pool.format == "alpaca":
        kind = "the rows have Alpaca's columns"
    if name == "chat":
        return f"{kind}, and the tokenizer has a chat template"
    if pool.is_conversational or pool.format == "alpaca":
        return f"{kind}, but the tokenizer has no chat template"
    return "TRL trains on these columns as they are"
