"""What an inspection finds out about a pool, as plain values."""

from __future__ import annotations

from dataclasses import dataclass, field

SPAN_KINDS = {
    "context": "text of the template before both: BOS, a system message",
    "candidate": "the prompt of the row",
    "answer": "the completion of the row",
    "anchor": "the prompt of an anchor",
    "scored": "the completion of the anchor, which is scored",
}


@dataclass(frozen=True)
class ColumnFact:
    """One column of the dataset.

    Attributes:
        name: name in the dataset.
        kind: type of its values, as datasets writes it.
        read_as: standard name under which it is read; None if it is not read.
        example: first value that is not empty, cut to 200 characters; "" if there is none.
    """

    name: str
    kind: str
    read_as: str | None
    example: str


@dataclass(frozen=True)
class FormatFact:
    """The format that is read.

    Attributes:
        name: key of `FORMATS`, or `formatting_func`.
        why: reason why this format is read.
        columns_to_give: words of `--columns` that a run needs, because the columns have no known names; the inspection
            goes on as if they had been given. Empty if it needs none.
        roles: number of messages that come from each role, as the dataset writes it, in the rows that were looked at.
        renamed_roles: standard role, by the role that the dataset writes.
        unknown_roles: roles without a standard role.
    """

    name: str
    why: str
    columns_to_give: tuple[str, ...] = ()
    roles: dict[str, int] = field(default_factory=dict)
    renamed_roles: dict[str, str] = field(default_factory=dict)
    unknown_roles: tuple[str, ...] = ()


@dataclass(frozen=True)
class TemplateFact:
    """The template that writes the rows.

    Attributes:
        name: `chat`, `plain`, `nuggets` or `tokens`.
        why: reason why this template is used.
        source: source of the text that it writes around the rows.
    """

    name: str
    why: str
    source: str


@dataclass(frozen=True)
class AnchorsFact:
    """The anchors that the rows are shown before.

    Attributes:
        num_anchors: number of anchors; 0 if they are still to be chosen from the pool.
        stand_in: pool indices of random rows that stand in for anchors that are still to be chosen.
        dropped: number of anchors by the reason why they cannot be scored.
        longest: tokens of the longest anchor.
    """

    num_anchors: int
    stand_in: tuple[int, ...]
    dropped: dict[str, int]
    longest: int


@dataclass(frozen=True)
class DropFact:
    """The rows that are dropped for one reason.

    Attributes:
        reason: name of the reason, as in scores.parquet.
        meaning: description of the fault.
        num_rows: number of rows among those that were looked at.
        examples: pool indices of the first ones.
    """

    reason: str
    meaning: str
    num_rows: int
    examples: tuple[int, ...]


@dataclass(frozen=True)
class Repeats:
    """Rows that repeat another row of the pool.

    Attributes:
        num_rows: number of rows that repeat an earlier one.
        num_groups: number of different rows that occur more than once.
        examples: pool indices of the first groups, the first few of each.
    """

    num_rows: int
    num_groups: int
    examples: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class LengthFact:
    """How long the rows are, or a part of each.

    Attributes:
        of: part that is measured: `row`, `prompt`, `completion` or `anchor`.
        num_rows: number of rows that were measured.
        shortest: length of the shortest.
        median: median of the lengths.
        percentile_95: length that 95% of the rows do not exceed.
        longest: length of the longest.
        total: sum of the lengths.
    """

    of: str
    num_rows: int
    shortest: int
    median: int
    percentile_95: int
    longest: int
    total: int


@dataclass(frozen=True)
class Span:
    """A run of tokens of one kind, as text.

    Attributes:
        kind: key of `SPAN_KINDS`.
        text: text of the tokens.
        num_tokens: number of tokens; number of characters without a tokenizer.
    """

    kind: str
    text: str
    num_tokens: int


@dataclass(frozen=True)
class RowView:
    """One row as the model sees it.

    Attributes:
        index: pool index.
        anchor: position of the anchor behind it; None without an anchor.
        spans: the whole one-shot prompt, in order; without an anchor the row alone.
        dropped: reason why the row is dropped; None if it is scored.
        record: columns of a row that is dropped, as JSON; "" for others.
        remarks: differences between the rendering and the content of the row.
        token_ids: token ids of the row alone, as the template writes it; empty without a tokenizer. Training has the
            same, except for the template `nuggets`, which writes no EOS, and for rows with the remark `merged_seam`.
        scored: positions in `token_ids` of the tokens that are scored where the row is an anchor.
        trained_on: positions in `token_ids` of the tokens that training puts loss on. The first token has no context,
            and so no loss.
    """

    index: int
    anchor: int | None
    spans: tuple[Span, ...]
    dropped: str | None = None
    record: str = ""
    remarks: tuple[str, ...] = ()
    token_ids: tuple[int, ...] = ()
    scored: tuple[int, ...] = ()
    trained_on: tuple[int, ...] = ()


@dataclass(frozen=True, repr=False)
class PoolFacts:
    """All that an inspection has found. After a problem, the attributes that it prevents keep their defaults.

    Attributes:
        name: name of the pool.
        num_rows: number of rows.
        columns: columns of the dataset.
        problem: error with which scoring this pool would fail; None if it would begin.
        format: the format that is read; None if there is none.
        template: the template; None without a tokenizer.
        loss_on: tokens that training puts loss on: `completions`, `assistant` (messages of the assistant), `all` (all
            tokens of a row) or `labels` (labels or masks of the rows); None without a tokenizer.
        anchors: the anchors; None without a tokenizer.
        rows: the rows that are shown.
        dropped: rows that are dropped, by reason, most frequent first.
        num_rendered: number of rows that were rendered, to find reasons and lengths: all rows, or random ones of a
            large pool. 0 without a tokenizer.
        not_anchors: number of rendered rows that could be no anchor, by reason.
        remarks: number of rendered rows by remark on their rendering.
        duplicates: rows that repeat others, by kind: `exact` (equal content), `near` (near-duplicates) or `prompt`
            (the same prompt, whatever the completion).
        same_as_anchor: number of rows with the text of an anchor; they are not scored on it.
        lengths: lengths of rows and anchors.
        length_unit: `tokens`, or `characters` without a tokenizer.
        context: tokens that the model reads at once; None if it is not known or has no limit.
        num_cut_in_training: number of rendered rows that are longer than SFTConfig's default `max_length`.
    """

    name: str
    num_rows: int
    columns: tuple[ColumnFact, ...]
    problem: str | None = None
    format: FormatFact | None = None
    template: TemplateFact | None = None
    loss_on: str | None = None
    anchors: AnchorsFact | None = None
    rows: tuple[RowView, ...] = ()
    dropped: tuple[DropFact, ...] = ()
    num_rendered: int = 0
    not_anchors: dict[str, int] = field(default_factory=dict)
    remarks: dict[str, int] = field(default_factory=dict)
    duplicates: dict[str, Repeats] = field(default_factory=dict)
    same_as_anchor: int = 0
    lengths: tuple[LengthFact, ...] = ()
    length_unit: str = "tokens"
    context: int | None = None
    num_cut_in_training: int = 0
