"""A newcomer's directory: a clone of the repository, with the files that the pages expect.

Commands and Python blocks run there as they are written, with these changes:

- Local directories with the embedded demo's model and rows have the hub names that the pages use. transformers and
  datasets take a local directory before the hub. The demo has only a part of its rows.
- `APPENDED` adds options that make a job small and keep it on the CPU, and `SMALLER` replaces large numbers.
- `NOT_RUN` lists the commands that cannot run here, each with its reason.
"""

from __future__ import annotations

import ast
import builtins
import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import trl
import yaml

from nuggets_trainer import load_rows
from nuggets_trainer.prompts.trl_columns import alpaca_to_trl
from tests.support import documented
from tests.support.documented import Block, Command
from tests.support.forked import stand_ins
from tests.support.launch import BIN, ROOT, run

QWEN = ("Qwen/Qwen3-0.6B-Base", "Qwen/Qwen3-0.6B", "Qwen/Qwen3-4B-Base", "Qwen/Qwen3-8B-Base")
MODELS = (*QWEN, "huggyllama/llama-7b")
ROWS = ("yahma/alpaca-cleaned", "vicgalle/alpaca-gpt4")
WITH_TEXT = "tatsu-lab/alpaca"  # has a column `text` beside Alpaca's columns
EVERY = 15  # of the demo's 1,836 rows

CPU = "--use_cpu true --bf16 false --dtype float32"
TRAINING = f"{CPU} --max_steps 2 --per_device_train_batch_size 4"
COMPARING = "--num_seeds 1 --num_resamples 50 --arms golden random"
APPENDED = {
    "nuggets plan": "--measure_seconds 0.1",
    "nuggets train": TRAINING,
    "nuggets compare": f"{TRAINING} {COMPARING}",
    "recipes/compare.py": f"{TRAINING} {COMPARING}",
    "recipes/control.py": TRAINING,
    "recipes/train.py": TRAINING,
}
SMALLER = {
    r"--num_processes \d+": "--num_processes 2",
    r"--num_rows \d+": "--num_rows 12",
    r"top_k([ =])(500|100000)\b": r"top_k\g<1>50",  # of some hundred rows
    r"threshold=0\.8\b": "threshold=0.2",  # no row of the stand-ins reaches the paper's threshold
}
OF_STAND_INS = {
    # They have few rows, and none of them reaches the paper's thresholds.
    r"recipes/train\.py --config configs/(paper/)?alpaca_": "--threshold 0.2 --num_anchors 20",
    # The demo's tokenizer has no token of Qwen's chat template.
    r"--config (configs/)?qwen3_lora": "--eos_token '</s>'",
    # In a hundred rows, what a condition keeps is a matter of luck.
    r"--require_recall 0\.95": "--require_recall 0.1",
}
RUN = {
    "nuggets",
    "nuggets configs",
    "nuggets diff",
    "nuggets inspect",
    "nuggets report",
    "nuggets score",
    "nuggets select",
}
RUN |= {"recipes/follows.py", "shuf", "source", *APPENDED}
# Patterns of commands and of statements of Python blocks. The first pattern that matches counts.
NOT_RUN = {
    r"^make demo": "runs recipes/demo.py, as test_demo.py does; as it is in the test of a fresh clone",
    r"^make setup": "makes an environment with torch: in the test of a fresh clone",
    r"^make docs": "builds the site, as test_docs.py does",
    r"^make test": "would run itself; .ci/run calls it, which is tested",
    r"^make lint": ".ci/run calls it, which is tested",
    r"^make package": "builds a wheel, as test_packaging.py does; .ci/run calls it",
    r"^python -m pytest": "would run a part of the tests",
    r"^bash .ci/run": "would run itself",
    r"^pip install": "takes packages from an index",
    r"^uv run": "makes an environment from an index",
    r"^hf jobs": "runs on the hub's machines",
    r"^docker": "needs Docker",
    r"^sbatch": "needs Slurm: test_parts.py runs the files without it",
    r"^dstack": "needs dstack and machines; test_parts.py reads the file",
    r"^curl": "takes a file of another project's repository",
    r"^vllm serve": "needs vLLM and a GPU",
    r"^transformers serve": "a server that does not end: started by test_evaluate.py",
    r"--accelerate_config fsdp2": "needs GPUs; FSDP2 is run on CPUs by test_sharded.py",
    r"/(fsdp2|zero2|zero3)\.yaml": "needs GPUs, or DeepSpeed; FSDP2 is run on CPUs by test_sharded.py",
    r"/ddp_multi_node\.yaml": "needs several machines",
    r"s3://": "needs an S3 server; stores behind URLs are run by test_files.py and test_store.py",
    r"load_in_4bit": "needs bitsandbytes: run by test_scorer_model.py and test_modes.py",
    r"--decontaminate alpaca_eval": "the official questions are on the hub: run by test_questions.py",
    r"recipes/bench/gpu\.py": "needs a GPU: test_gpu_bench.py runs every step on a CPU",
    r"^nuggets evaluate": "the official questions are on the hub: run by test_evaluate.py",
    r"recipes/evaluate\.py generate": "the official questions are on the hub: run by test_evaluate.py",
    r"recipes/evaluate\.py": "needs a judge and official files: run by test_evaluate.py",
    r"\bray\b": "needs Ray: run by tests/batches/test_ray.py",
    r"scored\.write_parquet": "needs Ray: run by tests/batches/test_ray.py",
    r"push_to_hub\(": "uploads: run by test_publish.py, against a stand-in for the hub",
    r"resume_from_checkpoint=True": "needs a job that was killed: run by test_callback.py",
}


def clone(place: Path) -> Path:
    """Copy the files that git tracks from the working tree; without git, all files that are not build products."""
    root = place / "nuggets_trainer"
    if not (ROOT / ".git").exists():
        products = (".venv", "build", "dist", "outputs", "*.egg-info", "__pycache__", ".*cache")
        return Path(shutil.copytree(ROOT, root, ignore=shutil.ignore_patterns(*products), symlinks=True))
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).exists():  # not removed since
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, root / name, follow_symlinks=False)
    return root


def furnish(root: Path) -> None:
    """Shorten the demo, and put model and rows under the names that the pages use."""
    demo = root / "nuggets_trainer" / "demo"
    other_rows = _read(demo / "pool.jsonl")[1::EVERY]
    for name, every in (("pool", EVERY), ("anchors", 3), ("heldout", EVERY)):
        lines = (demo / f"{name}.jsonl").read_text().splitlines(keepends=True)
        (demo / f"{name}.jsonl").write_text("".join(lines[::every]))
        shutil.copy2(demo / f"{name}.jsonl", root)
    for name in MODELS:
        shutil.copytree(demo / "model", root / name)
    rows = _read(demo / "pool.jsonl")
    _write(root / "pool.jsonl", [{**row, "question": row["instruction"], "answer": row["output"]} for row in rows])
    for name in ("math", "chat"):
        shutil.copy2(demo / "anchors.jsonl", root / f"{name}.jsonl")
    for name in ROWS:
        _write(root / name / "train.jsonl", rows)
    with_text = [{**row, "text": f"{row['instruction']} {row['output']}"} for row in rows]
    _write(root / WITH_TEXT / "train.jsonl", with_text)
    _write(root / "dialogs.jsonl", [{"turns": _dialog(row), "rules": "Be brief."} for row in rows])
    _write_other_scores(root, rows)
    _write_gsm8k(root / "openai" / "gsm8k", other_rows)


def _read(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def _write(file: Path, rows: list[dict[str, Any]]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(f"{json.dumps(row)}\n" for row in rows))


def _dialog(row: dict[str, Any]) -> list[dict[str, str]]:
    """Return a row as a conversation, with the names of columns and roles that docs/guides/your_data.md has."""
    return [
        {"speaker": "customer", "utterance": row["instruction"]},
        {"speaker": "agent", "utterance": row["output"]},
    ]


def _write_other_scores(root: Path, rows: list[dict[str, Any]]) -> None:
    """Write scores of other programs, for docs/guides/does_it_pay.md: beside the rows, and by their places."""
    _write(root / "scored.jsonl", [{**row, "wana": {"scores": {"ifd": place / 7}}} for place, row in enumerate(rows)])
    places = list(range(len(rows)))
    ppl = datasets.Dataset.from_dict({"index": places, "perplexity": [9 + place % 50 for place in places]})
    ppl.to_parquet(root / "ppl.parquet")


def _write_gsm8k(place: Path, rows: list[dict[str, Any]]) -> None:
    """Write rows with the columns, the configuration and the splits of GSM8K."""
    questions = [{"question": row["instruction"], "answer": row["output"]} for row in rows]
    files = []
    for split in ("train", "test"):
        _write(place / f"{split}.jsonl", questions)
        files.append({"split": split, "path": f"{split}.jsonl"})
    card = yaml.safe_dump({"configs": [{"config_name": "main", "data_files": files}]})
    (place / "README.md").write_text(f"---\n{card}---\n")


def why_not(text: str) -> str | None:
    """Return the reason why a command or a statement is not run, or None if it is run."""
    return next((reason for pattern, reason in NOT_RUN.items() if re.search(pattern, text)), None)


def smaller(text: str) -> str:
    """Replace the large numbers of a command or a block."""
    for pattern, replacement in SMALLER.items():
        text = re.sub(pattern, replacement, text)
    return text


def execute(command: Command, root: Path) -> str:
    """Run a command as it is written, check that it wrote its files, and return its output.

    Raises:
        AssertionError: if the program has no entry here, if it fails, or if a file is missing.
    """
    parsed = documented.parse(command)
    programs = [program for program, _ in parsed]
    label = f"{command.where}: `{command.text}`"
    assert set(programs) <= RUN, f"{label} has no entry in tests/support/newcomer.py"
    appended = [APPENDED.get(programs[-1], "")]
    appended += [options for pattern, options in OF_STAND_INS.items() if re.search(pattern, command.bare)]
    text = " ".join([smaller(command.bare), *appended])
    folders = [stand_ins() or BIN, BIN, os.environ["PATH"]]
    paths = {"PATH": os.pathsep.join(map(str, folders)), "PYTHONPATH": str(root)}
    output = run(["bash", "-euo", "pipefail", "-c", text], cwd=root, context=label, **paths)
    for program, options in parsed:
        for pattern in leaves(program, options):
            assert list(root.glob(pattern)), f"{label} left no {pattern}\n{output[-2000:]}"
    return output


def leaves(program: str, options: Any) -> list[str]:
    """Return patterns of the files that a program writes."""
    groups = options if isinstance(options, tuple) else (options,)
    given = {name: value for group in groups if hasattr(group, "__dict__") for name, value in vars(group).items()}
    if program in ("nuggets train", "recipes/train.py"):
        return [f"{given['output_dir']}/{name}" for name in ("*model.safetensors", "nuggets_selection.json")]
    if program == "recipes/control.py":
        return [f"{given['output_dir']}/*model.safetensors"]
    if program in ("nuggets compare", "recipes/compare.py"):
        stem = "compare_quick" if given["quick"] else "compare"
        return [f"{given['output_dir']}/{stem}.{kind}" for kind in ("json", "md", "svg")]
    if program == "nuggets score" and given["shard"] is not None:
        return [f"{given['score_dir']}/*/parts/*.parquet"]
    if program == "nuggets score":
        return [f"{given['score_dir']}/{name}" for name in ("scores.parquet", "report.html")]
    if program == "nuggets select":
        return [given["output_file"]] if given["output_file"] else []
    if program == "nuggets report":
        return [f"{options[1] or options[0]}/report.html"]
    return []


# Python blocks


def plain_trainer() -> Any:
    """Return a plain `SFTTrainer`, for the callback."""
    rows = alpaca_to_trl(load_rows("pool.jsonl"), "plain")
    return trl.SFTTrainer(MODELS[0], SmallSFTConfig("out"), train_dataset=rows)


# Names that a block expects. A name that an earlier block of the page has made takes precedence.
GIVEN: dict[str, Callable[[], Any]] = {
    "trainer": plain_trainer,
    "your_trainer": plain_trainer,
    "pool": lambda: load_rows("pool.jsonl"),
}


class SmallSFTConfig(trl.SFTConfig):  # type: ignore[misc]
    """TRL's SFTConfig with other defaults: small, and on the CPU. Values that a block sets are kept."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        small = {"max_steps": 2, "per_device_train_batch_size": 4, "use_cpu": True, "bf16": False}
        super().__init__(*args, **{**small, **kwargs})


def execute_python(block: Block, names: dict[str, Any]) -> None:
    """Run a block in the working directory. `names` holds the existing names, and receives the new ones."""
    tree = ast.parse(smaller(block.text), block.where)
    tree.body = [statement for statement in tree.body if why_not(ast.unparse(statement)) is None]
    nodes = [node for node in ast.walk(tree) if isinstance(node, ast.Name)]
    imports = [node for node in ast.walk(tree) if isinstance(node, (ast.Import, ast.ImportFrom))]
    made = {node.id for node in nodes if isinstance(node.ctx, ast.Store)}
    made |= {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}
    made |= {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    made |= {alias.asname or alias.name.split(".")[0] for node in imports for alias in node.names}
    for name in sorted({node.id for node in nodes} - made - set(names) - set(vars(builtins))):
        assert name in GIVEN, f"{block.where}: `{name}` has no entry in tests/support/newcomer.py"
        names[name] = GIVEN[name]()
    exec(compile(tree, block.where, "exec"), names)
