"""A comparison from scored rows to the written table: run every arm, measure it, and write what was found."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from trl import ModelConfig, SFTConfig

from nuggets_trainer.analysis.bootstrap import Bootstrap
from nuggets_trainer.analysis.follows import describing_columns, follow_scores
from nuggets_trainer.comparison.arms import (
    ARMS,
    COSTS,
    EVERY_FRACTION,
    LABELS,
    ChosenArm,
    Evidence,
    golden_set_size,
)
from nuggets_trainer.comparison.options import CompareArguments
from nuggets_trainer.comparison.plot import draw_losses
from nuggets_trainer.comparison.runs import TuningRun, TuningRuns
from nuggets_trainer.comparison.scored_pool import ScoredPool
from nuggets_trainer.comparison.table import ArmResult, TableLine, make_lines, to_markdown
from nuggets_trainer.ranks import Ranks
from nuggets_trainer.store.files import write_atomically
from nuggets_trainer.wording import counted

logger = logging.getLogger("nuggets_trainer.compare")


def compare_arms(
    pool: Dataset,
    scored: ScoredPool,
    heldout: Dataset,
    args: SFTConfig,
    model: ModelConfig,
    template_name: str,
    options: CompareArguments,
) -> list[TableLine]:
    """Run every arm, then write and print the table; return its lines. All ranks must call it.

    Args:
        pool: all rows.
        scored: what was computed about them.
        heldout: rows to measure on.
        args: training arguments.
        model: model arguments.
        template_name: template of rows with Alpaca columns, as `NuggetsConfig.template`.
        options: options of the comparison.
    """
    output_dir, num_devices = Path(args.output_dir), Ranks().world
    generation = None
    if options.generation_metric is not None:
        generation = (options.generation_metric, options.num_generations)
    candidates = scored.evidence.usable.tolist()
    runs = TuningRuns(args, model, template_name, pool, candidates, heldout, output_dir / "runs", generation)
    scored = dataclasses.replace(scored, evidence=scored.evidence.restricted_to(runs.usable))
    # What cannot be measured or chosen fails here, before any arm is trained.
    found = _follow(pool, scored, options)
    seeds = range(args.seed, args.seed + options.num_seeds)
    arms = choose_all_rows(scored.evidence, options, seeds)
    results = run_all_arms(runs, scored, arms, seeds, args, options.budget)
    bootstrap = Bootstrap(runs.num_tokens, options.num_seeds, options.num_resamples)
    lines = make_lines(results, bootstrap, num_devices)
    explanation = explain_table(options, len(runs.segments), num_devices)
    Ranks().on_main(lambda: _write(lines, explanation, found, scored, options, len(runs.segments), output_dir))
    return lines


def choose_all_rows(evidence: Evidence, options: CompareArguments, seeds: Sequence[int]) -> list[ChosenArm]:
    """Choose the rows of every arm at every fraction with every seed; an arm that depends on no fraction stands once.

    Raises:
        ValueError: if an arm finds no row.
    """
    arms = []
    for arm in options.arms:
        if arm in EVERY_FRACTION:
            arms.append(_choose(evidence, arm, None, seeds))
    for fraction in options.golden_fractions:
        for arm in options.arms:
            if arm not in EVERY_FRACTION:
                arms.append(_choose(evidence, arm, fraction, seeds))
    return arms


def _choose(evidence: Evidence, arm: str, fraction: float | None, seeds: Sequence[int]) -> ChosenArm:
    k = 0 if fraction is None else golden_set_size(evidence, fraction)
    rows = [ARMS[arm](evidence, k, seed) for seed in seeds]
    if any(len(own) == 0 for own in rows):
        raise ValueError(f"The arm `{arm}` found no row at all. Leave it out of `arms`.")
    golden_share = None
    if fraction is not None:
        golden_share = float(np.mean([np.isin(own, evidence.ranked[:k]).mean() for own in rows]))
    return ChosenArm(arm, fraction, rows, golden_share)


def run_all_arms(
    runs: TuningRuns,
    scored: ScoredPool,
    arms: Sequence[ChosenArm],
    seeds: Sequence[int],
    args: SFTConfig,
    budget: str,
) -> list[ArmResult]:
    """Measure the base model, and run every arm with every seed."""
    steps: int | None = None  # each arm takes the epochs over its own rows
    if budget == "steps":
        steps = args.max_steps if args.max_steps > 0 else runs.full_steps
    results = [_measure_base_model(runs, seeds)]
    for chosen in arms:
        results.append(_run_arm(runs, scored, chosen, seeds, steps))
    return results


def _measure_base_model(runs: TuningRuns, seeds: Sequence[int]) -> ArmResult:
    """Measure the base model once, with the first seed; no seed changes it, so the result stands for all of them."""
    run, was_stored = runs.run(np.array([], dtype=np.int64), seeds[0], 0)
    _log(runs, "base", None, 0, seeds[0], run, was_stored)
    return _result("base", None, 0, None, [run] * len(seeds), 0.0, 0.0)


def _run_arm(
    runs: TuningRuns, scored: ScoredPool, chosen: ChosenArm, seeds: Sequence[int], steps: int | None
) -> ArmResult:
    """Run one arm at one fraction with every seed."""
    arm, num_rows = chosen.arm, len(chosen.rows[-1])
    finished, training_seconds = [], []
    for seed, rows in zip(seeds, chosen.rows, strict=True):
        run, was_stored = runs.run(rows, seed, steps)
        _log(runs, arm, chosen.fraction, len(rows), seed, run, was_stored)
        finished.append(run)
        training_seconds.append(run.training_seconds)
    choosing_seconds: float | None = 0.0
    if arm in COSTS:
        choosing_seconds = scored.costs[COSTS[arm]]
    seconds = float(np.mean(training_seconds))
    return _result(arm, chosen.fraction, num_rows, chosen.golden_share, finished, choosing_seconds, seconds)


def _result(
    arm: str,
    fraction: float | None,
    num_rows: int,
    golden_share: float | None,
    finished: Sequence[TuningRun],
    choosing_seconds: float | None,
    training_seconds: float,
) -> ArmResult:
    losses, generation = [], []
    for run in finished:
        losses.append(run.losses)
        if run.generation is not None:
            generation.append(run.generation)
    return ArmResult(
        arm=arm,
        fraction=fraction,
        num_rows=num_rows,
        golden_share=golden_share,
        losses=np.array(losses),
        choosing_seconds=choosing_seconds,
        training_seconds=training_seconds,
        steps=finished[0].steps,
        generation=generation or None,
    )


def _log(
    runs: TuningRuns, arm: str, fraction: float | None, num_rows: int, seed: int, run: TuningRun, was_stored: bool
) -> None:
    if not Ranks().is_main:
        return
    size = "" if fraction is None else f" {fraction:.3g} of the pool,"
    loss = float(np.average(run.losses, weights=runs.num_tokens))
    time = f"{run.training_seconds + run.evaluation_seconds:.0f} s"
    if was_stored:
        time = "was on disk"
    rows = counted(num_rows, "row")
    logger.info("%s,%s %s, seed %d: held-out loss %.4f (%s)", LABELS[arm], size, rows, seed, loss, time)


def explain_table(options: CompareArguments, num_heldout: int, num_devices: int) -> str:
    """Say what the numbers of the table are."""
    budget = "the same number of optimizer steps"
    if options.budget == "epochs":
        budget = "the same number of epochs over its own rows"
    differences = (
        "Differences are paired; their 95% intervals, in brackets, are those of Student's t over seeds and held-out "
        f"rows ({counted(options.num_resamples, 'resample')} of the rows)."
    )
    if options.num_seeds == 1:
        differences = (
            "Differences are paired. One seed cannot tell how far another would be from it, so there are no "
            "deviations and no intervals: set `num_seeds` to 3 or more."
        )
    return (
        f"The loss is in nats per completion token on {counted(num_heldout, 'held-out row')}: mean and standard "
        f"deviation of {counted(options.num_seeds, 'seed')}. Each arm takes {budget}. {differences} `golden` is the "
        f"share of the rows that are in the golden set of that size. `s` is the wall time of choosing and of one "
        f"training run, on {counted(num_devices, 'device')}. What choosing needs is computed once for all arms that "
        "need it; a control that is matched to the golden set needs the scores too."
    )


def _write(
    lines: Sequence[TableLine],
    explanation: str,
    found: dict[str, Any],
    scored: ScoredPool,
    options: CompareArguments,
    num_heldout: int,
    output_dir: Path,
) -> None:
    """Write compare.json, compare.md and compare.svg, and print the table."""
    text = found.pop("text")
    content = {
        "lines": [dataclasses.asdict(line) for line in lines],
        "heldout_rows": num_heldout,
        "budget": options.budget,
        "num_candidates": len(scored.evidence.ranked),
        "signal_check": scored.signal_check,
        "follows": found,
    }
    report = f"{to_markdown(lines)}\n\n{explanation}\n\n{text}\n"
    if scored.signal_check is not None:
        report += f"{scored.signal_check['says']}\n"
    write_atomically(output_dir / "compare.json", json.dumps(content, indent=2).encode())
    write_atomically(output_dir / "compare.md", report.encode())
    print(f"\n{report}")
    try:
        draw_losses(lines, output_dir / "compare.svg")
    except ImportError:
        logger.warning("No plot: matplotlib is not installed. Run `pip install nuggets_trainer[plot]`.")


def _follow(pool: Dataset, scored: ScoredPool, options: CompareArguments) -> dict[str, Any]:
    """Find what the golden scores follow, and measure their reliability; a golden set of all rows has none."""
    evidence, signals = scored.evidence, scored.signals
    columns: dict[str, Any] = {
        "completion_tokens": signals["num_tokens"],
        "completion_loss": signals["loss"],
        "ifd": signals["ifd"],
        **describing_columns(pool),
    }
    sizes = []
    for fraction in options.golden_fractions:
        k = golden_set_size(evidence, fraction)
        if k < len(evidence.ranked):
            sizes.append(k)
    return follow_scores(evidence.zero_shot, evidence.one_shot, columns, signals["num_tokens"], sizes)
