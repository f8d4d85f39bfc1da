"""All that read the options of a job score and train on the same tokens: command line, trainer, recipes."""

from __future__ import annotations

import importlib
import json

import pytest
from transformers import AutoTokenizer

from nuggets_trainer.cli import main
from nuggets_trainer.commands import train
from nuggets_trainer.demo import demo_path
from nuggets_trainer.training.job import run_job
from tests.support.launch import ROOT

# TRL's marks around what the assistant says; the demo's tokenizer has no chat template of its own.
CHAT_TEMPLATE = (
    "{% for m in messages %}{% if m['role'] == 'assistant' %}said: {% generation %}{{ m['content'] }}\n"
    "{% endgeneration %}{% else %}{{ m['role'] }}: {{ m['content'] }}\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}said: {% endif %}"
)


def alpaca_row(i):
    return {"instruction": f"Write about thing {i}.", "input": "", "output": f"Thing {i} rests near the door."}


def chat_row(i):
    question, answer = alpaca_row(i)["instruction"], alpaca_row(i)["output"]
    contents = {"user": ["Good day.", question], "assistant": ["Good day, what is it?", answer]}
    turns = zip(contents["user"], contents["assistant"], strict=True)
    messages = []
    for asked, said in turns:
        messages += [{"role": "user", "content": asked}, {"role": "assistant", "content": said}]
    return {"messages": messages}


def text_row(i):
    return {"content": f"Thing {i} rests near the door."}


@pytest.fixture
def recipes(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "recipes"))


@pytest.fixture
def job(tmp_path):
    """Write rows and give the options of a job on them."""

    def make(row_of, **options):
        for name, numbers in (("pool", range(20)), ("anchors", range(30, 34)), ("heldout", range(40, 44))):
            rows = "".join(json.dumps(row_of(i)) + "\n" for i in numbers)
            (tmp_path / f"{name}.jsonl").write_text(rows)
        (tmp_path / "chat.jinja").write_text(CHAT_TEMPLATE)
        options = {"chat_template_path": tmp_path / "chat.jinja", **options}
        common = {"model_name_or_path": "nuggets-demo/model", "bf16": "false", "use_cpu": "true", "report_to": "none"}
        places = {"dataset_name": tmp_path / "pool.jsonl", "anchors": tmp_path / "anchors.jsonl"}
        chosen = {**common, **places, "max_steps": 1, **options}
        return [word for name, value in chosen.items() if value is not None for word in (f"--{name}", str(value))]

    return make


def trained_tokens(trainer):
    return sorted(map(tuple, trainer.train_dataset["input_ids"][:]))


def template_of(score_dir):
    return json.loads((score_dir / "run.json").read_text())["template"]


@pytest.mark.parametrize(
    "changes",
    [{}, {"assistant_only_loss": "true"}, {"bf16": "true"}, {"bf16": None}],
    ids=["float32", "assistant only", "bf16", "TRL's default"],
)
def test_training_finds_what_nuggets_score_scored(job, tmp_path, changes):
    """Given the same YAML, the command passed over these keys, and training scored everything again."""
    options = job(chat_row, top_k=5, score_dir=tmp_path / "s", **changes)
    values = dict(zip(options[::2], options[1::2], strict=True))
    lines = [f"{name.removeprefix('--')}: {value}\n" for name, value in values.items()]
    (tmp_path / "job.yaml").write_text("".join([*lines, f"output_dir: {tmp_path / 'out'}\n"]))
    assert main(["score", "--config", str(tmp_path / "job.yaml")]) == 0
    trainer = run_job(*train.parse(["--config", str(tmp_path / "job.yaml")]))
    assert trainer.scores.num_pairs_scored == 0 and len(trainer.golden_set) == 5
    fields = json.loads((tmp_path / "s" / "run.json").read_text())["fingerprint"]["fields"]
    assert ("training_chat_template_sha256" in fields) == ("assistant_only_loss" in changes)
    assert ("bfloat16" in str(fields["score_dtype"])) == ("bf16" in changes)


def test_the_control_trains_on_the_tokens_of_the_main_job(recipes, job, tmp_path):
    """Under `chat_template_path` it wrote rows with Alpaca columns as if there were no chat template."""
    import control

    options = job(alpaca_row)
    trainer = run_job(*train.parse([*options, "--top_k", "20", "--output_dir", str(tmp_path / "main")]))
    unselected = control.main(*control.parse([*options, "--output_dir", str(tmp_path / "control")]))
    assert trained_tokens(trainer) == trained_tokens(unselected)
    assert "said: " in trainer.processing_class.decode(trainer.train_dataset[0]["input_ids"])


def test_a_template_of_another_tokenizer_is_that_of_training(job, tmp_path):
    """TRL then changes tokens and embeddings as well; the trainer scores behind that, and finds its pairs again."""
    source = AutoTokenizer.from_pretrained(demo_path("model"))
    source.chat_template = CHAT_TEMPLATE
    source.add_tokens(["<|turn|>"])
    source.save_pretrained(tmp_path / "tokenizer")
    options = job(alpaca_row, chat_template_path=tmp_path / "tokenizer", top_k=20, score_dir=tmp_path / "scores")
    trainer = run_job(*train.parse([*options, "--output_dir", str(tmp_path / "one")]))
    assert template_of(tmp_path / "scores") == "chat" and trainer.scores.num_pairs_scored > 0
    assert "said: " in trainer.processing_class.decode(trainer.train_dataset[0]["input_ids"])
    again = run_job(*train.parse([*options, "--output_dir", str(tmp_path / "two")]))
    assert again.scores.num_pairs_scored == 0


@pytest.mark.parametrize("recipe", ["control", "compare"])
def test_the_recipes_look_at_their_paths_first(recipes, job, tmp_path, recipe, monkeypatch):
    """A wrong path came up when rows were loaded, and results could be written into the rows' directory."""
    program = importlib.import_module(recipe)
    start = program.main if recipe == "control" else program.run
    monkeypatch.setattr("nuggets_trainer.data.loading.load_rows", lambda *_: pytest.fail("rows were loaded"))
    options = [*job(alpaca_row), "--eval_dataset_name", str(tmp_path / "heldout.jsonl")]
    wrong = {"--eval_dataset_name": str(tmp_path / "nowhere.jsonl"), "--model_name_or_path": "./no/model"}
    for option, place in wrong.items():
        with pytest.raises(FileNotFoundError, match=f"`{option}`: there is no"):
            start(*program.parse([*options, option, place, "--output_dir", str(tmp_path / "out")]))
    (tmp_path / "rows").mkdir()
    inside = ["--dataset_name", str(tmp_path / "rows"), "--output_dir", str(tmp_path / "rows" / "out")]
    with pytest.raises(ValueError, match="`--output_dir`"):
        start(*program.parse([*options, *inside]))


@pytest.mark.parametrize(
    ("row_of", "options", "template"),
    [
        (alpaca_row, {}, "chat"),
        (lambda i: {**alpaca_row(i), **text_row(i)}, {"dataset_text_field": "none"}, "chat"),
        (text_row, {"dataset_text_field": "content", "chat_template_path": None}, "plain"),
        (chat_row, {"assistant_only_loss": "true"}, "chat"),
    ],
    ids=["alpaca", "alpaca beside text", "text", "assistant only"],
)
def test_a_comparison_reads_the_rows_as_the_main_job(recipes, job, tmp_path, row_of, options, template):
    """It ignored `dataset_text_field`, `assistant_only_loss` and `chat_template_path`."""
    import compare

    options = job(row_of, **options)
    arms = ["--arms", "golden", "random", "--golden_fractions", "0.2", "--num_seeds", "1", "--num_resamples", "20"]
    rows = ["--eval_dataset_name", str(tmp_path / "heldout.jsonl"), "--output_dir", str(tmp_path / "compared")]
    lines = compare.run(*compare.parse([*options, *rows, *arms])).lines
    assert len(lines) == 3
    trainer = run_job(*train.parse([*options, "--top_k", "5", "--output_dir", str(tmp_path / "main")]))
    assert template_of(tmp_path / "compared" / "nuggets") == template_of(tmp_path / "main" / "nuggets") == template
    places = ["--score_dir", str(tmp_path / "compared" / "nuggets"), "--output_dir", str(tmp_path / "again")]
    again = run_job(*train.parse([*options, "--top_k", "5", *places]))
    assert again.scores.num_pairs_scored == 0  # all that the main job scores is there
    assert again.golden_set.indices.tolist() == trainer.golden_set.indices.tolist()


@pytest.mark.filterwarnings("ignore:bitsandbytes")  # its kernels for CPUs have no backward pass of their own
def test_quantized_weights_score_and_train_everywhere(recipes, job, tmp_path, caplog):
    """`nuggets score` and recipes/compare.py loaded whole weights, where the main job scores with those of QLoRA."""
    pytest.importorskip("bitsandbytes")
    import compare

    options = job(alpaca_row, load_in_4bit="true", use_peft="true", chat_template_path=None, max_length=64)
    values = dict(zip(options[::2], options[1::2], strict=True))
    lines = [f"{name.removeprefix('--')}: {value}\n" for name, value in values.items()]
    (tmp_path / "job.yaml").write_text("".join(lines))
    config, score_dir = ["--config", str(tmp_path / "job.yaml")], str(tmp_path / "s")
    assert main(["score", *config, "--top_k", "5", "--score_dir", score_dir]) == 0
    places = ["--score_dir", score_dir, "--output_dir", str(tmp_path / "out")]
    trainer = run_job(*train.parse([*config, "--top_k", "5", *places]))
    assert trainer.scores.num_pairs_scored == 0 and trainer.model.get_base_model().is_loaded_in_4bit
    arms = ["--arms", "golden", "--golden_fractions", "0.2", "--num_seeds", "1", "--num_resamples", "20"]
    rows = ["--eval_dataset_name", str(tmp_path / "heldout.jsonl")]
    caplog.clear()
    compare.run(*compare.parse([*config, *places, *rows, *arms]))
    assert "(0 pairs computed by this run)" in caplog.text
    keys = [json.loads(path.read_text())["key"] for path in (tmp_path / "out" / "runs").glob("*.json")]
    assert len(keys) == 2 and all(key["quantization"]["load_in_4bit"] for key in keys)
