"""Check and measure the engine on a GPU: is it right, how fast is it, what would make it faster.

```bash
python recipes/bench/gpu.py --output_dir gpu_results                     # on a GPU; about 13 minutes
python recipes/bench/gpu.py --dry --output_dir dry_results               # on a CPU, tiny: every step runs
python recipes/bench/gpu.py --table gpu_results/results.jsonl            # the tables for docs/log
```

Each step is a process of its own with a time limit, and writes a JSON line for each result at once. A step that hangs,
crashes or runs out of memory costs its own further results and no others. `--seconds` limits all steps together. When
this program is told to stop, it stops the step that runs, and prints what was found until then.

The last lines say what failed, what was left out, and whether the log-probs of the step `exact` agree. The exit code
is 0 if nothing failed, 1 if something did, and 3 without a CUDA device.

Several commands may share a directory: a step that runs again replaces its own results alone. So these two commands do
where each may take ten minutes at most. `--table` takes the files of both if they wrote to two directories.

```bash
python recipes/bench/gpu.py --steps env exact speed-0.5b speed-8b --seconds 540 --output_dir gpu_results
python recipes/bench/gpu.py --steps attention real demo tests --seconds 280 --output_dir gpu_results
```

Nothing is downloaded. The first line tells which packages are not installed. For a machine without a network, carry
their wheels, install them with `pip install --no-index --no-deps --target DIR *.whl`, and set PYTHONPATH to DIR. The
first five steps need torch, transformers and accelerate alone; without `datasets` their texts are random ids.
`--model DIR` adds a trained model.

- env: versions, device, copies per second, FLOP/s of matrix products.
- exact: tiny models in bfloat16 and float32, with windows, soft-caps and sinks. Each path against the naive one, the
  chosen path, whether bits depend on other rows of a call, autocast, TF32 that training switched on, compiled parts.
- speed-0.5b, speed-8b: random weights, calls as in a job. Tokens per second and share of the matmul peak, against the
  research loop and the floor; how long the device is idle; and what each switch of the package would change.
- attention: one layer's attention on one row, in each way that it can be computed.
- real: the model of `--model`. Log-probs and wins on the GPU against those on the CPU.
- demo: the demo's pool scored and tuned on, end to end.
- tests: `pytest -m gpu`.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

# Limits in seconds, in the order of what must be known first.
STEPS = {
    "env": 45,
    "exact": 150,
    "speed-0.5b": 155,
    "speed-8b": 190,
    "attention": 60,
    "real": 40,
    "demo": 80,
    "tests": 110,
}
# Steps whose parts run at the same time, because most of their time is compilation and none of it is measured.
PARTS = {"exact": ("bfloat16", "float32", "beyond plain attention", "settings")}
# Packages that some step imports, besides torch and transformers.
NEEDED = ("accelerate", "datasets", "trl", "peft", "pandas", "pyarrow", "scipy", "sklearn", "joblib", "rich")
FOR_TESTS = ("pytest", "pytest_timeout")
LEAST_SECONDS = 10  # a step that has less left is left out
ALL_SECONDS = 800  # limit of all steps on a GPU
DRY_SECONDS = 1800  # limit of each step on a CPU, which may be busy
NO_DEVICE = 3  # exit code without a CUDA device
# Largest differences from the naive path, in nats per token, that rounding explains in the tiny models of `exact`.
ROUNDING = {"float32": 1e-4, "half precision": 0.1}
ROOT = Path(__file__).parents[2]
FIGURES = {  # columns of the tables, with their headings
    "path": "path",
    "max_difference": "max difference",
    "rms": "rms",
    "tokens_per_second": "tokens/s",
    "share_of_peak": "share of peak",
    "hours_52k_x_100": "h for 52k x 100",
    "peak_gib": "GiB",
    "seconds": "s",
    "first_seconds": "first s",
    "graphs": "graphs",
}


def main(argv: Sequence[str]) -> int:
    """Run the steps, or print the table of a results file; return the exit code."""
    parser = make_parser()
    options = parser.parse_args(list(argv))
    if options.table is not None:
        for file in options.table:
            if not file.is_file():
                parser.error(f"argument --table: there is no file {str(file)!r}")
        print(format_tables([line for file in options.table for line in read_results(file)]))
        return 0
    results = options.output_dir / "results.jsonl"
    if options.step is not None:
        return run_step(options, results)
    options.output_dir.mkdir(parents=True, exist_ok=True)
    results.touch()
    forget(results, options.steps)
    missing = [name for name in (*NEEDED, *FOR_TESTS) if importlib.util.find_spec(name) is None]
    if missing:
        write(results, options.steps[0], "packages that are not installed", names=missing)
    # Else the step that runs would go on without this process, and hold the device.
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))
    try:
        with contextlib.suppress(KeyboardInterrupt, SystemExit):
            run_steps(results, options)
    finally:
        signal.signal(signal.SIGTERM, before)
    found = read_results(results)
    print(format_tables(found) + "\n\n" + "\n".join(verdict(found, options.steps)))
    own = [line for line in found if line["step"] in options.steps]  # the others are those of an earlier command
    if any(line.get("code") == NO_DEVICE for line in own):
        return NO_DEVICE
    return int(any(map(failed, own)))


def run_steps(results: Path, options: argparse.Namespace) -> None:
    """Run the steps in turn, each within what is left of the time; none without a device."""
    seconds = options.seconds
    if seconds is None:
        seconds = DRY_SECONDS * len(options.steps) if options.dry else ALL_SECONDS
    started = time.monotonic()
    for name in options.steps:
        limit = DRY_SECONDS if options.dry else STEPS[name]
        limit = min(limit, seconds - (time.monotonic() - started))
        if limit < LEAST_SECONDS:
            write(results, name, "left out", seconds_left=round(limit))
        elif NO_DEVICE in run_parts(name, limit, results, options):
            return


def make_parser() -> argparse.ArgumentParser:
    """Make the parser of the options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", type=Path, default=Path("gpu_results"), help="Directory of the results.")
    parser.add_argument("--steps", nargs="+", choices=list(STEPS), default=list(STEPS), help="Steps to run, in order.")
    seconds_help = f"Limit of all steps together. Default: {ALL_SECONDS}; with `--dry`, {DRY_SECONDS} for each step."
    parser.add_argument("--seconds", type=float, help=seconds_help)
    parser.add_argument("--dry", action="store_true", help="Run every step on a CPU with tiny sizes.")
    parser.add_argument("--model", help="Directory of a trained model, for the step `real`.")
    table_help = "Print the tables of these results files, and run nothing."
    parser.add_argument("--table", type=Path, nargs="+", metavar="FILE", help=table_help)
    # What this process does for the one that watches the steps.
    parser.add_argument("--step", choices=list(STEPS), help=argparse.SUPPRESS)
    parser.add_argument("--part", help=argparse.SUPPRESS)
    return parser


def forget(results: Path, steps: Sequence[str]) -> None:
    """Remove what earlier runs of these steps wrote; the results of other steps stay."""
    kept = [line for line in read_results(results) if line["step"] not in steps]
    results.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")


def run_parts(name: str, limit: float, results: Path, options: argparse.Namespace) -> list[int | str]:
    """Run a step, each part in a process of its own, which is killed with all that it started when time is over.

    Returns:
        How each process ended: its exit code, or in words that it was stopped.
    """
    started = time.monotonic()
    processes: dict[str | None, subprocess.Popen[bytes]] = {}
    codes: list[int | str] = []
    try:
        for part in PARTS.get(name, (None,)):
            processes[part] = _start(name, part, limit, results, options)
        for part, process in processes.items():
            code: int | str
            try:
                code = process.wait(timeout=max(0.0, started + limit - time.monotonic()))
            except subprocess.TimeoutExpired:
                code = f"stopped after {limit:.0f} s"
                _kill(process)
            codes.append(code)
            of_part = {} if part is None else {"part": part}
            write(results, name, "step ended", **of_part, code=code, seconds=time.monotonic() - started)
    finally:
        for process in processes.values():
            _kill(process)
    return codes


def _kill(process: subprocess.Popen[bytes]) -> None:
    """Kill a process that runs, with all that it started."""
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _start(
    name: str, part: str | None, limit: float, results: Path, options: argparse.Namespace
) -> subprocess.Popen[bytes]:
    command = [sys.executable, str(Path(__file__).resolve()), "--step", name, "--output_dir", str(results.parent)]
    command += ["--seconds", str(limit)]
    if part is not None:
        command += ["--part", part]
    if options.dry:
        command.append("--dry")
    if options.model:
        command += ["--model", options.model]
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    # Output that is held back would be lost with a process that is killed.
    environment = {"HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1", "TRL_EXPERIMENTAL_SILENCE": "1", **os.environ}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    return subprocess.Popen(command, env=environment, start_new_session=True)


def run_step(options: argparse.Namespace, results: Path) -> int:
    """Run a step in this process; an error is a result too."""
    name, started = options.step, time.monotonic()
    try:
        # Only here: the process that watches the steps needs neither torch nor the GPU.
        import torch
        from gpu_steps import Step, steps
    except Exception as error:  # noqa: BLE001 - a package that is missing is a result too
        write(results, name, "imports", error=f"{type(error).__name__}: {error}")
        return 1
    if not options.dry and not torch.cuda.is_available():
        write(results, name, "device", error="torch finds no CUDA device. On a CPU, run it with `--dry`.")
        return NO_DEVICE
    step = Step(
        name,
        lambda what, **figures: write(results, name, what, **figures),
        options.dry,
        options.model,
        results.parent,
        options.part,
        started + options.seconds,
    )
    with step.guarded(name):
        steps()[name](step)
    return 0


def write(results: Path, step: str, what: str, **figures: Any) -> None:
    """Write one result, at once."""
    with results.open("a", encoding="utf-8") as file:
        file.write(json.dumps({"step": step, "what": what, **figures}, default=str) + "\n")
    shown = [f"{key} {_shown(value)}" for key, value in figures.items() if key != "traceback"]
    print(f"[{step}] {what}: " + ", ".join(shown), flush=True)


def read_results(file: Path) -> list[dict[str, Any]]:
    """Read the results, as far as they are whole: the last line of a killed run may not be."""
    lines = []
    for line in file.read_text(encoding="utf-8").splitlines():
        with contextlib.suppress(ValueError):
            lines.append(json.loads(line))
    return lines


def failed(line: dict[str, Any]) -> bool:
    """Whether a result is an error, or the end of a program or step that was not its own."""
    return "error" in line or bool(line.get("code"))


def verdict(lines: Sequence[dict[str, Any]], steps: Sequence[str]) -> list[str]:
    """Say in a few lines whether all steps ran, and whether log-probs agree; `steps` are those that were asked for."""
    text = ["### in short", ""]
    bad = dict.fromkeys(_failure(line) for line in lines if failed(line))  # parts of a step may fail alike
    text += bad
    left_out = [line["step"] for line in lines if line["what"] == "left out"]
    ended = {line["step"] for line in lines if line["what"] == "step ended"}
    left_out += [name for name in steps if name not in ended and name not in left_out]
    if left_out:
        text.append(f"- Left out or stopped: {', '.join(left_out)}.")
    if not bad and not left_out:
        text.append("- Every step ran to its end without an error.")
    for dtype, limit in ROUNDING.items():
        found = [line["max_difference"] for line in lines if _compares_exactness(line, dtype)]
        if found:
            # A NaN agrees with nothing.
            number = sum(difference <= limit for difference in found)
            text.append(
                f"- exact, {dtype}: {number} of {len(found)} comparisons agree with the naive path to {limit:g} nats "
                f"per token, which rounding explains; the largest difference is {max(found):.2g}."
            )
    return text


def _failure(line: dict[str, Any]) -> str:
    """Say what failed, with the end of a program's log."""
    text = [f"- FAILED: {line['step']}, {line['what']}: {line.get('error', line.get('code'))}"]
    text += [f"    {last}" for last in line.get("last_lines", ())]
    return "\n".join(text)


def _compares_exactness(line: dict[str, Any], dtype: str) -> bool:
    """Whether a result of the step `exact` compares log-probs that were computed in this dtype."""
    if line["step"] != "exact" or "max_difference" not in line:
        return False
    is_half = any(word in line["what"] for word in ("bfloat16", "compiled"))
    return is_half == (dtype != "float32")


def format_tables(lines: Sequence[dict[str, Any]]) -> str:
    """Write the results as Markdown, one table for each step, and what else was told below it."""
    text: list[str] = []
    for step in dict.fromkeys(line["step"] for line in lines):
        own = _by_subject([line for line in lines if line["step"] == step])
        text += [f"### {step}", "", *_table(own), *_list(own)]
    return "\n".join(text).rstrip()


def _by_subject(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Collect the results of one model: the parts of a step write between each other."""
    subjects = list(dict.fromkeys(line["what"].split(":")[0] for line in lines))
    return sorted(lines, key=lambda line: subjects.index(line["what"].split(":")[0]))


def _table(lines: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Yield the table of the results that have figures."""
    rows = [line for line in lines if FIGURES.keys() & line.keys() and line["what"] != "step ended"]
    columns = [name for name in FIGURES if any(name in row for row in rows)]
    if not rows:
        return
    yield "| what | " + " | ".join(FIGURES[name] for name in columns) + " |"
    yield "| --- |" + " --- |" * len(columns)
    for row in rows:
        cells = [_shown(row[name]) if name in row else "" for name in columns]
        yield f"| {row['what']} | " + " | ".join(cells) + " |"
    yield ""


def _list(lines: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Yield what has no column: versions, errors, ends of steps."""
    for line in lines:
        above = () if line["what"] == "step ended" else FIGURES
        others = {}
        for key, value in line.items():
            if key not in (*above, "step", "what", "traceback") and value != []:
                others[key] = value
        if others:
            yield f"- {line['what']}: " + ", ".join(f"{key} {_shown(value)}" for key, value in others.items())
    yield ""


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return str(value)[:300]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
