r"""What makes a model a good scorer: base against tuned, dtype, size. Tunes a base model, and compares scorers.

```bash
python recipes/study/which_scorer.py tune --model_name_or_path BASE --dataset_name instructions.jsonl \
    --output_dir tuned
nuggets score --model_name_or_path BASE --dataset_name rows.jsonl --anchors anchors.jsonl --template plain \
    --schedule exact --score_dir base_scores
nuggets score --model_name_or_path tuned --dataset_name rows.jsonl --anchors anchors.jsonl --template plain \
    --schedule exact --score_dir tuned_scores
python recipes/study/which_scorer.py compare --score_dirs base=base_scores tuned=tuned_scores \
    --dataset_name rows.jsonl --group_by instruction --value_column quality
python recipes/study/which_scorer.py compare --score_dirs base=base_scores tuned=tuned_scores \
    --dataset_name rows.jsonl --kind_column kind --good clean
```

`tune` trains a LoRA adapter on rows with Alpaca columns, one epoch with loss on completions, in the format of the
template `plain`, and merges it. So the two models have the same size, and read the same tokens.

`compare` prints, for golden score and standardised gain, what each scorer gets right and its paired difference to the
first scorer, with 95% intervals:

- with `--group_by` and `--value_column`, the share of pairs of rows of one group that are in the order of the column;
  intervals over groups
- with `--kind_column`, the share of pairs of a good row and any other row that are ranked right (AUC); intervals over
  rows

Rows where the column is empty are left out. Both are given at equal length too: a straight line through the ranks of
the lengths is subtracted. The last line has the share of pairs of a row and an anchor that are won or lost as under
the first scorer. If a scorer has scored fewer rows, only the first rows of the others count.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import random
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from peft import LoraConfig, get_peft_model
from scipy import stats
from transformers import AutoModelForCausalLM, AutoTokenizer

from nuggets_trainer import Pool, load_rows
from nuggets_trainer.analysis.association import without_length
from nuggets_trainer.analysis.compared_rankings import ComparedRanking, auc_of_rankings, share_of_pairs
from nuggets_trainer.analysis.follows import completion_characters
from nuggets_trainer.golden.scores import golden_scores
from nuggets_trainer.prompts.plain import PlainTemplate
from nuggets_trainer.prompts.segment import Segment
from nuggets_trainer.store.read_results import read_log_probs

Floats = npt.NDArray[np.floating]
NAMES = ("golden_score", "gain")
NOT_SCORED = -100  # label of a token without loss
SORTED_TOGETHER = 8  # batches whose rows are sorted by length, so that little is padded


def tune(options: argparse.Namespace) -> None:
    """Tune a base model on instructions, and save it with the adapter merged into its weights."""
    torch.manual_seed(options.seed)
    tokenizer = AutoTokenizer.from_pretrained(options.model_name_or_path)
    segments = training_segments(options, tokenizer)
    batches = in_batches(segments, options.batch_size, random.Random(options.seed))
    model = AutoModelForCausalLM.from_pretrained(options.model_name_or_path, dtype=getattr(torch, options.dtype))
    rank = options.lora_r
    lora = LoraConfig(r=rank, lora_alpha=rank, target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(model, lora)
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=options.learning_rate, weight_decay=0)
    warm_up, started = 4, time.process_time()
    for step, batch in enumerate(batches):
        share = min(1.0, (step + 1) / warm_up) * (1 - step / len(batches))
        for group in optimizer.param_groups:
            group["lr"] = options.learning_rate * share
        loss = completion_loss(model.base_model.model, [segments[i] for i in batch])
        loss.backward()  # type: ignore[no-untyped-call]  # torch declares no types for it
        optimizer.step()
        optimizer.zero_grad()
        seconds = time.process_time() - started
        print(f"step {step + 1} of {len(batches)}: loss {loss.item():.2f}, {seconds:.0f} CPU s", file=sys.stderr)
    merged = model.merge_and_unload()
    merged.save_pretrained(options.output_dir)
    tokenizer.save_pretrained(options.output_dir)


def training_segments(options: argparse.Namespace, tokenizer: Any) -> list[Segment]:
    """Render the first rows that are short enough."""
    pool, template = Pool(load_rows(options.dataset_name)), PlainTemplate(tokenizer)
    segments = [template.zero_shot(pool[i]) for i in range(len(pool))]
    short = [segment for segment in segments if len(segment.ids) <= options.most_tokens]
    return short[: options.num_rows]


def in_batches(segments: list[Segment], batch_size: int, generator: random.Random) -> list[list[int]]:
    """Return the numbers of the segments of each batch, in random order, with rows of like length together."""
    order = list(range(len(segments)))
    generator.shuffle(order)
    batches = []
    for start in range(0, len(order), SORTED_TOGETHER * batch_size):
        some = order[start : start + SORTED_TOGETHER * batch_size]
        some.sort(key=lambda i: len(segments[i].ids))
        batches += [some[first : first + batch_size] for first in range(0, len(some), batch_size)]
    generator.shuffle(batches)
    return batches


def completion_loss(model: Any, segments: list[Segment]) -> torch.Tensor:
    """Return the mean loss of the completion tokens; logits of other tokens are not computed."""
    length = max(len(segment.ids) for segment in segments)
    ids = torch.zeros(len(segments), length, dtype=torch.long)
    mask, labels = torch.zeros_like(ids), torch.full_like(ids, NOT_SCORED)
    for row, segment in enumerate(segments):
        end = len(segment.ids)
        ids[row, :end] = torch.tensor(segment.ids)
        mask[row, :end] = 1
        labels[row, segment.start : end] = ids[row, segment.start : end]
    hidden = model.model(input_ids=ids, attention_mask=mask).last_hidden_state[:, :-1]
    next_ids = labels[:, 1:]
    scored = next_ids != NOT_SCORED
    return torch.nn.functional.cross_entropy(model.lm_head(hidden[scored]).float(), next_ids[scored])


def compare(options: argparse.Namespace) -> dict[str, Any]:
    """Print the table of the scorers; return its numbers."""
    by_scorer = {}
    for pair in options.score_dirs:
        name, _, score_dir = pair.partition("=")
        by_scorer[name] = read_log_probs(Path(score_dir))
    num_rows = min(len(one_shot) for _, one_shot in by_scorer.values())
    rows = load_rows(options.dataset_name)
    rows = rows.select(range(num_rows))
    lengths = completion_characters(rows)
    known = rows[options.kind_column or options.value_column]
    counts = np.array([value not in (None, "") for value in known])
    first_wins = None
    values: dict[str, dict[str, Floats]] = {name: {} for name in NAMES}
    same_wins = {}
    for scorer, (zero_shot, one_shot) in by_scorer.items():
        scores = golden_scores(zero_shot, one_shot[:num_rows])
        for name in NAMES:
            values[name][scorer] = np.where(counts, getattr(scores, name), np.nan)
        wins = one_shot[:num_rows] > zero_shot
        first_wins = wins if first_wins is None else first_wins
        same_wins[scorer] = float((wins == first_wins).mean())
    found: dict[str, Any] = {"rows": num_rows, "same_wins": same_wins}
    lines = ["| ranking | scorer | right | minus first | at equal length | minus first |", "|" + " --- |" * 6]
    for name, rankings in values.items():
        plain = measure(rankings, rows, options)
        at_equal_length = measure(without_lengths(rankings, lengths), rows, options)
        found[name] = {"plain": as_json(plain), "at_equal_length": as_json(at_equal_length)}
        for one, other in zip(plain, at_equal_length, strict=True):
            cells = [name, one.ranking, *as_texts(one), *as_texts(other)]
            lines.append(f"| {' | '.join(cells)} |")
    shares = [f"{scorer} {share:.1%}" for scorer, share in same_wins.items()]
    table = "\n".join(lines)
    print(json.dumps(found) if options.json else f"{table}\n\nsame wins as the first scorer: {', '.join(shares)}")
    return found


def measure(rankings: dict[str, Floats], rows: Any, options: argparse.Namespace) -> list[ComparedRanking]:
    """Compare the scorers by pairs within groups, or by kinds."""
    if options.kind_column:
        is_good = np.array([kind == options.good for kind in rows[options.kind_column]])
        return auc_of_rankings(rankings, is_good)
    quality = np.array(rows[options.value_column][:], dtype=np.float64)
    groups = [str(group) for group in rows[options.group_by]]
    return share_of_pairs(rankings, quality, groups)


def without_lengths(rankings: dict[str, Floats], lengths: Floats) -> dict[str, Floats]:
    """Subtract from the ranks of each ranking what the length explains; rows without a value stay without one."""
    found = {}
    for scorer, values in rankings.items():
        usable = np.isfinite(values) & np.isfinite(lengths)
        rest = np.full(len(values), np.nan)
        rest[usable] = without_length(stats.rankdata(values[usable]), lengths[usable])
        found[scorer] = rest
    return found


def as_json(found: list[ComparedRanking]) -> list[dict[str, Any]]:
    """Return the numbers of all scorers."""
    return [dataclasses.asdict(row) for row in found]


def as_texts(found: ComparedRanking) -> tuple[str, str]:
    """Write the quality and the difference, with their intervals."""
    quality = "{:.2f} [{:.2f}, {:.2f}]".format(*found.quality)
    return quality, "" if found.difference is None else "{:+.2f} [{:+.2f}, {:+.2f}]".format(*found.difference)


def make_parser() -> argparse.ArgumentParser:
    """Make the parser of both programs."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    programs = parser.add_subparsers(dest="program", required=True)
    tuning = programs.add_parser("tune", help="tune a base model on instructions")
    tuning.add_argument("--model_name_or_path", required=True)
    tuning.add_argument("--dataset_name", required=True, help="rows with Alpaca columns")
    tuning.add_argument("--output_dir", required=True)
    tuning.add_argument("--num_rows", type=int, default=384)
    tuning.add_argument("--most_tokens", type=int, default=110, help="longer rows are left out")
    tuning.add_argument("--batch_size", type=int, default=8)
    tuning.add_argument("--learning_rate", type=float, default=5e-4)
    tuning.add_argument("--lora_r", type=int, default=32)
    tuning.add_argument("--dtype", default="bfloat16")
    tuning.add_argument("--seed", type=int, default=0)
    comparing = programs.add_parser("compare", help="compare scorers of the same rows and anchors")
    comparing.add_argument("--score_dirs", nargs="+", required=True, help="name=directory of each scorer")
    comparing.add_argument("--dataset_name", required=True, help="rows that were scored")
    comparing.add_argument("--group_by", default="instruction", help="column whose equal values make a group")
    comparing.add_argument("--value_column", default="quality", help="column with the known quality")
    comparing.add_argument("--kind_column", help="column that says what kind of row it is, instead of a quality")
    comparing.add_argument("--good", default="clean", help="value of that column in good rows")
    comparing.add_argument("--json", action="store_true", help="print one JSON object")
    return parser


def main(argv: Sequence[str]) -> dict[str, Any] | None:
    """Run one of the programs."""
    options = make_parser().parse_args(list(argv))
    if options.program == "compare":
        return compare(options)
    tune(options)
    return None


if __name__ == "__main__":
    main(sys.argv[1:])
