"""Cost of scoring one candidate: the research loop, the engine's two paths and the floor in one run, with ratios.

```bash
OMP_NUM_THREADS=1 python recipes/bench/engine.py                         # a small, a large and a huge vocabulary
python recipes/bench/engine.py --shapes llama-8k --num_anchors 32 --rounds 5 --json bench.json
```

This is the bench for CPUs. On a GPU one candidate does not fill a forward pass, so `gpu.py` times calls of many.

One candidate is scored before m anchors, `--rounds` times. The engines take turns in one process, and the median
counts. Seconds are the process's CPU time on one thread, which a busy machine disturbs least. The rows of the table:

- reference: the research loop (`reference.py`) with batches of 8 and of 16 anchors, the faster of the two.
- cached, packed: the paths of `LogProbEngine`.
- floor: a dense forward pass of exactly the useful tokens in the model's own modules, and the head on the completions.
  A share above 100% means that an engine runs faster modules than the model's own.

`shapes.py` describes models and texts.

Peak memory is what a run adds to the memory of the process, in MiB: growth of the resident set in a forked child. The
difference is the largest one over anchors, in nats per token, from scoring one whole sequence at a time with a float64
log-softmax.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import json
import multiprocessing
import resource
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
import transformers
from reference import FloatArray, Floor, ReferenceLoop, naive_log_probs
from shapes import SHAPES, Shape, Workload, build_model, make_workload

from nuggets_trainer.engine.log_probs import LogProbEngine
from nuggets_trainer.prompts.segment import Segment

MIB = 2**20
DEFAULT_SHAPES = ["llama-8k", "qwen2-100k", "memory-32k", "memory-152k"]
MEMORY_SHAPES = ("memory-32k", "memory-152k")


@dataclass
class Runner:
    """Something that is timed: an engine in one of its variants.

    Attributes:
        engine: name of the engine.
        variant: name of the variant; the fastest variant stands for the engine.
        run: function that scores a workload; the floor returns None.
        hoists: whether the prefix of its workload holds the tokens that all anchors share.
        seconds: seconds of each round.
        peak_bytes: memory that its first run added.
        difference: largest difference from the naive result, nats per token.
    """

    engine: str
    variant: str
    run: Callable[[Workload], Any]
    hoists: bool = True
    seconds: list[float] = field(default_factory=list)
    peak_bytes: int = 0
    difference: float | None = None


def make_runners(model: Any, shape: Shape, num_anchors: int, tokens_per_batch: int | None) -> list[Runner]:
    """Make everything that is compared, in the table's order."""
    runners = [Runner("reference", "batch 8", ReferenceLoop(model, 8), hoists=False)]
    if num_anchors > 8:
        runners.append(Runner("reference", "batch 16", ReferenceLoop(model, 16), hoists=False))
    for path in ("cached", "packed"):
        engine = LogProbEngine(model, tokens_per_batch=tokens_per_batch, path=path)
        runners.append(Runner(path, "", partial(_score, engine)))
    for rows, width in shape.floor:
        runners.append(Runner("floor", f"{rows} x {width}", Floor(model, rows, width)))
    return runners


def _score(engine: LogProbEngine, work: Workload) -> Any:
    return engine.score(work.prefix_ids, work.segments)


def first_run(runner: Runner, work: Workload) -> tuple[FloatArray | None, int]:
    """Score once; return the means (None for the floor) and the bytes that the run added at its peak."""
    # A child's peak starts at the memory that it inherits. In this process the peak of an earlier engine would hide a
    # lower one.
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_run_in_child, args=(runner, work, sender))
    child.start()
    sender.close()
    try:
        means, peak = receiver.recv()
    except EOFError:
        raise RuntimeError(
            f"The {runner.engine} run ended without a result, perhaps out of memory. Choose other `--shapes`."
        ) from None
    child.join()
    return means, peak


def _run_in_child(runner: Runner, work: Workload, sender: Any) -> None:
    torch.set_num_threads(1)  # a forked child has none of its parent's threads
    small = [Segment(s.ids[s.start - 1 :][:3], 1) for s in work.segments[:2]]
    runner.run(Workload(work.prefix_ids[:8], small, ""))  # loads the libraries' pages, which count as resident
    # Memory that loading freed stays resident in the heap. A run that reuses it would seem to need none.
    with contextlib.suppress(AttributeError, OSError):  # only glibc has it
        ctypes.CDLL(None).malloc_trim(0)
    # Only Linux can reset the peak; elsewhere the peak of the small run counts as memory held before.
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    held = _peak_resident_bytes()
    means = runner.run(work)
    sender.send((means, _peak_resident_bytes() - held))


def _peak_resident_bytes() -> int:
    unit = 1 if sys.platform == "darwin" else 1024  # bytes on macOS, KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def seconds_of(run: Callable[[], Any]) -> float:
    """Time one call: CPU seconds of this process."""
    started = time.process_time()
    run()
    return time.process_time() - started


def bench_shape(name: str, rounds: int, num_anchors: int | None, tokens_per_batch: int | None) -> Any:
    """Measure one shape; return the figures that are printed and written as JSON."""
    shape = SHAPES[name]
    num_anchors = num_anchors or shape.num_anchors
    work = make_workload(shape, num_anchors)
    hoisted = work.hoisted()
    model = build_model(shape, "cpu")
    runners = make_runners(model, shape, num_anchors, tokens_per_batch)
    naive: FloatArray | None = None
    for runner in runners:
        means, runner.peak_bytes = first_run(runner, hoisted if runner.hoists else work)
        if means is not None:
            if naive is None:
                naive = naive_log_probs(model, work)
            runner.difference = float(np.abs(means - naive).max())
    for turn in range(rounds):
        in_turn = runners if turn % 2 == 0 else reversed(runners)
        for runner in in_turn:
            own_work = hoisted if runner.hoists else work
            runner.seconds.append(seconds_of(partial(runner.run, own_work)))
    return {
        "shape": name,
        "dtype": str(shape.dtype).removeprefix("torch."),
        "vocab_size": shape.sizes["vocab_size"],
        "parameters": sum(p.numel() for p in model.parameters()),
        "texts": work.source,
        "num_anchors": num_anchors,
        "anchor_tokens": float(np.mean([len(s.ids) for s in work.segments])),
        "candidate_tokens": len(work.prefix_ids),
        "useful_tokens": hoisted.useful_tokens,
        "rounds": rounds,
        "engines": _compare(runners, num_anchors, hoisted.useful_tokens),
    }


def _compare(runners: Sequence[Runner], num_anchors: int, useful_tokens: int) -> dict[str, dict[str, Any]]:
    """Return the figures of each engine: those of its fastest variant."""
    fastest: dict[str, Runner] = {}
    for runner in runners:
        best = fastest.setdefault(runner.engine, runner)
        if median(runner.seconds) < median(best.seconds):
            fastest[runner.engine] = runner
    reference, floor = median(fastest["reference"].seconds), median(fastest["floor"].seconds)
    engines: dict[str, dict[str, Any]] = {}
    for name, runner in fastest.items():
        seconds = median(runner.seconds)
        engines[name] = {
            "variant": runner.variant,
            "seconds": seconds,
            "pairs_per_second": num_anchors / seconds,
            "useful_tokens_per_second": useful_tokens / seconds,
            "ratio_to_reference": reference / seconds,
            "share_of_floor": floor / seconds,
            "peak_memory_mib": runner.peak_bytes / MIB,
            "max_difference": runner.difference,
            "seconds_by_round": runner.seconds,
        }
    return engines


def format_table(result: dict[str, Any]) -> str:
    """Write the figures of one shape as a table."""
    head = (
        f"{result['shape']}: {result['parameters'] / 1e6:,.1f}M parameters, vocabulary {result['vocab_size']:,}, "
        f"{result['dtype']}\n"
        f"{result['num_anchors']} anchors of {result['anchor_tokens']:.0f} tokens, candidate of "
        f"{result['candidate_tokens']}, {result['useful_tokens']:,} useful tokens, texts: {result['texts']}"
    )
    headings = (
        f"{'engine':<21} {'seconds':>8} {'pairs/s':>8} {'tokens/s':>9} {'x ref':>6} {'% floor':>8} {'peak MiB':>9} "
        f"{'max diff':>9}"
    )
    lines = [head, headings]
    for name, f in result["engines"].items():
        label = f"{name}, {f['variant']}" if f["variant"] else name
        difference = "-" if f["max_difference"] is None else f"{f['max_difference']:.1e}"
        line = (
            f"{label:<21} {f['seconds']:>8.3f} {f['pairs_per_second']:>8.1f} {f['useful_tokens_per_second']:>9,.0f} "
            f"{f['ratio_to_reference']:>6.2f} {f['share_of_floor']:>8.1%} {f['peak_memory_mib']:>9,.1f} "
            f"{difference:>9}"
        )
        lines.append(line)
    return "\n".join(lines)


def vocabulary_growth(results: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Return the MiB by which each engine's peak grows from the small to the large vocabulary on the same body.

    The result is empty if the two shapes were not both measured.
    """
    engines_of = {result["shape"]: result["engines"] for result in results}
    if not set(MEMORY_SHAPES) <= engines_of.keys():
        return {}
    small, large = engines_of[MEMORY_SHAPES[0]], engines_of[MEMORY_SHAPES[1]]
    return {name: large[name]["peak_memory_mib"] - small[name]["peak_memory_mib"] for name in small}


def make_parser() -> argparse.ArgumentParser:
    """Make the parser of the options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    shapes_help = f"Shapes to measure. Default: {' '.join(DEFAULT_SHAPES)}."
    parser.add_argument("--shapes", nargs="+", choices=list(SHAPES), help=shapes_help)
    parser.add_argument("--rounds", type=int, default=3, help="Timed runs of each engine; the median counts.")
    parser.add_argument("--num_anchors", type=int, help="Number of anchors, at most 100. Default: that of the shape.")
    parser.add_argument("--tokens_per_batch", type=int, help="Tokens in one forward pass. Default: automatic.")
    parser.add_argument("--json", type=Path, help="Write all figures to this file.")
    return parser


def main(argv: Sequence[str]) -> dict[str, Any]:
    """Measure and print the shapes in turn; return all figures."""
    options = make_parser().parse_args(argv)
    torch.set_num_threads(1)  # CPU seconds of several threads include the time that they wait for each other
    report: dict[str, Any] = {"torch": torch.__version__, "transformers": transformers.__version__, "shapes": []}
    for name in options.shapes or DEFAULT_SHAPES:
        result = bench_shape(name, options.rounds, options.num_anchors, options.tokens_per_batch)
        report["shapes"].append(result)
        print(format_table(result) + "\n", flush=True)
    report["vocabulary_growth_mib"] = vocabulary_growth(report["shapes"])
    if report["vocabulary_growth_mib"]:
        grown = ", ".join(f"{name} {mib:+,.0f} MiB" for name, mib in report["vocabulary_growth_mib"].items())
        print(f"peak memory from {MEMORY_SHAPES[0]} to {MEMORY_SHAPES[1]}, the same body: {grown}")
    if options.json is not None:
        options.json.write_text(json.dumps(report, indent=1))
    return report


if __name__ == "__main__":
    main(sys.argv[1:])
