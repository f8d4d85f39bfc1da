"""Tasks of lm-evaluation-harness: one value for each document, of a model that is in memory.

The package `lm_eval` is an extra: `pip install nuggets_trainer[lm-eval]`. Names of tasks and of options are its own.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import importlib.util
import inspect
import io
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

# Options that are passed on, with their types. `limit` is a number of documents, or a share of them below 1.
TASK_OPTIONS: dict[str, tuple[type, ...]] = {
    "include_path": (str, list),
    "limit": (int, float),
    "num_fewshot": (int,),
    "apply_chat_template": (bool,),
    "fewshot_as_multiturn": (bool,),
    "system_instruction": (str,),
    "batch_size": (int,),
}
BATCH = 16  # requests in one forward pass; the default of the package is 1
FEWSHOT_SEED = 1234  # the package's own default


def check_task_options(tasks: Sequence[str] | None, options: Mapping[str, Any] | None) -> None:
    """Refuse options that cannot be passed on, before anything is loaded.

    Raises:
        ImportError: if there are tasks and the package is not installed.
        TypeError, ValueError: if an option is unknown or of another type.
    """
    if options and not tasks:
        raise ValueError("`lm_eval_args` needs `lm_eval_tasks`: it says how tasks are run.")
    for name, value in (options or {}).items():
        if name not in TASK_OPTIONS:
            raise ValueError(f"`lm_eval_args` must have keys among {', '.join(TASK_OPTIONS)}, got {name!r}.")
        is_truth = isinstance(value, bool)
        if not isinstance(value, TASK_OPTIONS[name]) or (is_truth and bool not in TASK_OPTIONS[name]):
            expected = " or ".join(kind.__name__ for kind in TASK_OPTIONS[name])
            raise TypeError(f"`lm_eval_args`: `{name}` must be of type {expected}, got {value!r}.")
    if tasks and importlib.util.find_spec("lm_eval") is None:
        raise ImportError(
            "`lm_eval_tasks` needs lm-evaluation-harness, which is not installed. Run `pip install "
            "nuggets_trainer[lm-eval]`."
        )


class HarnessTasks:
    """Loaded tasks, which measure one model after another.

    Args:
        tasks: names of tasks or groups, of the package or in `include_path`; or paths of YAML files.
        options: values of `TASK_OPTIONS`.

    Attributes:
        key: what decides the values of a model: the package's version, the options, and a hash of each task with its
            documents.

    Raises:
        ValueError: if there is no such task, or if its documents cannot be loaded.
    """

    def __init__(self, tasks: Sequence[str], options: Mapping[str, Any]) -> None:
        import lm_eval

        self._options = dict(options)
        self._loaded = _load(tasks, self._options.pop("include_path", None))
        fewshot = self._options.pop("num_fewshot", None)
        hashes = {}
        for name, task in self._loaded["tasks"].items():
            _set_fewshot(task, fewshot)
            hashes[name] = _hash_of(task)
        self.key = {"version": lm_eval.__version__, "options": self._options, "tasks": hashes}

    def measure(self, model: Any, tokenizer: Any) -> dict[str, list[float]]:
        """Measure a model; each gets the same examples in few-shot prompts.

        Args:
            model: model that answers.
            tokenizer: tokenizer of the model.

        Returns:
            Values of the documents by the name of the task and the metric, such as `arc_easy acc`. A metric that is
            no mean over documents, such as a perplexity, has one value.
        """
        from lm_eval.evaluator import evaluate
        from lm_eval.models.huggingface import HFLM

        options = dict(self._options)
        was_training = model.training
        for task in self._loaded["tasks"].values():
            task.set_fewshot_seed(seed=FEWSHOT_SEED)  # the draw goes on from model to model otherwise
        with _quiet():
            # The package gives the tokenizer a padding token.
            language_model = HFLM(
                pretrained=model,
                tokenizer=copy.deepcopy(tokenizer),
                backend="causal",
                batch_size=options.pop("batch_size", BATCH),
            )
            found = evaluate(language_model, self._loaded, bootstrap_iters=0, log_samples=True, **options)
        model.train(was_training)
        values = {}
        for name, task in self._loaded["tasks"].items():
            values.update(_values_of(name, task, found["samples"][name], found["results"][name]))
        return values


def _load(tasks: Sequence[str], include_path: Any) -> Any:
    """Load tasks; those of a local folder alone are found without reading the thousands of the package."""
    from lm_eval.tasks import TaskManager

    manager = None
    if include_path is not None:
        manager = TaskManager(include_path=include_path, include_defaults=False)
    if manager is None or not set(tasks) <= set(manager.all_tasks):
        manager = TaskManager(include_path=include_path)
    try:
        return manager.load(list(tasks))
    except Exception as error:  # the package passes on those of YAML, datasets and the hub
        raise ValueError(
            f"`lm_eval_tasks`: {', '.join(tasks)} cannot be loaded: {error}. `lm-eval ls tasks` lists the tasks of "
            "the package; `lm_eval_args: {include_path: FOLDER}` adds those of a folder."
        ) from error


def _set_fewshot(task: Any, num_fewshot: int | None) -> None:
    """Set the number of examples as `lm_eval.simple_evaluate` does: a task that says 0 keeps it."""
    own = task.get_config("num_fewshot")
    if num_fewshot is not None and own != 0:
        task.set_config(key="num_fewshot", value=num_fewshot)
    elif own is None:
        task.set_config(key="num_fewshot", value=0)


def _hash_of(task: Any) -> str:
    """Return a hash of what a task asks: its settings and its documents."""
    content: list[Any] = [task.dump_config(), list(task.eval_docs)]
    if task.get_config("num_fewshot"):
        content.append(list(task.fewshot_docs()))
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=_spelled).encode()).hexdigest()[:32]


def _spelled(value: Any) -> str:
    """Write what JSON does not have; a function as its source, because its address changes."""
    return inspect.getsource(value) if inspect.isfunction(value) else str(value)


def _values_of(
    name: str, task: Any, samples: Sequence[Mapping[str, Any]], results: Mapping[str, Any]
) -> dict[str, list[float]]:
    """Return the values of one task by metric; a filter that is not the only one stands behind it."""
    by_filter: dict[str, list[Mapping[str, Any]]] = {}
    for sample in samples:
        by_filter.setdefault(sample["filter"], []).append(sample)
    found = {}
    for metric, aggregate in task.aggregation().items():
        for own_filter, own_samples in by_filter.items():
            result = results.get(f"{metric},{own_filter}")
            if not isinstance(result, (int, float)):
                continue
            label = f"{name} {metric}"
            if len(by_filter) > 1:
                label += f" ({own_filter})"
            values = _numbers(own_samples, metric)
            if values is None or getattr(aggregate, "__name__", "") != "mean":
                values = [float(result)]
            found[label] = values
    return found


def _numbers(samples: Sequence[Mapping[str, Any]], metric: str) -> list[float] | None:
    """Return the value of each document; None if a document has no number of its own."""
    values = []
    for sample in samples:
        value = sample.get(metric)
        if not isinstance(value, (bool, int, float, np.number)):
            return None
        values.append(float(value))
    return values


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hide the bars and the advice of the package: a comparison shows one line for each run."""
    logger = logging.getLogger("lm_eval")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logger.setLevel(level)
