"""`SelectedSFTTrainer`: TRL's SFTTrainer that first chooses the rows it trains on.

The stages, in order: the pool waits, not tokenized, until `train()` is called. The base model scores it. TRL prepares
(tokenizes, truncates, packs) the golden set alone. Training goes on as in `SFTTrainer`. Training with selection is
therefore, bit for bit, `SFTTrainer` on `pool.select(golden_set)`.
"""

from __future__ import annotations

import functools
import inspect
from typing import TYPE_CHECKING, Any

from datasets import Dataset
from transformers import AutoTokenizer
from trl import SFTTrainer

from nuggets_trainer.data.columns import map_each
from nuggets_trainer.data.formats import detect_format
from nuggets_trainer.data.pool import Pool
from nuggets_trainer.engine.loading import hub_options
from nuggets_trainer.pipeline.rows import read_anchors, read_pool
from nuggets_trainer.prompts.templates import resolve_alpaca_template
from nuggets_trainer.prompts.trl_columns import first_row_in_trl_columns, in_trl_columns, without_preferences
from nuggets_trainer.report.card_fields import TAGS
from nuggets_trainer.report.cards import PAPER
from nuggets_trainer.training.callback import NuggetsDataCallback
from nuggets_trainer.training.preserved import hidden_bars
from nuggets_trainer.training.rows import row_options, text_tokenizer, trains_with_chat_template
from nuggets_trainer.training.trainer_checks import check_trainer_arguments

if TYPE_CHECKING:
    from transformers import TrainOutput

    from nuggets_trainer.config.nuggets_config import NuggetsConfig
    from nuggets_trainer.golden.selection import GoldenSet
    from nuggets_trainer.pipeline.rows import AnchorDataset
    from nuggets_trainer.store.results import PoolScores

FEW_ROWS = 5000  # rows that TRL prepares within seconds: it tokenizes some 1,500 a second on one core


class SelectedSFTTrainer(SFTTrainer):  # type: ignore[misc]  # trl has no types
    """`trl.SFTTrainer` that scores its `train_dataset` with the base model and trains on the golden set.

    It takes every argument of `SFTTrainer`, in the same position. Without `nuggets_config` it is `SFTTrainer`, bit for
    bit.

    Args:
        anchor_dataset: anchors, a `Dataset` in any format that the pool may have, or a dict of several anchor sets by
            name. Default: `nuggets_config.anchors`, or else anchors that are chosen from the pool.
        nuggets_config: config that says how to score and what to keep; None trains on all rows.

    Raises:
        TypeError, ValueError: if selection cannot work with the pool, the anchors or the options. Nothing is scored
            before these checks.

    Example:
        ```python
        trainer = SelectedSFTTrainer(
            model="Qwen/Qwen3-0.6B",
            args=SFTConfig(output_dir="out"),
            train_dataset=pool,
            nuggets_config=NuggetsConfig(top_fraction=0.1),
            peft_config=LoraConfig(),
        )
        trainer.train()
        trainer.golden_set.indices
        ```
    """

    _tag_names = [*SFTTrainer._tag_names, *TAGS]  # noqa: RUF012 - as in TRL's trainers
    _name = "Nuggets"
    _paper = PAPER

    def __init__(
        self,
        *args: Any,
        anchor_dataset: AnchorDataset | None = None,
        nuggets_config: NuggetsConfig | None = None,
        **kwargs: Any,
    ) -> None:
        self.nuggets_config = nuggets_config
        self._nuggets = NuggetsDataCallback(nuggets_config)
        self._deferred: tuple[Any, ...] | None = None
        if nuggets_config is None:
            self._tag_names, self._name, self._paper = SFTTrainer._tag_names, SFTTrainer._name, SFTTrainer._paper
            if anchor_dataset is not None:
                raise ValueError(
                    "`anchor_dataset` is given without `nuggets_config`. Pass a `nuggets_config` to select rows, or "
                    "leave `anchor_dataset` out."
                )
            super().__init__(*args, **kwargs)
            return
        arguments = inspect.signature(SFTTrainer.__init__).bind(self, *args, **kwargs).arguments
        arguments.pop("self")
        pool = _pool(arguments, nuggets_config)
        arguments["eval_dataset"] = map_each(
            arguments.get("eval_dataset"), nuggets_config.column_mapping, "eval_dataset"
        )
        anchors = read_anchors(anchor_dataset, nuggets_config, pool, "anchor_dataset")
        check_trainer_arguments(arguments)
        arguments["train_dataset"] = without_preferences(pool.dataset)
        self._formats_itself, self._text_field = pool.formatting_func is not None, pool.text_field
        if pool.format == "alpaca":
            with hidden_bars():
                arguments["train_dataset"] = first_row_in_trl_columns(
                    pool, nuggets_config.template, _has_chat_template(arguments)
                )
        super().__init__(**arguments)
        self.train_dataset = pool.dataset
        self._nuggets.take_over(self, pool, anchors, functools.partial(self._prepare_rows, packing=None))
        self._try_one_row(pool)

    @property
    def golden_set(self) -> GoldenSet | None:
        """The `GoldenSet` in force; None before `train()` or `select()` has chosen it."""
        return self._nuggets.golden_set

    @property
    def scores(self) -> PoolScores | None:
        """The `PoolScores` that the golden set was chosen by; None before that, and after resuming."""
        return self._nuggets.scores

    def _prepare_dataset(self, dataset: Any, processing_class: Any, *args: Any, **kwargs: Any) -> Any:
        if self.nuggets_config is None:
            return super()._prepare_dataset(dataset, processing_class, *args, **kwargs)
        # TRL prepares the training set first, then each evaluation set. The first call is for the pool, which waits.
        if self._deferred is None:
            self._deferred = (processing_class, *args), kwargs
            return dataset
        with hidden_bars(_is_prepared_at_once(dataset)):
            if not self._formats_itself:
                dataset = self._in_trl_columns(dataset, processing_class)
            return super()._prepare_dataset(dataset, processing_class, *args, **kwargs)

    def _in_trl_columns(self, dataset: Any, processing_class: Any) -> Any:
        assert self.nuggets_config is not None
        tokenizer = text_tokenizer(processing_class)
        template = resolve_alpaca_template(self.nuggets_config.template, bool(tokenizer.chat_template))
        if dataset.column_names is not None:  # a stream may not know them
            detect_format(dataset.column_names, "eval_dataset", self._text_field)
        marked = getattr(self, "chat_template", None)  # TRL 1.0 has no such attribute
        return in_trl_columns(dataset, template, self._text_field, tokenizer, marked)

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> TrainOutput:
        """Select, then train as `SFTTrainer.train` does.

        Args:
            resume_from_checkpoint: directory of a checkpoint, or True, as in `Trainer.train`. Training goes on with
                the golden set that is saved in the checkpoint.
            args: other positional arguments of `Trainer.train`.
            kwargs: other keyword arguments of `Trainer.train`.
        """
        if self.nuggets_config is not None:
            resume_from_checkpoint = self._nuggets.selection.prepare_training(resume_from_checkpoint)
        return super().train(resume_from_checkpoint, *args, **kwargs)

    def get_train_dataloader(self) -> Any:
        """Return the loader over the golden set; without `nuggets_config`, over all rows."""
        if self.nuggets_config is None:
            return super().get_train_dataloader()
        return self._nuggets.selection.golden_loader(super().get_train_dataloader)

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Write the model card as `SFTTrainer` does, and add a section on how the training data was chosen.

        Args:
            args: positional arguments of `SFTTrainer.create_model_card`.
            kwargs: keyword arguments of `SFTTrainer.create_model_card`.
        """
        super().create_model_card(*args, **kwargs)
        if self.nuggets_config is not None:
            self._nuggets.complete_model_card()

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save the model as `SFTTrainer` does, with a model card beside it.

        Args:
            output_dir: directory of the model; None for the `output_dir` of training.
        """
        if self.nuggets_config is None:
            super().save_model(output_dir, _internal_call)
            return
        with self._nuggets.card_beside_model(output_dir):
            super().save_model(output_dir, _internal_call)

    def select(self, resume_from_checkpoint: str | bool | None = None) -> GoldenSet:
        """Choose the golden set and make it the training set. The first call scores; later calls return the same.

        Args:
            resume_from_checkpoint: directory of a checkpoint whose golden set is used, so that nothing is scored; True
                for the newest checkpoint in `output_dir`.

        Raises:
            FileNotFoundError: if no golden set was saved with the checkpoint.
            ValueError: if nothing can be scored, or if the checkpoint's golden set was chosen under other settings, or
                without `nuggets_config`.
        """
        if self.nuggets_config is None:
            raise ValueError("`select` needs a config. Build the SelectedSFTTrainer with a `nuggets_config`.")
        if resume_from_checkpoint:
            self._nuggets.selection.choose_or_read(resume_from_checkpoint)
        return self._nuggets.select()

    def _try_one_row(self, pool: Pool) -> None:
        """Prepare one row as TRL will prepare the golden set, to raise now what would stop TRL after hours of scoring.

        Rows are not packed here: one row may not fill a packed one.
        """
        usable = pool.usable_indices()
        if usable:
            with hidden_bars():  # their count of 1 would look like the size of the pool
                self._prepare_rows(pool.dataset.select(usable[:1]), packing=False)

    def _prepare_rows(self, rows: Dataset, packing: bool | None) -> Dataset:
        """Prepare rows of the pool as TRL would have prepared them in the pool.

        Args:
            rows: rows of the pool.
            packing: whether rows are packed; None leaves this to TRL's arguments.
        """
        if self._deferred is None:  # `skip_prepare_dataset`: the user's own collator reads the rows as they are
            return rows
        args, kwargs = self._deferred
        bound = inspect.signature(super()._prepare_dataset).bind(rows, *args, **kwargs)
        if packing is not None:
            bound.arguments["packing"] = packing
        return self._prepare_dataset(*bound.args, **bound.kwargs)


def full_signature(base: type) -> inspect.Signature:
    """Join the arguments of a trainer and the two of selection.

    Args:
        base: TRL's `SFTTrainer`, or the class that another library has put in its place.
    """
    taken = inspect.signature(base.__init__)  # type: ignore[misc]
    own = inspect.signature(SelectedSFTTrainer.__init__).parameters
    joined = [*taken.parameters.values(), own["anchor_dataset"], own["nuggets_config"]]
    joined.sort(key=lambda parameter: parameter.kind)  # `**kwargs` stay the last, if the base has them
    return taken.replace(parameters=joined, return_annotation=None)


# Programs that look at a trainer's arguments, such as `processing_class`, would find `*args` and `**kwargs` alone.
SelectedSFTTrainer.__init__.__signature__ = full_signature(SFTTrainer)  # type: ignore[attr-defined]


def _is_prepared_at_once(dataset: Any) -> bool:
    """Whether TRL prepares a dataset within seconds, so that its five or six bars are noise."""
    return isinstance(dataset, Dataset) and len(dataset) <= FEW_ROWS


def _pool(arguments: dict[str, Any], config: NuggetsConfig) -> Pool:
    """Read `train_dataset` as a pool. A stream is read into memory up to `pool_size`."""
    options = row_options(arguments.get("args"))
    dataset, formatting_func = arguments.get("train_dataset"), arguments.get("formatting_func")
    if isinstance(dataset, Pool):
        raise TypeError(
            "`train_dataset` must be a datasets.Dataset, got a Pool. TRL reads these rows as well, so pass "
            "`pool.dataset`, and give its options to SFTConfig (`dataset_text_field`, `completion_only_loss`), to the "
            "trainer (`formatting_func`) and to `nuggets_config` (`response_field`)."
        )
    return read_pool(dataset, config, options, formatting_func, "train_dataset")


def _has_chat_template(arguments: dict[str, Any]) -> bool:
    """Whether TRL will render with a chat template, before TRL has loaded the tokenizer."""
    args, tokenizer = arguments.get("args"), arguments.get("processing_class")
    if tokenizer is None:
        model = arguments["model"]
        name = model if isinstance(model, str) else model.config._name_or_path
        tokenizer = AutoTokenizer.from_pretrained(name, **hub_options(args))
    return trains_with_chat_template(tokenizer.chat_template, args)
