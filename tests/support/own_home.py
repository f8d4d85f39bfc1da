"""An environment for the tests that is the same for everybody: nobody's files, tokens, settings or terminal."""

from __future__ import annotations

from collections.abc import MutableMapping

CACHES = ("HF_HOME", "HF_HUB_CACHE", "HF_DATASETS_CACHE", "XDG_CACHE_HOME", "MPLCONFIGDIR", "TORCH_HOME")
# Beginnings of the names of variables that the tests must not see.
FOREIGN = (
    # the hub, its libraries and their tokens
    *("HF_", "HUGGING_FACE_", "HUGGINGFACE_", "TRANSFORMERS_", "DATASETS_", "TRL_", "TOKENIZERS_"),
    # launchers: under one of them, each test would be a process of a job
    *("ACCELERATE_", "FSDP_", "DEEPSPEED_", "RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_", "TORCHELASTIC_"),
    # trackers, judges, object stores
    *("WANDB_", "MLFLOW_", "COMET_", "CLEARML_", "NEPTUNE_", "TRACKIO_", "OPENAI_", "AWS_", "FSSPEC_"),
    # the program's own, and the looks of a terminal
    *("NUGGETS_", "COLUMNS", "LINES", "FORCE_COLOR", "NO_COLOR", "CLICOLOR", "TZ", "LC_", "PYTHONWARNINGS"),
)


def take_own_home(environ: MutableMapping[str, str], home: str) -> None:
    """Make an environment that of the tests.

    Args:
        environ: variables, which are changed.
        home: empty directory, which becomes the home and holds the caches.
    """
    for name in list(environ):
        if name.startswith(FOREIGN):
            del environ[name]
    environ["NUGGETS_TESTS_HOME"] = environ["HOME"] = home
    for name in CACHES:
        environ[name] = f"{home}/{name.lower()}"
    for name in ("NO_PROXY", "no_proxy"):  # the tests' servers are on this machine; pip may need the proxy
        environ[name] = "127.0.0.1,localhost"
