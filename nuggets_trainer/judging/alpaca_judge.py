"""The official `alpaca_eval` package in a process of its own, with our judge as its OpenAI client.

`alpaca_eval.judge_alpaca_eval` starts it as `python -m nuggets_trainer.judging.alpaca_judge JOB.json`. The package
makes the prompts, reads the replies and computes the win rates. Its requests go through `client`, which its own
`client_configs` name. Its caches are off, because the journal has every reply.
"""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
import json
import logging
import math
import os
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nuggets_trainer.judging.judge import Endpoint, Judge, JudgeError, Reply
from nuggets_trainer.wording import counted

ANNOTATORS = {"v1": "alpaca_eval_gpt4", "v2": "weighted_alpaca_eval_gpt4_turbo"}
METRICS = {"v1": "get_winrate", "v2": "get_length_controlled_winrate"}
REJECTED = "rejected"  # id of the reply that stands for a rejected request
SORT_BY = {"v1": "win_rate", "v2": "length_controlled_winrate"}


class Client:
    """The part of `openai.OpenAI` that `alpaca_eval` uses: `client.chat.completions.create`."""

    def __init__(self, judge: Judge) -> None:
        self.judge = judge
        self.chat = self.completions = self

    def create(self, **request: Any) -> Any:
        """Return the reply as the `openai` package would make it, a new object each time."""
        from openai.types.chat import ChatCompletion

        reply = self.judge.ask(request) or _empty_reply(request)
        lacks_log_probs = reply["choices"][0].get("logprobs") is None and reply["id"] != REJECTED
        if request.get("logprobs") and lacks_log_probs:
            raise JudgeError(
                "AlpacaEval 2 reads the judge's preference from log-probs, but this endpoint gives none. Judge with "
                "`alpaca_eval_setting=v1`, or use a server that gives them (OpenAI, vLLM)."
            )
        usage = reply.get("usage") or {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
        return ChatCompletion.construct(**{**reply, "usage": usage})


@functools.cache
def client(directory: str, endpoint: str) -> Client:
    """Return the one client of this process; `alpaca_eval` asks for one before each request.

    Args:
        directory: directory of the journal.
        endpoint: fields of `Endpoint` as JSON.
    """
    return Client(Judge(Endpoint(**json.loads(endpoint)), directory))


def judge_job(job_file: str) -> int:
    """Judge as a job file says, write the result or the error beside it, and return the exit code."""
    path = Path(job_file)
    job = json.loads(path.read_text(encoding="utf-8"))
    try:
        result = run_alpaca_eval(job, path.parent)
    except (JudgeError, ValueError) as error:
        result = {"error": str(error)}
    path.with_name("result.json").write_text(json.dumps(result, indent=1))
    return int("error" in result)


def run_alpaca_eval(job: dict[str, Any], directory: Path) -> dict[str, Any]:
    """Run the official package; return its metrics, and how many judgments could not be read."""
    setting = job["setting"]
    os.environ["IS_ALPACA_EVAL_2"] = str(setting == "v2")
    provide_pkg_resources()
    import alpaca_eval

    logging.getLogger().setLevel(logging.WARNING)  # the package would log a line for each request
    leaderboard, annotations = alpaca_eval.evaluate(
        model_outputs=job["model_outputs"],
        reference_outputs=job["reference_outputs"],
        annotators_config=str(write_annotator(job, directory)),
        output_path=str(directory),
        precomputed_leaderboard=None,
        is_return_instead_of_print=True,
        max_instances=job["num_questions"],
        metric_kwargs={"save_weights_dir": str(directory)} if setting == "v2" else {},
        caching_path=None,
        fn_metric=functools.partial(_checked_metric, getattr(alpaca_eval.metrics, METRICS[setting])),
        sort_by=SORT_BY[setting],
    )
    metrics = json.loads(leaderboard.loc[job["name"]].to_json(double_precision=15))
    our_judge = client(**job["client"]).judge
    return {
        "metrics": metrics,
        "judgments": len(annotations),
        "unparsable": len(annotations) - int(metrics["n_total"]),
        "rejected": len(our_judge.rejected),
        "asked": our_judge.asked,
    }


def _checked_metric(
    metric: Callable[..., dict[str, Any]], annotations: list[dict[str, Any]], **options: Any
) -> dict[str, Any]:
    """Compute the official metric; the package fails on judgments without a single preference.

    Raises:
        JudgeError: if no judgment could be read.
    """
    if all(row["preference"] is None or math.isnan(row["preference"]) for row in annotations):
        raise JudgeError(
            f"None of {counted(len(annotations), 'judgment')} could be read: this judge does not keep to the format, "
            "so there is no win rate. Use another judge."
        )
    return metric(annotations, **options)


def write_annotator(job: dict[str, Any], directory: Path) -> Path:
    """Write the official annotator's config with the name and the client of our judge; return its directory."""
    import yaml
    from alpaca_eval import constants

    name = ANNOTATORS[job["setting"]]
    official = yaml.safe_load((constants.EVALUATORS_CONFIG_DIR / name / "configs.yaml").read_text(encoding="utf-8"))[
        name
    ]
    clients = directory / "clients.yaml"
    used = {"client_class": f"{__package__}.alpaca_judge.client", **job["client"]}
    clients.write_text(yaml.safe_dump({"default": [used]}))
    official["prompt_template"] = str(constants.EVALUATORS_CONFIG_DIR / official["prompt_template"])
    official["completions_kwargs"] |= {
        "model_name": job["judge_model"],
        "requires_chatml": True,
        "client_config_path": str(clients),
        "num_procs": job["concurrency"],
        "price_per_token": 0,  # the journal counts the cost, with the endpoint's own prices
    }
    config = directory / name / "configs.yaml"
    config.parent.mkdir(exist_ok=True)
    config.write_text(yaml.safe_dump({name: official}))
    return config.parent


def provide_pkg_resources() -> None:
    """Provide what `alpaca_eval` 0.6 imports from `pkg_resources`, a module that setuptools 82 no longer has.

    The package needs a package's version and a comparison of versions.
    """
    if importlib.util.find_spec("pkg_resources") is None:
        from packaging.version import parse

        module = types.ModuleType("pkg_resources")
        vars(module).update(get_distribution=importlib.metadata.distribution, parse_version=parse)
        sys.modules["pkg_resources"] = module


def _empty_reply(request: dict[str, Any]) -> Reply:
    """Make the reply to a rejected request; the official parser finds no preference in it."""
    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": ""}, "logprobs": None}
    return {
        "id": REJECTED,
        "object": "chat.completion",
        "created": 0,
        "model": request["model"],
        "choices": [choice],
    }


if __name__ == "__main__":
    sys.exit(judge_job(sys.argv[1]))
