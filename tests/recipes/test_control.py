"""recipes/control.py resumes, evaluates and ends as the main job does, with the same config."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from nuggets_trainer.training.checkpoints import FINISHED_FILE
from tests.support.launch import ROOT


@pytest.fixture
def control(monkeypatch, tmp_path):
    """Return a function that runs the control in this process, on twelve rows."""
    monkeypatch.syspath_prepend(str(ROOT / "recipes"))
    import control

    rows = [{"instruction": f"Write about thing {i}.", "output": f"Thing {i} rests near the door."} for i in range(12)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def run(**options):
        given = {"model_name_or_path": "nuggets-demo/model", "dataset_name": tmp_path / "rows.jsonl", "max_steps": 2}
        given |= {"bf16": "false", "use_cpu": "true", "report_to": "none", "disable_tqdm": "true", "save_steps": 1}
        given |= {"output_dir": tmp_path / "out", "per_device_train_batch_size": 4, "max_length": 64, **options}
        return control.main(
            *control.parse([word for name, value in given.items() for word in (f"--{name}", str(value))])
        )

    return run


def as_if_killed_before_step_2(output_dir: Path) -> None:
    shutil.rmtree(output_dir / "checkpoint-2")
    (output_dir / FINISHED_FILE).unlink()


def checkpoints(output_dir: Path) -> list[str]:
    return sorted(path.name for path in output_dir.glob("checkpoint-*"))


def test_a_finished_control_keeps_its_best_model(control, tmp_path, capsys):
    """It could not evaluate at all; started again, it would have taken one more step and saved the last model."""
    options = {"load_best_model_at_end": "true", "eval_strategy": "steps", "eval_steps": 1, "learning_rate": 1}
    options |= {"lr_scheduler_type": "constant", "eval_dataset_name": tmp_path / "rows.jsonl"}
    best = Path(control(**options).state.best_model_checkpoint)
    assert best.name == "checkpoint-1"  # at this learning rate the model only gets worse
    saved = tmp_path / "out" / "model.safetensors"
    saved.unlink()  # as if killed before the final save
    assert control(**options).state.global_step == 0 and "Nothing is left to train" in capsys.readouterr().out
    assert saved.read_bytes() == (best / "model.safetensors").read_bytes()
    assert checkpoints(tmp_path / "out") == ["checkpoint-1", "checkpoint-2"]


def test_a_control_goes_on_as_it_is_told(control, tmp_path):
    """`--resume_from_checkpoint true` was taken for a directory of that name, and `no` too."""
    control()
    as_if_killed_before_step_2(tmp_path / "out")
    (tmp_path / "out" / "checkpoint-3").mkdir()  # of a job that was killed while it saved
    first = tmp_path / "out" / "checkpoint-1" / "model.safetensors"
    for answer in ("true", "no"):
        written = first.stat().st_mtime_ns
        control(resume_from_checkpoint=answer)
        assert (first.stat().st_mtime_ns == written) == (answer == "true")
        assert (tmp_path / "out" / "checkpoint-2" / "model.safetensors").is_file()
        as_if_killed_before_step_2(tmp_path / "out")
    with pytest.raises(FileNotFoundError, match="There is no checkpoint .*nowhere"):
        control(resume_from_checkpoint=tmp_path / "nowhere")


def test_a_control_does_not_go_on_from_the_model_alone(control, tmp_path):
    control(save_only_model="true")
    as_if_killed_before_step_2(tmp_path / "out")
    with pytest.raises(ValueError, match="checkpoint-1 holds the model alone"):
        control(save_only_model="true")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"report_to": "wanbd"}, "Did you mean `wandb`"),
        ({"use_peft": "true", "lora_target_modules": "nothing_proj"}, "The linear layers of this model are: "),
        ({"dataset_name": "/nowhere/rows.jsonl"}, "/nowhere/rows.jsonl"),
    ],
    ids=["tracker", "LoRA target", "rows"],
)
def test_mistakes_have_the_messages_of_the_main_job(options, message, control):
    """They ended in tracebacks of the libraries, after the model was loaded."""
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        control(**options)
