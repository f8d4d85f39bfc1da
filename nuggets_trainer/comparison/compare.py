"""A comparison from scored rows to its results: run every arm, measure it, and weigh the arms against each other."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from trl import ModelConfig, SFTConfig

from nuggets_trainer.analysis.bootstrap import Bootstrap
from nuggets_trainer.analysis.follows import describing_columns, follow_scores
from nuggets_trainer.comparison.arms import BASE, BASE_LABEL, Arm, ChosenArm, choose_all_rows
from nuggets_trainer.comparison.costs import arm_costs
from nuggets_trainer.comparison.given_scores import GivenScores
from nuggets_trainer.comparison.measure_table import make_measure_lines, write_runs
from nuggets_trainer.comparison.options import CompareArguments
from nuggets_trainer.comparison.result_files import ComparisonResults, file_stem, write_comparison
from nuggets_trainer.comparison.runs import TuningRun, TuningRuns
from nuggets_trainer.comparison.scored_pool import ScoredPool
from nuggets_trainer.comparison.table import ArmResult, make_lines
from nuggets_trainer.comparison.verdict import make_verdict
from nuggets_trainer.golden.arrays import Floats
from nuggets_trainer.heldout.tasks import HarnessTasks
from nuggets_trainer.ranks import Ranks
from nuggets_trainer.wording import counted

logger = logging.getLogger("nuggets_trainer.compare")


def compare_arms(
    pool: Dataset,
    scored: ScoredPool,
    heldout: Mapping[str, Dataset],
    args: SFTConfig,
    model: ModelConfig,
    template_name: str,
    options: CompareArguments,
    arms: Sequence[Arm],
    given: GivenScores,
) -> ComparisonResults:
    """Run every arm, and write the table; return what was found. All ranks must call it.

    Args:
        pool: all rows.
        scored: what was computed about them.
        heldout: rows to measure on, by the name of their set; the verdict is about the first one.
        args: training arguments.
        model: model arguments.
        template_name: template of rows with Alpaca columns, as `NuggetsConfig.template`.
        options: options of the comparison.
        arms: the arms.
        given: scores of other programs, which are in the columns of `scored` too.
    """
    output_dir, num_devices = Path(args.output_dir), Ranks().world
    generation, tasks = _further_measures(options)
    candidates = scored.evidence.usable.tolist()
    runs = TuningRuns(args, model, template_name, pool, candidates, heldout, output_dir / "runs", generation, tasks)
    scored = dataclasses.replace(scored, evidence=scored.evidence.restricted_to(runs.usable))
    # What cannot be measured or chosen fails here, before any arm is trained.
    follows = _follow(pool, scored, options, given)
    reliability = given.reliability(scored.evidence, options.golden_fractions)
    seeds = range(args.seed, args.seed + options.num_seeds)
    chosen = choose_all_rows(scored.evidence, arms, options.golden_fractions, seeds)
    full_steps = _steps(runs, scored, args, options)
    steps = None  # each arm takes the epochs over its own rows
    if options.budget == "steps":
        steps = full_steps
    results = run_all_arms(runs, scored, chosen, seeds, steps)
    bootstrap = Bootstrap(runs.num_tokens, options.num_seeds, options.num_resamples)
    found = ComparisonResults(
        verdict=make_verdict(results, bootstrap, [arm.name for arm in arms if arm.is_rival]),
        lines=make_lines(results, bootstrap, num_devices),
        measures=make_measure_lines(results, runs.measures.weights, options.num_seeds, options.num_resamples),
        costs=arm_costs(results, full_steps, num_devices),
        follows=follows,
        reliability_of_scores=reliability,
        signal_check=scored.signal_check,
        contamination=scored.contamination,
        num_heldout=len(runs.segments),
        num_candidates=len(scored.evidence.usable),
        num_devices=num_devices,
    )
    Ranks().on_main(lambda: write_comparison(found, options, output_dir))
    stem = file_stem(options)
    Ranks().on_main(lambda: write_runs(results, seeds, runs.measures.weights, output_dir / f"{stem}_runs.parquet"))
    return found


def _further_measures(options: CompareArguments) -> tuple[tuple[str, int] | None, HarnessTasks | None]:
    """Return what is measured besides held-out losses: completions, by metric and number, and tasks; None for none."""
    generation = tasks = None
    if options.generation_metric is not None:
        generation = (options.generation_metric, options.num_generations)
    if options.lm_eval_tasks is not None:
        tasks = HarnessTasks(options.lm_eval_tasks, options.task_options)
    return generation, tasks


def _steps(runs: TuningRuns, scored: ScoredPool, args: SFTConfig, options: CompareArguments) -> int:
    """Return `max_steps`, or the steps of the epochs over all rows; a quick comparison takes those of its size."""
    if args.max_steps > 0:
        return int(args.max_steps)
    num_rows = len(runs.usable)
    if options.quick:
        num_rows = scored.evidence.num_chosen(options.golden_fractions[0])
    return runs.steps_of_epochs(num_rows)


def run_all_arms(
    runs: TuningRuns,
    scored: ScoredPool,
    arms: Sequence[ChosenArm],
    seeds: Sequence[int],
    steps: int | None,
) -> list[ArmResult]:
    """Measure the base model, and run every arm with every seed.

    Args:
        runs: the runs.
        scored: what was computed about the rows.
        arms: rows of each arm.
        seeds: seeds of the runs.
        steps: number of optimizer steps; None for the epochs over an arm's own rows.
    """
    results = [_measure_base_model(runs, seeds)]
    for chosen in arms:
        results.append(_run_arm(runs, scored, chosen, seeds, steps))
    return results


def _measure_base_model(runs: TuningRuns, seeds: Sequence[int]) -> ArmResult:
    """Measure the base model once, with the first seed; no seed changes it, so the result stands for all of them."""
    run, was_stored = runs.run(np.array([], dtype=np.int64), seeds[0], 0)
    _log(runs, BASE_LABEL, None, 0, seeds[0], run, was_stored)
    return ArmResult(
        arm=BASE,
        label=BASE_LABEL,
        fraction=None,
        num_rows=0,
        golden_share=None,
        choosing_seconds=0.0,
        training_seconds=0.0,
        **_measured([run] * len(seeds)),
    )


def _run_arm(
    runs: TuningRuns, scored: ScoredPool, chosen: ChosenArm, seeds: Sequence[int], steps: int | None
) -> ArmResult:
    """Run one arm at one fraction with every seed."""
    arm = chosen.arm
    finished, training_seconds = [], []
    for seed, rows in zip(seeds, chosen.rows, strict=True):
        run, was_stored = runs.run(rows, seed, steps)
        _log(runs, arm.label, chosen.fraction, len(rows), seed, run, was_stored)
        finished.append(run)
        training_seconds.append(run.training_seconds)
    return ArmResult(
        arm=arm.name,
        label=arm.label,
        fraction=chosen.fraction,
        num_rows=len(chosen.rows[-1]),
        golden_share=chosen.golden_share,
        choosing_seconds=scored.seconds_of(arm.stages),
        training_seconds=float(np.mean(training_seconds)),
        **_measured(finished),
    )


def _measured(finished: Sequence[TuningRun]) -> dict[str, Any]:
    """Collect what the runs of one arm gave, as fields of `ArmResult`."""
    losses, generation = [], []
    for run in finished:
        losses.append(run.losses)
        if run.generation is not None:
            generation.append(run.generation)
    return {
        "losses": np.array(losses),
        "steps": finished[0].steps,
        "generation": generation or None,
        "measures": _measures(finished),
    }


def _measures(finished: Sequence[TuningRun]) -> dict[str, Floats]:
    """Collect the measures of the runs of one arm, `(seeds, values)` each.

    A run of an earlier version kept no more than the mean of the generation metric; then the means stand for all.
    """
    found = {}
    for name in dict.fromkeys(name for run in finished for name in run.measures):
        values = []
        for run in finished:
            values.append(run.measures.get(name, [run.generation or 0.0]))
        if len({len(own) for own in values}) > 1:
            values = [[float(np.mean(own))] for own in values]
        found[name] = np.array(values)
    return found


def _log(
    runs: TuningRuns, label: str, fraction: float | None, num_rows: int, seed: int, run: TuningRun, was_stored: bool
) -> None:
    if not Ranks().is_main:
        return
    size = "" if fraction is None else f" {fraction:.3g} of the pool,"
    loss = float(np.average(run.losses, weights=runs.num_tokens))
    time = f"{run.training_seconds + run.evaluation_seconds:.0f} s"
    if was_stored:
        time = "was on disk"
    rows = counted(num_rows, "row")
    logger.info("%s,%s %s, seed %d: held-out loss %.4f (%s)", label, size, rows, seed, loss, time)


def _follow(pool: Dataset, scored: ScoredPool, options: CompareArguments, given: GivenScores) -> dict[str, Any] | None:
    """Find what the golden scores follow, and measure their reliability; a golden set of all rows has none.

    Returns:
        The result of `follow_scores`; None after a race, whose scores are those of the best rows alone.
    """
    evidence = scored.evidence
    if not evidence.has_every_pair:
        return None
    columns: dict[str, Any] = {
        "completion_tokens": evidence.columns["num_tokens"],
        "completion_loss": evidence.columns["loss"],
        "ifd": evidence.columns["ifd"],
        **describing_columns(pool),
        **{name: scores.values for name, scores in given.by_name.items()},
    }
    sizes = []
    for fraction in options.golden_fractions:
        k = evidence.num_chosen(fraction)
        if k < len(evidence.ranked):
            sizes.append(k)
    lengths = evidence.columns["num_tokens"]
    return follow_scores(evidence.zero_shot, evidence.one_shot, columns, lengths, sizes)
