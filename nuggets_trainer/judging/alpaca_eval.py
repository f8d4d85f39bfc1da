"""AlpacaEval's judgments, made by the official package in its two settings."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from nuggets_trainer.evaluation.answer_files import alpaca_outputs_path, read_alpaca_outputs
from nuggets_trainer.evaluation.questions import ALPACA_EVAL_REPO, alpaca_eval_path, load_alpaca_eval
from nuggets_trainer.judging.intervals import Mean, from_standard_error
from nuggets_trainer.judging.judge import Endpoint, JudgeError
from nuggets_trainer.judging.judgments import describe_unparsable, file_name

JUDGE_MODELS = {"v1": "gpt-4", "v2": "gpt-4-1106-preview"}  # the official judges
DIFFICULTIES = "df_gamed.csv"  # data on the hub that the length-controlled win rate is fitted with


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
    """Have the official package compare a run's answers with those of the reference.

    Args:
        output_dir: directory of all runs.
        name: name of the run.
        setting: `v1` (against text-davinci-003, plain win rate, as in the paper) or `v2` (against gpt-4-1106-preview,
            length-controlled win rate).
        judge_model: name of the judge at the endpoint.
        endpoint: endpoint of the judge.
        alpaca_eval_dir: directory of the official files; None for the hub.
        num_questions: number of questions to judge, as a trial; None for all.

    Returns:
        `metrics` of the official package, `judgments`, `unparsable`, `rejected`, `asked`, and `judge`, `setting`,
        `name`. The same is in `result.json` of the directory that `judged_path` gives, beside the official
        `leaderboard.csv` and `annotations.json`.

    Raises:
        ImportError: if the package is not installed.
        FileNotFoundError: if there are no answers.
        ValueError: if the answers are not those to the official questions.
        JudgeError: if judging stopped; all replies are kept.
    """
    if importlib.util.find_spec("alpaca_eval") is None:
        raise ImportError("AlpacaEval needs its official package. Run `pip install nuggets_trainer[eval]`.")
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
    """Return the directory of the judgments of a run."""
    trial = "" if num_questions is None else f"-trial{num_questions}"
    return output_dir / name / "alpaca_eval" / f"{setting}-{file_name(judge_model)}{trial}"


def win_rate(result: dict[str, Any]) -> Mean:
    """Return the win rate of the setting in percent, with the official standard error."""
    metrics = result["metrics"]
    value, error = "win_rate", "standard_error"
    if result["setting"] == "v2":
        value, error = "length_controlled_winrate", "lc_standard_error"
    return from_standard_error(metrics[value], metrics[error], int(metrics["n_total"]))


def describe_result(result: dict[str, Any]) -> str:
    """Return the win rate of a run and the number of judgments that could not be read, on two lines."""
    setting = result["setting"]
    kind = "length-controlled win rate" if setting == "v2" else "win rate"
    readable = describe_unparsable(result["unparsable"], result["judgments"], result["rejected"])
    return f"{result['name']}, AlpacaEval {setting}: {kind} {win_rate(result)}\n{readable}"


def _run_official(job_path: Path) -> dict[str, Any]:
    result_path = job_path.with_name("result.json")
    result_path.unlink(missing_ok=True)
    command = [sys.executable, "-m", f"{__package__}.alpaca_judge", str(job_path)]
    code = subprocess.run(command, check=False).returncode
    if not result_path.is_file():
        raise RuntimeError(f"The official alpaca_eval package ended with code {code}. Its output above says why.")
    result: dict[str, Any] = json.loads(result_path.read_text(encoding="utf-8"))
    if "error" in result:
        raise JudgeError(result["error"])
    return result


def _check_difficulties() -> None:
    """Download the difficulties before any paid request: the package would only fetch them at the end.

    Raises:
        FileNotFoundError: if they cannot be downloaded.
    """
    from huggingface_hub import hf_hub_download

    try:
        hf_hub_download(ALPACA_EVAL_REPO, DIFFICULTIES, repo_type="dataset")
    except OSError as error:
        raise FileNotFoundError(
            f"The length-controlled win rate needs {DIFFICULTIES} of {ALPACA_EVAL_REPO}, which cannot be downloaded "
            f"from the hub ({type(error).__name__}). Run `hf download {ALPACA_EVAL_REPO} {DIFFICULTIES} --repo-type "
            "dataset` on a machine with a network and copy the hub's cache, or judge with `alpaca_eval_setting=v1`."
        ) from error
