"""The steps of `gpu.py`: what each of them computes, on a GPU or, tiny, on a CPU."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
import platform
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import transformers
from captured import CapturedRows
from reference import Floor, ReferenceLoop
from shapes import SHAPES, Shape, Workload, build_model, make_workload
from torch._dynamo.utils import counters
from varlen import varlen_row

from nuggets_trainer.engine import flex
from nuggets_trainer.engine.attention import Kernel, PackedRow, Prefix
from nuggets_trainer.engine.compiled import PIECES, WHOLE_LAYERS
from nuggets_trainer.engine.device import matmul_peak
from nuggets_trainer.engine.log_probs import LogProbEngine
from nuggets_trainer.engine.model import matmul_weights
from nuggets_trainer.engine.packed import RunRow, score_packed
from nuggets_trainer.engine.packing import BLOCK, pack
from nuggets_trainer.prompts.segment import PrefixedSegments, Segment

ROOT = Path(__file__).parents[2]
SECONDS_TO_TELL = 5  # left to a step when it stops the program that it runs
POOL_SIZE = 52_002  # rows of Alpaca, for the extrapolated hours
CALL_BATCHES = 8  # forward passes of a call of the engine, as `PairScorer` makes it, which needs `datasets`
TIMED_SECONDS = 6.0  # of the calls that are timed, after the first
GIB = 2**30
_GEMMA2 = {"head_dim": 64, "sliding_window": 64, "query_pre_attn_scalar": 64}
_GPT_OSS = {"head_dim": 64, "sliding_window": 64, "num_local_experts": 4, "num_experts_per_tok": 2}
# Tiny models by part of the step: family, changed sizes, dtype. Heads of 64 and 128 dimensions, heads that flex
# attention refuses on CUDA, windows, soft-caps, sinks.
CASES: dict[str, list[tuple[str, str, dict[str, Any], torch.dtype]]] = {
    "bfloat16": [
        ("heads of 64", "Qwen2", {}, torch.bfloat16),
        ("heads of 128", "Llama", {"hidden_size": 512}, torch.bfloat16),
    ],
    "float32": [
        ("heads of 64", "Qwen2", {}, torch.float32),
        ("heads of 128", "Llama", {"hidden_size": 512}, torch.float32),
        ("heads of 12", "Llama", {"hidden_size": 48, "intermediate_size": 96}, torch.float32),
    ],
    "beyond plain attention": [
        ("soft-cap", "Gemma2", _GEMMA2, torch.float32),
        ("sinks", "GptOss", _GPT_OSS, torch.float32),
        ("window of 64", "Mistral", {"sliding_window": 64}, torch.bfloat16),
    ],
}


@dataclass(frozen=True)
class Step:
    """What a step is given.

    Attributes:
        name: name of the step.
        tell: writes a result: what it is, and its figures.
        dry: whether it runs on a CPU with tiny sizes.
        model: directory of a trained model; None without one.
        directory: directory for further files.
        part: part of the step; None for a step that is one process.
        ends: time by `time.monotonic` at which the process is killed.
    """

    name: str
    tell: Callable[..., None]
    dry: bool
    model: str | None
    directory: Path
    part: str | None = None
    ends: float = float("inf")

    @property
    def device(self) -> torch.device:
        """Device that is measured."""
        return torch.device("cpu" if self.dry else "cuda")

    @contextlib.contextmanager
    def guarded(self, what: str) -> Iterator[None]:
        """Tell an error as a result, and go on."""
        try:
            yield
        except Exception as error:  # noqa: BLE001 - whatever it is, the other results count
            self.tell(what, error=f"{type(error).__name__}: {error}"[:600], traceback=traceback.format_exc()[-1500:])
            if not self.dry:
                with contextlib.suppress(RuntimeError):  # a kernel that failed may have ended all use of the device
                    torch.cuda.empty_cache()


def steps() -> dict[str, Callable[[Step], None]]:
    """Return the steps by name."""
    return {
        "env": look_at_machine,
        "exact": check_exactness,
        "speed-0.5b": lambda step: measure_speed(step, "0.5b"),
        "speed-8b": lambda step: measure_speed(step, "8b"),
        "attention": measure_attention,
        "real": check_real_model,
        "demo": run_demo,
        "tests": run_tests,
    }


def look_at_machine(step: Step) -> None:
    """Tell versions and what the device reaches."""
    step.tell(
        "versions", python=platform.python_version(), torch=torch.__version__, transformers=transformers.__version__
    )
    if not step.dry:
        found = torch.cuda.get_device_properties(0)
        step.tell("device", name=found.name, capability=f"{found.major}.{found.minor}", gib=found.total_memory / GIB)
        source = torch.randn(2**28, device="cuda")
        target = torch.empty_like(source)
        rate = 2 * source.nbytes / min(seconds_of(step, lambda: target.copy_(source), 5)) / 1e12
        step.tell("copies on the device", terabytes_per_second=rate)
    for dtype in (torch.bfloat16, torch.float32):
        step.tell(f"matrix products, {named(dtype)}", tflops=matmul_peak(step.device, dtype) / 1e12)


# ---------------------------------------------------------------- is it right?


def check_exactness(step: Step) -> None:
    """Compare each path with the naive one on tiny models, with the same arithmetic on the same device."""
    for label, family, sizes, dtype in CASES.get(step.part or "", []):
        name = f"{label}, {named(dtype)}"
        with step.guarded(name):
            model = tiny_model(step, family, dtype, sizes)
            prefixed = random_prefixed(3, 6 if step.dry else 40)
            _check_paths(step, name, model, prefixed)
    if step.part == "settings":
        _check_settings(step)


def _check_settings(step: Step) -> None:
    """Compare log-probs under autocast, while TF32 is on, and with compiled parts."""
    with step.guarded("autocast"):
        model, prefixed = tiny_model(step, "Qwen2", torch.float32, {}), random_prefixed(2, 6)
        naive = LogProbEngine(model, autocast_dtype=torch.bfloat16, path="naive")
        engine = LogProbEngine(model, autocast_dtype=torch.bfloat16)
        path = engine.choose_path(prefixed)
        found, expected = flat(engine.score_prefixed(prefixed)), flat(naive.score_prefixed(prefixed))
        step.tell("autocast to bfloat16", path=path, **differences(found, expected))
    with step.guarded("TF32 switched on"):
        model, prefixed = tiny_model(step, "Qwen2", torch.float32, {}), random_prefixed(2, 6)
        before = flat(LogProbEngine(model, path="naive").score_prefixed(prefixed))
        torch.set_float32_matmul_precision("high")
        engine = LogProbEngine(model)
        path = engine.choose_path(prefixed)
        found = flat(engine.score_prefixed(prefixed))
        torch.set_float32_matmul_precision("highest")
        step.tell("TF32 switched on outside", path=path, **differences(found, before))
    with step.guarded("compiled parts"):
        model, prefixed = tiny_model(step, "Qwen3", torch.bfloat16, {"head_dim": 64}), random_prefixed(2, 6)
        naive = flat(LogProbEngine(model, path="naive").score_prefixed(prefixed))
        for label, names in (("norms, feed-forward, head", PIECES), ("whole layers, head", WHOLE_LAYERS)):
            engine = compiled_engine(model, names)
            first = seconds_of(step, lambda: engine.score_prefixed(prefixed))[0]  # noqa: B023
            found = flat(engine.score_prefixed(prefixed))
            step.tell(f"compiled: {label}", first_seconds=first, graphs=graphs(), **differences(found, naive))


def _check_paths(step: Step, name: str, model: Any, prefixed: list[PrefixedSegments]) -> None:
    naive = flat(LogProbEngine(model, path="naive").score_prefixed(prefixed))
    with Warnings() as warnings:
        started = time.perf_counter()
        path = LogProbEngine(model, 4096).choose_path([(ids, segments[:3]) for ids, segments in prefixed[:2]])
    seconds = time.perf_counter() - started
    step.tell(f"{name}: chosen", path=path, seconds=seconds, graphs=graphs(), warnings=warnings.lines)
    for path in ("packed", "cached"):
        with step.guarded(f"{name}: {path}"):
            engine = LogProbEngine(model, 4096, path=path)
            found = flat(engine.score_prefixed(prefixed))
            again = flat(engine.score_prefixed(prefixed))
            backwards = flat(engine.score_prefixed(prefixed[::-1])[::-1])
            step.tell(
                f"{name}: {path}",
                **differences(found, naive),
                same_bits_again=bool((found == again).all()),
                bits_that_other_rows_change=float((backwards != found).mean()),
            )


def check_real_model(step: Step) -> None:
    """Compare a trained model's log-probs on the device with the naive ones on the CPU in float32."""
    if step.model is None:
        step.tell("left out: no `--model`")
        return
    model = transformers.AutoModelForCausalLM.from_pretrained(step.model, dtype=torch.float32).eval()
    prefixed = demo_texts(step.model, 2 if step.dry else 5, 4 if step.dry else 9)
    expected = flat(LogProbEngine(model, path="naive").score_prefixed(prefixed)).reshape(len(prefixed), -1)
    for dtype in (torch.float32, torch.bfloat16):
        moved = model.to(step.device, dtype)
        for path in ("naive", "packed"):
            with step.guarded(f"{named(dtype)}, {path}"):
                found = flat(LogProbEngine(moved, path=path).score_prefixed(prefixed)).reshape(expected.shape)
                changed = ((found[1:] > found[0]) != (expected[1:] > expected[0])).mean()
                step.tell(f"{named(dtype)}, {path}", **differences(found, expected), wins_changed=float(changed))


# ---------------------------------------------------------------- how fast is it?


@dataclass(frozen=True)
class Call:
    """What is timed: one call of the engine, as in a job.

    Attributes:
        prefixed: candidates, each before all anchors.
        tokens: forward tokens of all pairs.
        targets: scored tokens.
    """

    prefixed: list[PrefixedSegments]
    tokens: int
    targets: int


def measure_speed(step: Step, name: str) -> None:
    """Time calls of a job on random weights: the engine's variants, the research loop and the floor."""
    shape = replace(SHAPES["tiny"], num_anchors=6) if step.dry else SHAPES[name]
    work = make_workload(shape, shape.num_anchors)
    model = build_model(shape, str(step.device))
    budget = 256 if step.dry else 16_384
    call = make_call(work.hoisted(), (2 if step.dry else CALL_BATCHES) * budget)
    peak = matmul_peak(step.device, shape.dtype)
    weights = matmul_weights(model)
    assert weights is not None
    step.tell("work", candidates=len(call.prefixed), call_tokens=call.tokens, targets=call.targets, texts=work.source)

    def tell(what: str, seconds: float, call: Call, **figures: Any) -> None:
        flops = 2 * (weights[0] * call.tokens + weights[1] * call.targets)
        rate = call.tokens / seconds
        hours = POOL_SIZE * call.tokens / len(call.prefixed) / rate / 3600
        share = flops / seconds / peak
        step.tell(what, tokens_per_second=rate, share_of_peak=share, hours_52k_x_100=hours, seconds=seconds, **figures)

    with step.guarded("chosen path"), Warnings() as warnings:
        sample = [(ids, segments[:3]) for ids, segments in call.prefixed[:2]]
        started = time.perf_counter()
        path = LogProbEngine(model, budget).choose_path(sample)
        step.tell("chosen path", path=path, seconds=time.perf_counter() - started, warnings=warnings.lines)
    # First what a job does, then what it is compared with, then what the switches of the package would change.
    packed = LogProbEngine(model, budget, path="packed")
    runs: dict[str, Callable[[], Any]] = {"packed": lambda: packed.score_prefixed(call.prefixed)}
    expected: list[Any] = []

    def time_run(what: str, run: Callable[[], Any]) -> None:
        with step.guarded(what):
            _time_run(step, what, run, call, tell, expected)

    time_run("packed", runs["packed"])
    compiled = compiled_engine(model, PIECES, budget)
    layers = compiled_engine(model, WHOLE_LAYERS, budget)
    if not step.dry:  # on a CPU `check_exactness` compiles them, which takes a minute each
        time_run("packed, parts compiled: a long job", lambda: compiled.score_prefixed(call.prefixed))
        time_run("switch: whole layers compiled", lambda: layers.score_prefixed(call.prefixed))
    for what, engine in {"packed": packed, "parts compiled": compiled, "whole layers compiled": layers}.items():
        if engine is packed or not step.dry:
            with step.guarded(f"profile: {what}"):
                _measure_idle(step, what, engine, call)
    _time_others(step, model, shape, work, tell)
    time_run("switch: variable lengths", lambda: score_by(packed, model, call, varlen_row))
    with keys_in_a_block(64):
        time_run("switch: 64 keys in a block", lambda: score_by(packed, model, call, flex.flex_row))
    # Last, because a capture that fails may end all use of the device.
    for what, engine in {"packed": packed, "parts compiled": compiled, "whole layers compiled": layers}.items():
        if engine is packed or not step.dry:
            rows = CapturedRows()
            run = partial(score_by, engine, model, call, flex.flex_row, rows.run)
            time_run(f"switch: rows captured, {what}", run)
            step.tell(f"rows captured, {what}", graphs=rows.num_graphs)


def score_by(engine: LogProbEngine, model: Any, call: Call, kernel: Kernel, run_row: RunRow | None = None) -> Any:
    """Score a call on the packed path with this kernel of attention, or this way to run a row."""
    with engine.scoring(engine.compiles):
        return score_packed(model, call.prefixed, engine.find_tokens_per_batch(), kernel, run_row)


@contextlib.contextmanager
def keys_in_a_block(number: int) -> Iterator[None]:
    """Let flex attention compute blocks of so many keys."""
    before, flex.KEY_BLOCK = flex.KEY_BLOCK, number
    try:
        yield
    finally:
        flex.KEY_BLOCK = before


def _time_run(
    step: Step, what: str, run: Callable[[], Any], call: Call, tell: Callable[..., None], expected: list[Any]
) -> None:
    """Time calls after the first, and compare the log-probs with those of the first run that was timed."""
    results: list[Any] = []
    first = seconds_of(step, lambda: results.append(flat(run())))[0]
    if not expected:
        expected += results
    held = 0
    if not step.dry:
        held = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
    seconds = seconds_of(step, run)
    while not step.dry and len(seconds) < 3 and sum(seconds) < TIMED_SECONDS:
        seconds += seconds_of(step, run)
    peak = 0.0 if step.dry else (torch.cuda.max_memory_allocated() - held) / GIB
    figures = {"first_seconds": first, "peak_gib": peak, "graphs": graphs(), **differences(results[0], expected[0])}
    tell(what, min(seconds), call, **figures)


def _measure_idle(step: Step, what: str, engine: LogProbEngine, call: Call) -> None:
    """Tell which share of a call the device has nothing to do, and which kernels take the time.

    The profiler slows the host down, so the device's work is compared with a call without it.
    """
    wall = min(seconds_of(step, lambda: engine.score_prefixed(call.prefixed), 2))
    activities = [torch.profiler.ProfilerActivity.CPU]
    if not step.dry:
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=activities) as profile:
        profiled = seconds_of(step, lambda: engine.score_prefixed(call.prefixed))[0]
    events = profile.key_averages()
    key = "self_cpu_time_total" if step.dry else "self_device_time_total"
    file = f"profile_{step.name}_{what.replace(' ', '_')}.txt"
    (step.directory / file).write_text(events.table(sort_by=key, row_limit=25))
    busy = sum(getattr(event, key) for event in events if event.device_type.name != "CPU" or step.dry) / 1e6
    launches = sum(event.count for event in events if "LaunchKernel" in event.key)
    waits = sum(event.count for event in events if "Synchronize" in event.key)
    figures = {"wall_seconds": wall, "profiled_seconds": profiled, "busy_seconds": busy}
    step.tell(f"profile: {what}", **figures, idle_share=max(0.0, 1 - busy / wall), launches=launches, waits=waits)


def _time_others(step: Step, model: Any, shape: Shape, work: Workload, tell: Callable[..., None]) -> None:
    """Time the floor, the research loop and the cached path on one candidate."""
    hoisted = work.hoisted()
    call = Call([(hoisted.prefix_ids, hoisted.segments)], hoisted.useful_tokens, hoisted.completion_tokens)
    rows, width = (2, 16) if step.dry else shape.floor[-1]
    cached = LogProbEngine(model, path="cached")
    others: list[tuple[str, Callable[[], Any]]] = [
        ("floor: dense rows, the model's own modules", lambda: Floor(model, rows, width)(hoisted)),
        ("research loop, batches of 16", lambda: ReferenceLoop(model, 16)(work)),
        ("cached path", lambda: cached.score_prefixed(call.prefixed)),
    ]
    for what, run in others:
        with step.guarded(what):
            run()
            tell(what, min(seconds_of(step, run, 2)), call)


def measure_attention(step: Step) -> None:
    """Time one layer's attention on one full row of a job, in each way that it can be computed."""
    budget = 1024 if step.dry else 16_384
    for name in ("0.5b", "8b"):
        shape = SHAPES[name]
        work = make_workload(shape, 6 if step.dry else shape.num_anchors)
        call = make_call(work.hoisted(), budget)
        heads, kv_heads = shape.sizes["num_attention_heads"], shape.sizes["num_key_value_heads"]
        dims = shape.sizes["hidden_size"] // heads
        for what, kernel, dtype, arguments in (
            ("flex", flex.flex_row, torch.bfloat16, {}),
            ("variable lengths", varlen_row, torch.bfloat16, {}),
            ("flex, soft-cap", flex.flex_row, torch.bfloat16, {"softcap": 50.0}),
            ("flex", flex.flex_row, torch.float32, {}),
        ):
            states = [
                torch.randn(1, number, budget, dims, device=step.device, dtype=dtype)
                for number in (heads, kv_heads, kv_heads)
            ]
            _time_attention(step, f"{name}: {what}, {named(dtype)}", kernel, call, states, arguments)
            if kernel is flex.flex_row and dtype == torch.bfloat16 and not arguments:
                with keys_in_a_block(64):
                    _time_attention(step, f"{name}: {what}, 64 keys in a block", kernel, call, states, arguments)


def _time_attention(
    step: Step, what: str, kernel: Kernel, call: Call, states: Sequence[torch.Tensor], arguments: dict[str, Any]
) -> None:
    budget = states[0].shape[2]
    lengths = [(len(ids), [len(segment.ids) - 1 for segment in segments]) for ids, segments in call.prefixed]
    prefixes = [Prefix(length, max(own)) for length, own in lengths]
    row = PackedRow(pack(lengths, budget, even=False)[0], prefixes, kernel, "eager")
    row.fill_up(budget, BLOCK)
    layer = SimpleNamespace()
    with step.guarded(what), torch.no_grad(), flex.enough_graphs():
        first = seconds_of(step, lambda: kernel(row, layer, *states, None, arguments))[0]
        seconds = min(seconds_of(step, lambda: kernel(row, layer, *states, None, arguments), 1 if step.dry else 5))
        step.tell(what, seconds=seconds, first_seconds=first)


# ---------------------------------------------------------------- whole programs


def run_demo(step: Step) -> None:
    """Score the demo's pool and tune on its golden set, end to end."""
    out = str(step.directory / "demo")
    command = [sys.executable, str(ROOT / "recipes" / "demo.py"), "--output_dir", out]
    if step.dry:
        command = [sys.executable, "-m", "nuggets_trainer.cli", "score", "--model_name_or_path", "nuggets-demo/model"]
        command += ["--dataset_name", "nuggets-demo/pool", "--anchors", "nuggets-demo/anchors", "--score_dir", out]
        command += ["--pool_size", "12", "--top_k", "3", "--signal_check", "false"]
    _run_program(step, "end to end", command)


def run_tests(step: Step) -> None:
    """Run the tests that need a GPU; in a dry run most of them run on the CPU."""
    command = [sys.executable, "-m", "pytest", "-v", "-m", "gpu", "-p", "no:cacheprovider", str(ROOT / "tests/engine")]
    if importlib.util.find_spec("xdist") and not step.dry:
        # Most of the time is compilation. (A plugin for benchmarks warns beside xdist, and warnings are errors.)
        command += ["-n", "8", "-p", "no:benchmark"]
    _run_program(step, "pytest -m gpu", command)


def _run_program(step: Step, what: str, command: list[str]) -> None:
    log = step.directory / f"{step.name}.log"
    started = time.monotonic()
    limit = max(1.0, step.ends - started - SECONDS_TO_TELL)
    code: int | str
    with log.open("w") as file:
        environment = {**os.environ, "TOKENIZERS_PARALLELISM": "false"}
        if step.dry:
            environment["GPU_TESTS_ON"] = "cpu"
        try:
            ended = subprocess.run(
                command, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT, env=environment, timeout=limit
            )
            code = ended.returncode
        except subprocess.TimeoutExpired:  # the end of the log is a result
            code = f"stopped after {limit:.0f} s"
    last = log.read_text(errors="replace").splitlines()[-8:]
    step.tell(what, code=code, seconds=time.monotonic() - started, log=str(log), last_lines=last)


# ---------------------------------------------------------------- shared


class Warnings(logging.Handler):
    """Collects what the package warns of meanwhile."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the message."""
        self.lines.append(record.getMessage()[:250])

    def __enter__(self) -> Warnings:
        logging.getLogger("nuggets_trainer").addHandler(self)
        return self

    def __exit__(self, *_: object) -> None:
        logging.getLogger("nuggets_trainer").removeHandler(self)


def tiny_model(step: Step, family: str, dtype: torch.dtype, sizes: dict[str, Any]) -> Any:
    """Make a model of random weights that are large enough for contexts to change log-probs a lot."""
    torch.manual_seed(0)
    ids = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
    body = {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 3, "num_attention_heads": 4}
    common = {**ids, **body, "num_key_value_heads": 2, "vocab_size": 1024, "initializer_range": 0.08}
    config = getattr(transformers, f"{family}Config")(**{**common, "max_position_embeddings": 4096, **sizes})
    # Some versions of transformers take `sdpa` for Gemma 2, which ignores soft-caps.
    own = {"attn_implementation": "eager"} if family in ("Gemma2", "GptOss") else {}
    return transformers.AutoModelForCausalLM.from_config(config, **own).to(step.device, dtype).eval()


def random_prefixed(num_prefixes: int, num_segments: int, vocab_size: int = 1024) -> list[PrefixedSegments]:
    """Make candidates of 40 to 300 tokens before the same anchors of 8 to 200."""
    rng = np.random.default_rng(0)
    segments = []
    for length in rng.integers(8, 200, num_segments):
        ids = rng.integers(0, vocab_size, int(length)).tolist()
        segments.append(Segment(ids, int(rng.integers(1, len(ids)))))
    prefixes = [rng.integers(0, vocab_size, int(rng.integers(40, 300))).tolist() for _ in range(num_prefixes)]
    return [(prefix, segments) for prefix in prefixes]


def demo_texts(model: str, num_prefixes: int, num_segments: int) -> list[PrefixedSegments]:
    """Render anchors of the demo for a model, alone and behind candidates."""
    from nuggets_trainer.data.loading import load_rows  # here, because they need `datasets`
    from nuggets_trainer.data.pool import Pool
    from nuggets_trainer.prompts.nuggets import NuggetsTemplate
    from nuggets_trainer.prompts.shared_prefix import AnchorSet

    template = NuggetsTemplate(transformers.AutoTokenizer.from_pretrained(model))
    pool, rows = Pool(load_rows("nuggets-demo/pool")), Pool(load_rows("nuggets-demo/anchors"))
    anchor_rows = [rows[j] for j in range(num_segments)]
    segments = AnchorSet(template, anchor_rows, [None] * num_segments, max_length=None).segments
    prefixed: list[PrefixedSegments] = [([], segments)]
    for i in range(num_prefixes):
        ids = template.one_shot(pool[i], anchor_rows[0]).ids
        prefixed.append((ids[: -len(segments[0].ids)], segments))
    return prefixed


def make_call(work: Workload, num_tokens: int) -> Call:
    """Repeat a candidate at random lengths until a call of the engine is full."""
    rng = np.random.default_rng(0)
    prefixed: list[PrefixedSegments] = []
    own = sum(len(segment.ids) - 1 for segment in work.segments)
    tokens = 0
    while tokens < num_tokens:
        length = int(np.clip(rng.lognormal(4.9, 0.6), 30, 900))
        prefix = (work.prefix_ids * (length // len(work.prefix_ids) + 1))[:length]
        prefixed.append((prefix, work.segments))
        tokens += length + own
    return Call(prefixed, tokens, len(prefixed) * work.completion_tokens)


def compiled_engine(model: Any, names: tuple[str, ...], tokens_per_batch: int = 4096) -> LogProbEngine:
    """Return an engine on the packed path whose parts of these names are compiled."""
    engine = LogProbEngine(model, tokens_per_batch, path="packed")
    engine.compiles, engine.compiled_names = True, names
    return engine


def seconds_of(step: Step, run: Callable[[], Any], repeats: int = 1) -> list[float]:
    """Time runs, the device's work included."""
    found = []
    for _ in range(repeats):
        if not step.dry:
            torch.cuda.synchronize()
        started = time.perf_counter()
        run()
        if not step.dry:
            torch.cuda.synchronize()
        found.append(time.perf_counter() - started)
    return found


def graphs() -> int:
    """Return the number of graphs that torch has compiled in this process."""
    return int(counters["stats"]["unique_graphs"])


def flat(results: Sequence[Any]) -> Any:
    """Put all log-probs in one array."""
    return np.concatenate([np.asarray(result, dtype=np.float64) for result in results])


def differences(found: Any, expected: Any) -> dict[str, float]:
    """Return how far log-probs are from the expected ones, in nats per token."""
    difference = found - expected
    return {"max_difference": float(np.abs(difference).max()), "rms": float(np.sqrt((difference**2).mean()))}


def named(dtype: torch.dtype) -> str:
    """Return the name of a dtype."""
    return str(dtype).removeprefix("torch.")
