"""The lines of an inspection, for text and HTML alike."""

from __future__ import annotations

from nuggets_trainer.inspection.facts import AnchorsFact, LengthFact, PoolFacts, Repeats, RowView
from nuggets_trainer.inspection.render import MAX_LENGTH_OF_TRL
from nuggets_trainer.wording import counted, tally

REMARKS = {
    "reasoning_left_out": "the template leaves out reasoning, in training too",
    "system_left_out": "the template leaves out a system message, in training too",
    "as_trained": "shown with its reasoning, as training shows it",
    "parts_joined": "contents of messages are lists of text parts, which are read as one text",
    "merged_seam": "training gets other tokens where prompt and completion meet: end the prompt with a line break",
    "own_start": "the completion starts where the template shows it, later than TRL finds",
}
LOSS = {
    "completions": "loss on the completions alone",
    "assistant": "loss on what the assistant says (`assistant_only_loss`)",
    "all": "loss on all tokens of a row; an anchor is scored on its completion",
    "labels": "loss on the tokens that the rows' own labels or masks name",
}
LENGTH_NAMES = {"row": "rows", "prompt": "prompts", "completion": "completions", "anchor": "anchors"}


def summary(facts: PoolFacts) -> list[tuple[str, list[str]]]:
    """Return label and lines of each part of the summary, without columns and lengths."""
    lines: list[tuple[str, list[str]]] = []
    if facts.format is not None:
        lines.append(("format", _format_lines(facts)))
    if facts.template is not None:
        template = facts.template
        lines.append(("template", [f"{template.name}: {template.why}", f"source: {template.source}"]))
    if facts.loss_on is not None:
        lines.append(("training", [LOSS[facts.loss_on]]))
    if facts.anchors is not None:
        lines.append(("anchors", _anchor_lines(facts.anchors, facts.same_as_anchor)))
    if facts.format is not None:
        lines.append(("dropped", _drop_lines(facts)))
        lines.append(("repeated", _repeat_lines(facts)))
    if facts.remarks or facts.not_anchors:
        lines.append(("remarks", _remark_lines(facts)))
    if facts.problem is not None:
        lines.append(("problem", [facts.problem]))
    return lines


def length_lines(facts: PoolFacts) -> list[str]:
    """Return lines that say what the lengths mean for scoring and training."""
    lines = []
    if facts.context is not None:
        lines.append(f"The model reads {facts.context:,} tokens at once: a row and the longest anchor must fit.")
    if facts.num_cut_in_training:
        lines.append(
            f"{counted(facts.num_cut_in_training, 'row is', 'rows are')} longer than {MAX_LENGTH_OF_TRL:,} tokens, "
            "where training cuts them by default (`max_length`, SFTConfig)."
        )
    if 0 < facts.num_rendered < facts.num_rows:
        lines.append(f"The lengths are those of {facts.num_rendered:,} random rows.")
    return lines


def length_cells(fact: LengthFact) -> list[str]:
    """Return one line of the length table."""
    numbers = (fact.num_rows, fact.shortest, fact.median, fact.percentile_95, fact.longest, fact.total)
    return [LENGTH_NAMES[fact.of], *(f"{number:,}" for number in numbers)]


def row_heading(view: RowView, unit: str) -> str:
    """Return a heading with the number of the row, its length, and the number of scored tokens."""
    counts = {"candidate": 0, "answer": 0, "scored": 0}
    for span in view.spans:
        counts[span.kind] = counts.get(span.kind, 0) + span.num_tokens
    unit = unit.removesuffix("s")
    heading = f"row {view.index}"
    if view.dropped is not None:
        return f"{heading}: dropped ({view.dropped})"
    heading += f": prompt {counts['candidate']:,}, completion {counts['answer']:,} {unit}s"
    if view.anchor is not None:
        heading += f"; before anchor {view.anchor}, {counted(counts['scored'], unit)} scored"
    return heading


def _format_lines(facts: PoolFacts) -> list[str]:
    assert facts.format is not None
    lines = [f"{facts.format.name}: {facts.format.why}"]
    if facts.format.roles:
        lines.append(f"roles: {tally(facts.format.roles)}")
    renamed = []
    for role, standard in facts.format.renamed_roles.items():
        renamed.append(f"{role} as {standard}")
    if renamed:
        lines.append(f"read as others: {', '.join(renamed)}")
    if facts.format.unknown_roles:
        unknown = ", ".join(facts.format.unknown_roles)
        lines.append(
            f"no standard roles: {unknown}. If the chat template does not know them, map them: `--columns "
            "role.user=... role.assistant=...`"
        )
    return lines


def _anchor_lines(anchors: AnchorsFact, same_as_anchor: int) -> list[str]:
    if anchors.stand_in:
        return [
            "none were given: a run would choose them from the pool; here "
            f"{counted(len(anchors.stand_in), 'random row takes', 'random rows take')} their place"
        ]
    lines = [f"{anchors.num_anchors:,}, the longest has {anchors.longest:,} tokens"]
    if anchors.dropped:
        lines.append(f"not scored: {tally(anchors.dropped)}")
    if same_as_anchor:
        rows = counted(same_as_anchor, "row has", "rows have")
        lines.append(f"{rows} the text of an anchor and will not be scored on that anchor (`exclude_self`)")
    return lines


def _drop_lines(facts: PoolFacts) -> list[str]:
    if not facts.dropped:
        if facts.num_rendered:
            return [f"none of {counted(facts.num_rendered, 'rendered row')}"]
        return [f"none of {counted(facts.num_rows, 'row')}"]
    lines = []
    for fact in facts.dropped:
        named = ", ".join(map(str, fact.examples))
        more = ", ..." if fact.num_rows > len(fact.examples) else ""
        lines.append(f"{fact.num_rows:,} {fact.reason}: {fact.meaning} (row {named}{more})")
    return lines


def _repeat_lines(facts: PoolFacts) -> list[str]:
    lines = []
    for kind, repeats in facts.duplicates.items():
        if kind == "prompt":
            lines.append(_prompt_line(repeats))
            continue
        nearly = "nearly " if kind == "near" else ""
        if not repeats.num_rows:
            lines.append(f"no row {nearly}equals another one ({kind})")
            continue
        of = counted(repeats.num_groups, "different row")
        equal = counted(repeats.num_rows, f"row {nearly}equals", f"rows {nearly}equal")
        lines.append(f"{equal} an earlier one ({kind}; {of}): {_groups(repeats)}")
    return lines


def _prompt_line(repeats: Repeats) -> str:
    prompts = counted(repeats.num_groups, "prompt has", "prompts have")
    num_rows = repeats.num_rows + repeats.num_groups
    remedy = "`max_rows_per_prompt: 1` keeps the best row of each"
    return f"{prompts} several rows, {num_rows:,} in all: {_groups(repeats)} ({remedy})"


def _groups(repeats: Repeats) -> str:
    """Name the rows of the first groups."""
    groups = []
    for group in repeats.examples:
        groups.append(" = ".join(map(str, group)))
    if repeats.num_groups > len(repeats.examples):
        groups.append("...")
    return "; ".join(groups)


def _remark_lines(facts: PoolFacts) -> list[str]:
    lines = []
    for remark, count in facts.remarks.items():
        lines.append(f"{counted(count, 'row')}: {REMARKS[remark]}")
    for reason, count in facts.not_anchors.items():
        lines.append(f"{counted(count, 'row')} cannot be an anchor ({reason})")
    return lines
