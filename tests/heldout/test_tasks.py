"""Tasks of lm-evaluation-harness from a local folder, on the demo's model."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest

from nuggets_trainer.demo import demo_path
from nuggets_trainer.heldout.tasks import HarnessTasks, check_task_options
from tests.support.harness_tasks import write_tasks

needs_lm_eval = pytest.mark.skipif(
    importlib.util.find_spec("lm_eval") is None, reason="needs `pip install nuggets_trainer[lm-eval]`"
)


@needs_lm_eval
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of the package
def test_a_local_folder_of_tasks_measures_a_model(tmp_path, monkeypatch, capfd):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    model, tokenizer = (kind.from_pretrained(demo_path("model")) for kind in (AutoModelForCausalLM, AutoTokenizer))
    model.train()
    folder = write_tasks(tmp_path)
    tasks = HarnessTasks(["tiny_choice", "tiny_answer"], {"include_path": folder, "apply_chat_template": True})
    capfd.readouterr()
    found = tasks.measure(model, tokenizer)
    assert found.keys() == {"tiny_choice acc", "tiny_choice acc_norm", "tiny_answer exact_match"}
    assert np.mean(found["tiny_choice acc"]) > 0.8 and set(found["tiny_answer exact_match"]) <= {0.0, 1.0}
    assert sum(found["tiny_answer exact_match"]) >= 3  # the demo's model knows half of the answers
    assert tasks.measure(model, tokenizer) == found and model.training
    assert capfd.readouterr().err == ""
    few = HarnessTasks(["tiny_choice"], {"include_path": folder, "limit": 2})
    assert few.measure(model, tokenizer)["tiny_choice acc"] == [1.0, 1.0]
    assert few.key["tasks"]["tiny_choice"] == tasks.key["tasks"]["tiny_choice"] and few.key != tasks.key
    write_tasks(tmp_path, num_docs=7)
    again = HarnessTasks(["tiny_choice"], {"include_path": folder, "limit": 2})
    assert again.key["tasks"] != few.key["tasks"]  # other documents
    with pytest.raises(ValueError, match="`lm_eval_tasks`: no_such_task cannot be loaded: .*not a registered task"):
        HarnessTasks(["no_such_task"], {"include_path": folder})


@needs_lm_eval
@pytest.mark.filterwarnings("ignore")  # of the package
def test_each_model_gets_the_same_examples(tmp_path, monkeypatch):
    """The package draws examples with one state of random numbers for all calls."""
    from lm_eval.models.huggingface import HFLM
    from transformers import AutoModelForCausalLM, AutoTokenizer

    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    prompts = []

    def answer(self, requests, **kwargs):
        prompts.append([request.args for request in requests])
        return [(0.0, True)] * len(requests)

    monkeypatch.setattr(HFLM, "loglikelihood", answer)
    model, tokenizer = (kind.from_pretrained(demo_path("model")) for kind in (AutoModelForCausalLM, AutoTokenizer))
    tasks = HarnessTasks(["tiny_choice"], {"include_path": write_tasks(tmp_path), "num_fewshot": 2})
    tasks.measure(model, tokenizer)
    tasks.measure(model, tokenizer)
    assert prompts[0] == prompts[1] and prompts[0][0][0].count("\n\n") == 2


@pytest.mark.parametrize(
    ("tasks", "options", "error", "message"),
    [
        (None, {"limit": 3}, ValueError, "`lm_eval_args` needs `lm_eval_tasks`"),
        (["a"], {"limits": 3}, ValueError, "must have keys among include_path, limit, .*, got 'limits'"),
        (["a"], {"limit": "3"}, TypeError, "`limit` must be of type int or float, got '3'"),
        (["a"], {"batch_size": True}, TypeError, "`batch_size` must be of type int, got True"),
        (["a"], None, ImportError, r"Run `pip install nuggets_trainer\[lm-eval\]`"),
    ],
)
def test_wrong_options_of_tasks_are_refused(tasks, options, error, message, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(error, match=message):
        check_task_options(tasks, options)
    check_task_options(None, None)
