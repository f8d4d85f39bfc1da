"""Rows and tokenizer as training has them: dataset, options -> pool, anchors, tokenizer.

The trainer, the command line and the recipes all read their rows here, so that they score the same tokens.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from nuggets_trainer.config.anchor_options import check_auto_number
from nuggets_trainer.config.nuggets_config import NuggetsConfig
from nuggets_trainer.config.row_options import RowOptions
from nuggets_trainer.data.anchors import anchors_like
from nuggets_trainer.data.columns import map_columns
from nuggets_trainer.data.dataset import take_pool
from nuggets_trainer.data.loading import load_rows
from nuggets_trainer.data.pool import Pool
from nuggets_trainer.wording import tally

if TYPE_CHECKING:
    from datasets import Dataset

    from nuggets_trainer.scoring.session import AnchorPools

PoolDataset: TypeAlias = "Dataset | Pool"
AnchorDataset: TypeAlias = "PoolDataset | Mapping[str, PoolDataset]"  # the anchors, or several sets by name

JINJA_FILES = (".jinja", ".j2")


def read_pool(
    dataset: PoolDataset,
    config: NuggetsConfig,
    options: RowOptions | None = None,
    formatting_func: Callable[[dict[str, Any]], str] | None = None,
    name: str = "dataset",
) -> Pool:
    """Read a dataset as a pool; a `Pool` is returned as it is.

    Args:
        dataset: rows in any format (a stream with `pool_size`), or a `Pool`.
        config: options of the user; `pool_size`, `columns` and `response_field` are read.
        options: options of training that decide how a row is read.
        formatting_func: function that writes a row as the text that training sees.
        name: name of the dataset in errors.

    Raises:
        TypeError, ValueError: as `Pool`; and where a `Pool` was made with other options than those given here.
    """
    if isinstance(dataset, Pool):
        return _checked(dataset, config, options, formatting_func)
    options = options or RowOptions()
    mapping = config.column_mapping
    if mapping is not None and formatting_func is not None:
        raise ValueError(
            "`columns` cannot be used with `formatting_func`, which reads the columns by their own names. Keep one."
        )
    if mapping is not None and mapping.format == "text" and options.dataset_text_field != "text":
        raise ValueError(
            f"`columns` maps to `text`, but `dataset_text_field={options.dataset_text_field!r}` (SFTConfig) names "
            "another column that is trained on. Keep one of the two."
        )
    return Pool(
        map_columns(take_pool(dataset, config.pool_size, name), mapping, name),
        name,
        formatting_func,
        config.response_field,
        text_field=options.dataset_text_field,
        completion_only_loss=options.completion_only_loss,
    )


def _checked(pool: Pool, config: NuggetsConfig, options: RowOptions | None, formatting_func: Any) -> Pool:
    """Return a pool, unless it was made with other options than those given: it cannot be read anew."""
    wrong = []
    if formatting_func is not None and formatting_func is not pool.formatting_func:
        wrong.append("formatting_func")
    if config.response_field is not None and config.response_field != pool.response_field:
        wrong.append("response_field")
    mapping = config.column_mapping
    if mapping is not None and mapping.renames_any_of(pool.dataset.column_names):
        wrong.append("columns")
    if config.pool_size is not None and len(pool) > config.pool_size:
        wrong.append("pool_size")
    if options is not None and options.dataset_text_field != pool.text_field:
        wrong.append("dataset_text_field")
    if options is not None and options.completion_only_loss not in (None, pool.completion_only):
        wrong.append("completion_only_loss")
    if wrong:
        raise ValueError(
            f"{' and '.join(f'`{name}`' for name in wrong)} must be given when a `Pool` is made, but this `Pool` was "
            "made otherwise. Pass the dataset itself, or make the `Pool` with these options."
        )
    return pool


def read_anchors(
    anchors: AnchorDataset | None, config: NuggetsConfig, pool: Pool, argument: str = "anchors"
) -> AnchorPools | None:
    """Read the anchors by the name of their set; None if they are to be chosen from the pool.

    Args:
        anchors: anchors in any format that the pool may have, or several sets by name; None takes those of the config.
        config: options of the user; `anchors` names rows to load.
        pool: pool whose format and options decide how anchors are read that fit several formats.
        argument: name of `anchors` in errors.

    Raises:
        ValueError: if anchors are given twice, or in no known format.
    """
    if anchors is None:
        return _named_anchors(config, pool)
    if config.anchors is not None:
        raise ValueError(
            f"`{argument}` and the config's `anchors={config.anchors!r}` both say what the anchors are. Keep one."
        )
    # A `DatasetDict` is one dataset whose split was forgotten; `anchors_like` says so.
    from datasets import DatasetDict

    if not isinstance(anchors, Mapping) or isinstance(anchors, DatasetDict):
        return _anchor_pools({"": anchors}, pool, config)
    if not anchors:
        raise ValueError(f"`{argument}` is an empty mapping. Give at least one set, or leave it out.")
    return _anchor_pools(anchors, pool, config)


def _named_anchors(config: NuggetsConfig, pool: Pool) -> AnchorPools | None:
    sets = config.anchor_sets
    if sets is None:
        if config.anchor_columns is not None:
            raise ValueError(
                "`anchor_columns` names columns of given anchors, but anchors are chosen from the pool, whose columns "
                "`columns` names. Give `anchors`, or drop it."
            )
        return None
    loaded = {}
    for set_name, place in sets.items():
        loaded[set_name] = load_rows(place.path, place.name, place.split, option="--anchors")
    return _anchor_pools(loaded, pool, config)


def _anchor_pools(sets: Mapping[str, Any], pool: Pool, config: NuggetsConfig) -> AnchorPools:
    """Read each set of anchors; several are mapped by `anchor_columns` if they have these columns."""
    check_auto_number(config.num_anchors, len(sets))
    pools, is_only = {}, len(sets) == 1
    for name, rows in sets.items():
        if isinstance(rows, Pool):
            if config.anchor_columns is not None:
                raise ValueError(
                    "`anchor_columns` must be given when a `Pool` is made. Pass the dataset of the anchors."
                )
            pools[name] = rows
            continue
        own = map_columns(rows, config.anchor_mapping, "anchors", is_pool=is_only, option="anchor_columns")
        if own is rows:  # they have no such columns
            own = map_columns(rows, config.column_mapping, "anchors", is_pool=False)
        pools[name] = anchors_like(own, pool)
    return pools


def scorer_tokenizer(tokenizer: Any, config: NuggetsConfig, options: RowOptions | None) -> Any:
    """Give the tokenizer of the scorer model the EOS token and the chat template that training gives it.

    A `scorer_model` keeps its own, because training does not touch its tokenizer.

    Args:
        tokenizer: tokenizer as it was loaded; it is copied and not changed.
        config: options of the user; `scorer_model` is read.
        options: options of training that decide which tokens a row has.

    Raises:
        ValueError: if the vocabulary lacks the EOS token, or if `chat_template_path` names another tokenizer.
        FileNotFoundError: if there is no file with the chat template.
    """
    if options is None or config.scorer_model is not None:
        return tokenizer
    eos_token, chat_template = tokenizer.eos_token, tokenizer.chat_template
    if options.eos_token is not None:
        eos_token = options.eos_token
        if eos_token not in tokenizer.get_vocab():
            raise ValueError(f"`eos_token` must be a token of the tokenizer's vocabulary, got {eos_token!r}.")
    if options.chat_template_path is not None:
        chat_template = _read_chat_template(options.chat_template_path)
    if (eos_token, chat_template) == (tokenizer.eos_token, tokenizer.chat_template):
        return tokenizer
    changed = copy.deepcopy(tokenizer)
    changed.eos_token, changed.chat_template = eos_token, chat_template
    return changed


def check_selectable(config: NuggetsConfig, num_rows: int, dropped: Mapping[int, str], hint: str = "") -> None:
    """Refuse a selection rule that the usable rows cannot meet, before time is spent on scores.

    Args:
        config: options of the user; the selection rule is read.
        num_rows: number of rows of the pool.
        dropped: reason of each row that cannot be scored, by pool index.
        hint: what to do about it, for the error.

    Raises:
        ValueError: if no row is usable, or fewer than `top_k`.
    """
    usable = num_rows - len(dropped)
    reasons = tally(Counter(dropped.values()))
    if usable == 0:
        raise ValueError(f"No row of the pool can be scored: all {num_rows:,} were dropped ({reasons}).{hint}")
    rule, value = config.selection_rule
    if rule == "top_k" and value > usable:
        raise ValueError(
            f"`top_k={value}` is larger than the usable pool: {usable:,} of {num_rows:,} rows can be scored"
            + (f" (dropped: {reasons})" if dropped else "")
            + f". Lower `top_k` or use `top_fraction`.{hint}"
        )


def _read_chat_template(path: str) -> str:
    if not path.endswith(JINJA_FILES):
        raise ValueError(
            f"`chat_template_path` must be a file that ends in {' or '.join(JINJA_FILES)} where a pool is scored "
            f"outside of the trainer, got {path!r}. TRL copies the template of another tokenizer together with its "
            "tokens, which get random embeddings: nobody else can score with these. Save the template as a file, or "
            "let the training job score."
        )
    if not Path(path).is_file():
        raise FileNotFoundError(f"`chat_template_path`: there is no file {path!r}. Expected a Jinja chat template.")
    return Path(path).read_text(encoding="utf-8")
