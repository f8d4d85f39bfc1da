"""AlpacaEval's judgments by the official package, in its two settings. Knows no endpoint and no model."""

from __future__ import annotations

import csv
import dataclasses
import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from nuggets_trainer.evaluation.answer_files import alpaca_outputs_path, read_alpaca_outputs
from nuggets_trainer.evaluation.intervals import Mean, from_standard_error
from nuggets_trainer.evaluation.judge import Endpoint, JudgeError
from nuggets_trainer.evaluation.mt_bench import file_name
from nuggets_trainer.evaluation.questions import ALPACA_EVAL_REPO, alpaca_eval_path, load_alpaca_eval

JUDGE_MODELS = {"v1": "gpt-4", "v2": "gpt-4-1106-preview"}  # the official ones
DIFFICULTIES = "df_gamed.csv"  # what the length-controlled win rate is fitted with, from the hub


def known_names() -> set[str]:
    """Return the generators of the official leaderboards, where the package is installed; else the two references."""
    names = {"text_davinci_003", "gpt4_1106_preview"}
    spec = importlib.util.find_spec("alpaca_eval")
    for folder in [] if spec is None else spec.submodule_search_locations or []:
        for path in Path(folder).glob("leaderboards/data_AlpacaEval*/*.csv"):
            with path.open(newline="", encoding="utf-8") as file:
                names |= {row[0] for row in list(csv.reader(file))[1:] if row}
    return names


def judge_alpaca_eval(
    output_dir: Path,
    name: str,
    *,
    setting: str,
    judge_model: str,
    endpoint: Endpoint,
    alpaca_eval_dir: str | None,
    num_questions: int | None = None,
) -> dict[str, Any]:
    """Have a run's answers compared with the reference's by the official package.

    Args:
        output_dir: of all runs.
        name: of the run.
        setting: `v1` (against text-davinci-003, plain win rate: the paper's) or `v2` (against gpt-4-1106-preview,
            length-controlled).
        judge_model: its name at the endpoint.
        endpoint: where it is asked.
        alpaca_eval_dir: of the official files; None for the hub.
        num_questions: judge that many alone, as a trial.

    Returns:
        `metrics` of the official package, `judgments`, `unparsable`, `rejected`, `asked`, and `judge`, `setting`,
        `name`; also in `result.json` of the directory that `judged_path` names, beside the official
        `leaderboard.csv` and `annotations.json`.

    Raises:
        ImportError: without the package.
        FileNotFoundError, ValueError: if the answers are not there, or not those to the official questions.
        JudgeError: if judging stopped; what was answered is kept.
    """
    if importlib.util.find_spec("alpaca_eval") is None:
        raise ImportError("AlpacaEval is judged by its official package: `pip install nuggets_trainer[eval]`.")
    outputs = alpaca_outputs_path(output_dir, name)
    read_alpaca_outputs(outputs, load_alpaca_eval(alpaca_eval_dir, setting), name)
    if setting == "v2":
        _check_difficulties()
    directory = judged_path(output_dir, name, setting, judge_model, num_questions)
    directory.mkdir(parents=True, exist_ok=True)
    job = {
        "name": name,
        "setting": setting,
        "model_outputs": str(outputs.resolve()),
        "reference_outputs": str(alpaca_eval_path(alpaca_eval_dir, setting).resolve()),
        "judge_model": judge_model,
        "num_questions": num_questions,
        "concurrency": endpoint.concurrency,
        "client": {
            "directory": str((output_dir / "replies").resolve()),
            "endpoint": json.dumps(dataclasses.asdict(endpoint)),
        },
    }
    job_path = directory.resolve() / "job.json"
    job_path.write_text(json.dumps(job, indent=1))
    result = _run_official(job_path)
    result |= {"judge": judge_model, "setting": setting, "name": name}
    job_path.with_name("result.json").write_text(json.dumps(result, indent=1))
    return result


def judged_path(output_dir: Path, name: str, setting: str, judge_model: str, num_questions: int | None = None) -> Path:
    """Where the judgments of a run are."""
    trial = "" if num_questions is None else f"-trial{num_questions}"
    return output_dir / name / "alpaca_eval" / f"{setting}-{file_name(judge_model)}{trial}"


def win_rate(result: dict[str, Any]) -> Mean:
    """Give the setting's win rate in percent, with the official standard error."""
    metrics = result["metrics"]
    value, error = (
        ("length_controlled_winrate", "lc_standard_error")
        if result["setting"] == "v2"
        else ("win_rate", "standard_error")
    )
    return from_standard_error(metrics[value], metrics[error], int(metrics["n_total"]))


def _run_official(job_path: Path) -> dict[str, Any]:
    result_path = job_path.with_name("result.json")
    result_path.unlink(missing_ok=True)
    command = [sys.executable, "-m", f"{__package__}.alpaca_judge", str(job_path)]
    code = subprocess.run(command, check=False).returncode
    if not result_path.is_file():
        raise RuntimeError(f"The official alpaca_eval package ended with code {code}; its own output above says why.")
    result: dict[str, Any] = json.loads(result_path.read_text())
    if "error" in result:
        raise JudgeError(result["error"])
    return result


def _check_difficulties() -> None:
    """Find before anything is paid what the package downloads after all is."""
    from huggingface_hub import hf_hub_download

    try:
        hf_hub_download(ALPACA_EVAL_REPO, DIFFICULTIES, repo_type="dataset")
    except OSError as error:
        raise FileNotFoundError(
            f"The length-controlled win rate is fitted with {DIFFICULTIES} of {ALPACA_EVAL_REPO}, which cannot be had "
            f"from the hub ({type(error).__name__}). Where there is a network: `hf download {ALPACA_EVAL_REPO} "
            f"{DIFFICULTIES} --repo-type dataset`, and take the hub's cache along; or judge with "
            "`alpaca_eval_setting=v1`."
        ) from error
