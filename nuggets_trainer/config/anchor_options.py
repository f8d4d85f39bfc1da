"""Which anchors a pool is scored on: given rows, in one or several sets, or rows chosen from the pool."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from nuggets_trainer.config.checks import check_bool, check_choice, check_int
from nuggets_trainer.config.column_mapping import ColumnMapping, read_column_mapping
from nuggets_trainer.config.option_group import OptionGroup
from nuggets_trainer.config.places import RowPlace, is_text, read_places

DEFAULT_NUM_ANCHORS = 100  # as in the paper's k-means setting
AUTO = "auto"  # as many anchors as a reliable ranking needs
ANCHOR_SELECTIONS = ("kmeans", "random")
COMBINATIONS = ("mean", "worst")


@dataclass
class AnchorOptions(OptionGroup):
    """Where the anchors come from, and how several sets of them are combined."""

    title: ClassVar[str] = "anchors"

    anchors: dict[str, Any] | str | None = field(
        default=None,
        metadata={
            "help": "Anchor rows: a hub dataset, a local directory, or a .json, .jsonl, .csv or .parquet file. A "
            "configuration, or another split than `train`, is named as in `load_dataset`: "
            '{"path": "openai/gsm8k", "name": "main", "split": "test"}. Give several sets, one for each task that the '
            'model shall be good at, as a mapping of names to such places: {"math": "math.jsonl", "chat": '
            '"chat.jsonl"}. On the command line a mapping is JSON in quotes. Default: anchors are chosen from the '
            "pool (see `num_anchors`)."
        },
    )
    anchor_columns: list[str] | None | dict[str, Any] | str = field(  # noqa: RUF036 - as `columns`
        default=None,
        metadata={
            "help": "Columns of the anchors, if their names differ from those of the pool; written as for `columns`, "
            "such as `instruction=question output=answer`. If there are several sets, it applies to those that have "
            "these columns. Default: standard names, or those that `columns` maps."
        },
    )
    combine_anchor_sets: str = field(
        default="mean",
        metadata={
            "help": "Golden score of a candidate over several anchor sets: the `mean` of its scores by set, in which "
            "each set counts alike whatever its size, or the score of its `worst` set.",
            "choices": list(COMBINATIONS),
        },
    )
    num_anchors: int | str | None = field(
        default=None,
        metadata={
            "help": "Number of anchors to choose from the pool when `anchors` is not given; default: 100. With "
            "`anchors`, this number is drawn at random from each set; default: all. A golden score of 0.8 has a "
            "standard error of 0.04 with 100 anchors; four times as many anchors halve it. `auto`: as many as give "
            "the ranking a reliability of 0.9, from 25 to 400, estimated from 64 rows on 32 random anchors; given "
            "anchors among the 32 that decide nothing are replaced."
        },
    )
    anchor_selection: str = field(
        default="kmeans",
        metadata={
            "help": "Way to choose anchors from the pool. `kmeans` takes the row nearest to each centroid of the "
            "rows' embeddings (means of the scorer model's last hidden states); `random` takes rows at random.",
            "choices": list(ANCHOR_SELECTIONS),
        },
    )
    anchor_seed: int = field(
        default=42, metadata={"help": "Seed for choosing anchors from the pool, or drawing them from the given ones."}
    )
    exclude_self: bool | None = field(
        default=None,
        metadata={
            "help": "Leave out the pair of a candidate and an anchor that have the same text. Default: true, but "
            "false for the template `nuggets`, as in the reference implementation."
        },
    )

    @property
    def anchor_sets(self) -> dict[str, RowPlace] | None:
        """Places of `anchors` by name, a single set under the empty name; None if they are chosen from the pool.

        Raises:
            ValueError: if they are neither a string nor a mapping.
        """
        if self.anchors is None:
            return None
        sets = read_places(self.anchors)
        if len(sets) > 1:
            return sets
        return dict(zip([""], sets.values(), strict=False))  # a single set needs no name

    @property
    def anchor_mapping(self) -> ColumnMapping | None:
        """The mapping that `anchor_columns` gives; None if it is not set."""
        return read_column_mapping(self.anchor_columns, "anchor_columns")

    def check(self) -> None:
        """Refuse anchors that are not places, and options that do nothing with these anchors."""
        read_column_mapping(self.anchor_columns, "anchor_columns")
        check_choice("combine_anchor_sets", self.combine_anchor_sets, COMBINATIONS)
        check_choice("anchor_selection", self.anchor_selection, ANCHOR_SELECTIONS)
        check_int("anchor_seed", self.anchor_seed, minimum=0)
        check_bool("exclude_self", self.exclude_self, optional=True)
        if isinstance(self.num_anchors, str):
            check_choice("num_anchors", self.num_anchors, (AUTO,))
        elif self.num_anchors is not None:
            check_int("num_anchors", self.num_anchors, minimum=1)
        self._check_anchors()

    def _check_anchors(self) -> None:
        expected = (
            "a non-empty string, a mapping with `path` and, if needed, `name` and `split`, a mapping of names to "
            "either, or unset"
        )
        try:
            sets = self.anchor_sets
        except ValueError as error:
            raise TypeError(f"`anchors` must be {expected}, got {self.anchors!r} ({error}).") from error
        if sets is None:
            return
        if not sets:
            raise TypeError(f"`anchors` must be {expected}, got {self.anchors!r}.")
        check_combination(self.combine_anchor_sets, len(sets))
        if len(sets) > 1:
            if "" in sets:
                raise ValueError(f"Each of several anchor sets needs a name, got {self.anchors!r}.")
            if not all(is_text(name) for name in sets):
                raise TypeError(f"`anchors` must be {expected}, got {self.anchors!r}.")
        check_auto_number(self.num_anchors, len(sets))


def check_auto_number(num_anchors: int | str | None, num_sets: int) -> None:
    """Refuse `auto` for several anchor sets.

    Raises:
        ValueError: if it is `auto` and there are several sets.
    """
    if num_anchors == AUTO and num_sets > 1:
        raise ValueError(
            f"`num_anchors='auto'` needs one anchor set, but there are {num_sets} sets. Give a number, which is drawn "
            "from each set, or leave it out to take all anchors."
        )


def check_combination(combine_anchor_sets: str, num_sets: int) -> None:
    """Refuse a way to combine anchor sets where there is only one.

    Raises:
        ValueError: if it is another way than the default.
    """
    if num_sets == 1 and combine_anchor_sets != "mean":
        raise ValueError(
            f"`combine_anchor_sets={combine_anchor_sets!r}` needs several anchor sets, but only one was given. Give "
            "`anchors` as a mapping of names to rows, or leave `combine_anchor_sets` out."
        )
