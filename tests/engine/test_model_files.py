"""A directory without a whole model is one message; each was a traceback of 23 to 26 lines."""

import json
import pathlib
import shutil

import pytest

from nuggets_trainer import load_scorer
from nuggets_trainer.demo import resolve_demo


@pytest.fixture
def directory(tmp_path):
    copy = tmp_path / "model"
    copy.mkdir()
    for file in sorted(pathlib.Path(resolve_demo("nuggets-demo/model")).iterdir()):
        shutil.copyfile(file, copy / file.name)  # without the rights of an installed package
    return copy


def test_the_copy_is_a_model(directory):
    model, tokenizer = load_scorer(str(directory))
    assert model.config.vocab_size >= len(tokenizer)


def cut_weights(directory):
    with (directory / "model.safetensors").open("r+b") as weights:
        weights.truncate(10_000)


def git_lfs_pointer(directory):
    (directory / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\nsize 123\n")


def adapter_alone(directory):
    shutil.rmtree(directory)
    directory.mkdir()
    (directory / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "org/base"}))


def empty(directory):
    shutil.rmtree(directory)
    directory.mkdir()


def checkpoints(directory):
    directory.rename(directory.with_name("checkpoint-7"))
    directory.mkdir()
    directory.with_name("checkpoint-7").rename(directory / "checkpoint-7")


def no_known_model(directory):
    (directory / "config.json").write_text('{"model_type": "foo"}')


def cut_tokenizer(directory):
    (directory / "tokenizer.json").write_text("{")


def other_shape(directory):
    config = json.loads((directory / "config.json").read_text())
    config["intermediate_size"] *= 2
    (directory / "config.json").write_text(json.dumps(config))


FAULTS = [
    (cut_weights, r"weights in .*model\.safetensors' are incomplete .*10,000 bytes.*Copy or download the file again"),
    (git_lfs_pointer, "`git lfs pull` fetches the file"),
    (adapter_alone, "holds a PEFT adapter alone, no model. Name the base model 'org/base'.*merge it first"),
    (empty, "holds no model: there is no config.json. Expected a directory"),
    (checkpoints, "holds no model.*There are models in its directories checkpoint-7: name one of them"),
    (no_known_model, "The config of the model .* cannot be loaded: .*model type `foo`"),
    (cut_tokenizer, "The tokenizer of the model .* cannot be loaded: "),
    (other_shape, "The weights of the model .* cannot be loaded: "),
]


@pytest.mark.parametrize(("fault", "message"), FAULTS, ids=[fault.__name__ for fault, _ in FAULTS])
def test_a_broken_model_is_one_message(directory, fault, message):
    fault(directory)
    with pytest.raises(ValueError, match=message) as caught:
        load_scorer(str(directory))
    assert "\n" not in str(caught.value) and str(directory) in str(caught.value)
