"""The recipe as a user runs it: real processes, official questions, a real OpenAI-compatible server."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from nuggets_trainer import NuggetsConfig, Pool, load_rows
from nuggets_trainer.evaluation.answer_files import (
    alpaca_outputs_path,
    mt_bench_answer_path,
    read_alpaca_outputs,
    read_mt_bench_answers,
)
from nuggets_trainer.evaluation.questions import load_alpaca_eval, load_mt_bench, read_lines
from nuggets_trainer.evaluation.tuned import load_tuned, model_fields, prompt_ids, resolve_answer_template
from nuggets_trainer.judging.paper import PAPER_ROWS
from tests.support.fake_judge import PROMPTS
from tests.support.launch import BIN, ONE_PROCESS, ROOT, TORCHRUN, environment, run, start


@pytest.fixture(scope="session")
def small(shared, tmp_path_factory) -> Path:
    """A model of random weights that reads 1,024 tokens, with a real tokenizer and chat template."""
    path = tmp_path_factory.mktemp("small")
    tokenizer = AutoTokenizer.from_pretrained(shared / "models/tiny-llama-instruct")
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = LlamaConfig(
        vocab_size=len(tokenizer), max_position_embeddings=1024, initializer_range=0.3, eos_token_id=2, **sizes
    )
    LlamaForCausalLM(config).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def official(shared) -> list[str]:
    data = shared / "data"
    return ["--alpaca_eval_dir", str(data / "alpaca_eval"), "--mt_bench_dir", str(data / "mt_bench")]


def generate(shared, launcher: list[str], model, output_dir: Path, *options: str, name: str = "mine") -> list[str]:
    fixed = ["--model_name_or_path", str(model), "--name", name, "--output_dir", str(output_dir)]
    return [*launcher, "recipes/evaluate.py", "generate", *fixed, *official(shared), *options]


def answers_of(output_dir: Path, name: str = "mine") -> tuple[bytes, list]:
    """AlpacaEval's file, and MT-Bench's without its ids and times."""
    lines = read_lines(mt_bench_answer_path(output_dir, name))
    return alpaca_outputs_path(output_dir, name).read_bytes(), [(x["question_id"], x["choices"]) for x in lines]


@pytest.mark.slow
def test_answers_are_the_same_whole_killed_and_on_two_ranks(shared, small, tmp_path):
    options = ("--max_new_tokens", "6", "--batch_size", "16", "--temperature", "0.7", "--seed", "3")
    run(generate(shared, ONE_PROCESS, small, tmp_path / "whole", *options))

    process = start(generate(shared, ONE_PROCESS, small, tmp_path / "killed", *options))
    journal = tmp_path / "killed/mine/answers"
    deadline = time.monotonic() + 300
    while sum(path.read_bytes().count(b"\n") for path in journal.glob("*.jsonl")) < 200:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    kept = {path: path.read_bytes() for path in journal.glob("*.jsonl")}
    two = generate(shared, [*TORCHRUN, "2"], small, tmp_path / "killed", *options)
    run(two, ACCELERATE_USE_CPU="true")
    assert answers_of(tmp_path / "killed") == answers_of(tmp_path / "whole")
    assert all(path.read_bytes() == content for path, content in kept.items())
    assert len(list(journal.glob("*.jsonl"))) == len(kept) + 2  # both ranks had work

    rows, questions = load_alpaca_eval(*official(shared)[1::4], "v1"), load_mt_bench(official(shared)[3])
    outputs = read_alpaca_outputs(alpaca_outputs_path(tmp_path / "killed", "mine"), rows, "mine")
    assert len({record["output"] for record in outputs}) > 400
    assert len(read_mt_bench_answers(mt_bench_answer_path(tmp_path / "killed", "mine"), questions)) == 80

    before = answers_of(tmp_path / "killed")
    run(two, ACCELERATE_USE_CPU="true")  # nothing left to do: the same files, byte for byte
    assert answers_of(tmp_path / "killed") == before
    other = start(generate(shared, ONE_PROCESS, small, tmp_path / "killed", *options, "--seed", "4"))
    message, _ = other.communicate(timeout=300)
    assert other.returncode != 0 and "stands for other answers" in message and "seed was 3 and is now 4" in message


@pytest.mark.slow
def test_generate_says_which_rows_hold_questions(shared, small, tmp_path):
    """The line was tested without the command, and without a model that `nuggets train` had tuned."""
    data, tuned, nuggets = str(shared / "data/mt_bench"), str(tmp_path / "tuned"), str(BIN / "nuggets")
    question = load_mt_bench(data)[0].turns[0]
    prompts = [question, f"Please: {question}", *(f"Say the number {number}." for number in range(10))]
    for name, own in (("pool", prompts), ("anchors", ["Sing a song.", question])):
        rows = [{"instruction": prompt, "output": f"Answer {number}."} for number, prompt in enumerate(own)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    pool, anchors = str(tmp_path / "pool.jsonl"), str(tmp_path / "anchors.jsonl")
    options = ["--anchors", anchors, "--top_k", str(len(prompts)), "--deduplicate", "no", "--max_steps", "1"]
    on_cpu = ["--use_cpu", "true", "--bf16", "false", "--report_to", "none"]
    run([nuggets, "train", pool, "--model_name_or_path", str(small), *options, *on_cpu, "--output_dir", tuned])

    questions = ["--benchmarks", "mt_bench", "--mt_bench_dir", data, "--max_new_tokens", "2"]
    asked = [nuggets, "evaluate", "generate", "--model_name_or_path", tuned, *questions, "--output_dir"]
    told = run([*asked, str(tmp_path / "one"), "--name", "one"])
    line = (
        "2 rows of the pool (2 of the golden set) and 1 anchor hold questions of mt_bench, word for word or slightly"
    )
    assert line in told and told.index(line) < told.index("80 x 2 answers to MT-Bench: ")

    Path(pool).write_text(Path(pool).read_text().replace(question, "What is red?"))
    assert f"{pool} does not hold the same rows." in run([*asked, str(tmp_path / "two"), "--name", "two"])


def test_the_paper_configs_show_valid_commands(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "recipes"))
    import control
    import evaluate
    import train

    keys = {row.key for row in PAPER_ROWS}
    parsed, rows = 0, set()
    for path in sorted((ROOT / "configs/paper").glob("*.yaml")):
        text = path.read_text()
        commands = "\n".join(re.findall(r"^#   (.*)", text, flags=re.MULTILINE)).replace("\\\n", " ")
        for line in commands.splitlines():
            if not line.startswith(("accelerate ", "python ")):
                continue
            words = shlex.split(line)
            script = next(i for i, word in enumerate(words) if word.startswith("recipes/"))
            options = words[script + 1 :]
            if words[script] == "recipes/evaluate.py":
                evaluate.parse(options)
            else:
                program = {"recipes/train.py": train, "recipes/control.py": control}[words[script]]
                args = program.parse([*options, "--use_cpu", "--bf16", "false"])[1]
                rows.add(Path(args.output_dir).name)
            parsed += 1
    assert parsed >= 14
    worst = {key for key in keys if key.endswith("-below-0.5")}  # there is no rule for these
    assert len(worst) == 4 and rows == keys - worst - {"llama-7b"}


def test_the_papers_pools_are_read_by_alpacas_columns(monkeypatch):
    """On the hub both have a column `text` too, which is TRL's own format and was read instead."""
    monkeypatch.syspath_prepend(str(ROOT / "recipes"))
    import train

    rows = Dataset.from_list([{"instruction": "a", "input": "", "output": "b", "text": "a b"}])
    for name in ("alpaca_kmeans100", "alpaca_random1000", "paper/alpaca_gpt4"):
        parsed = train.parse(["--config", str(ROOT / f"configs/{name}.yaml"), "--use_cpu", "--bf16", "false"])
        args = parsed[1]
        assert Pool(rows, "pool", text_field=args.dataset_text_field).format == "alpaca"
        (config,) = [options for options in parsed if isinstance(options, NuggetsConfig)]
        assert config.deduplicate == "no"  # the counts of the paper's table add up to all rows of Alpaca
    assert Pool(rows, "pool").format == "text"


def test_the_control_tunes_on_all_or_random_rows(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(ROOT / "recipes"))
    import control

    rows = load_rows("nuggets-demo/pool").select(range(60)).to_list()
    rows[7]["output"] = ""
    (tmp_path / "pool.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = ["--model_name_or_path", "nuggets-demo/model", "--dataset_name", str(tmp_path / "pool.jsonl")]
    options += ["--use_cpu", "--bf16", "false", "--max_steps", "1", "--report_to", "none", "--num_rows", "20"]
    trainer = control.main(*control.parse([*options, "--output_dir", str(tmp_path / "out")]))
    assert len(trainer.train_dataset) == 20 and (tmp_path / "out" / "model.safetensors").is_file()
    dataset = Dataset.from_list(rows)
    assert len(control.choose_rows(Pool(dataset), None, 0)) == 59
    drawn = [control.choose_rows(Pool(dataset), 20, seed)["instruction"][:] for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]
    with pytest.raises(ValueError, match="`num_rows` must be between 1 and 59, the number of usable rows"):
        control.choose_rows(Pool(dataset), 60, 0)


def test_bad_options_are_named_before_anything_is_loaded(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "recipes"))
    import evaluate

    for words, message in (
        (["judge"], "needs --names"),
        (["generate", "--name", "x"], "needs --model_name_or_path"),
        (["grade"], "must be a step, one of generate, judge, pairwise, table, got 'grade'"),
        (["pairwise", "--names", "a"], "`names` must be two runs"),
        (["judge", "--names", "a", "--benchmarks", "mmlu"], "`benchmarks` must be one of alpaca_eval, mt_bench"),
        (["judge", "--names", "a", "--alpaca_eval_setting", "v3"], "`alpaca_eval_setting` must be one of v1, v2"),
        (
            ["generate", "--name", "x", "--model_name_or_path", "m", "--batch_size", "0"],
            "`batch_size` must be at least",
        ),
        (
            ["generate", "--name", "x", "--model_name_or_path", "m", "--dtype", "bf16"],
            "`dtype` must be one of auto, float32, bfloat16, float16, got 'bf16'",
        ),
        (
            ["generate", "--name", "x", "--model_name_or_path", "m", "--template", "alpaca"],
            "`template` must be one of auto, chat, plain, nuggets, got 'alpaca'",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            evaluate.parse(words)


def test_the_table_has_no_options_of_requests(capsys, monkeypatch):
    """`table` listed prices, retries and concurrency, which do nothing there."""
    monkeypatch.syspath_prepend(str(ROOT / "recipes"))
    import evaluate

    for step, wanted in (("table", False), ("judge", True)):
        with pytest.raises(SystemExit):
            evaluate.parse([step, "--help"])
        shown = capsys.readouterr().out
        assert "--judge_model" in shown and "--alpaca_eval_setting" in shown
        assert [name in shown for name in ("--max_cost", "--concurrency", "--names")] == [wanted] * 3


def test_a_prompt_is_what_training_renders(shared):
    """TRL tokenizes `prompt` by the chat template, or as text with the tokenizer's own special tokens."""
    tokenizer = AutoTokenizer.from_pretrained(shared / "models/tiny-llama-instruct")
    shown = {
        template: tokenizer.decode(prompt_ids(tokenizer, template, ["Name a bird. ", "A crow.", "Another."]))
        for template in ("chat", "plain", "nuggets")
    }
    assert shown == {
        "chat": "<s><|user|>\nName a bird. </s>\n<|assistant|>\nA crow.</s>\n<|user|>\nAnother.</s>\n<|assistant|>\n",
        "plain": "<s>Name a bird.\n\nA crow.\n\nAnother.\n\n",
        "nuggets": ("<s>Instruction:\nName a bird.\nResponse:\nA crow.\n\nInstruction:\nAnother.\nResponse:\n"),
    }
    assert resolve_answer_template("auto", tokenizer) == "chat"
    tokenizer.chat_template = None
    assert resolve_answer_template("auto", tokenizer) == "plain"
    with pytest.raises(ValueError, match="a tokenizer without a chat template"):
        resolve_answer_template("chat", tokenizer)


def test_an_adapter_brings_its_base_and_tokenizer(small, tmp_path):
    from peft import LoraConfig, get_peft_model

    base = AutoModelForCausalLM.from_pretrained(small)
    options = {"target_modules": "all-linear", "task_type": "CAUSAL_LM", "init_lora_weights": False}
    for name, alpha in (("one", 8), ("two", 16)):
        torch.manual_seed(0)
        get_peft_model(
            AutoModelForCausalLM.from_pretrained(small), LoraConfig(lora_alpha=alpha, **options)
        ).save_pretrained(tmp_path / name)
    ids = torch.tensor([[5, 6, 7]])
    alone, tokenizer = load_tuned(str(tmp_path / "one"))
    put_on, _ = load_tuned(str(small), adapter=str(tmp_path / "one"))
    assert tokenizer.chat_template
    with torch.no_grad():
        logits = [model(ids).logits for model in (base, alone, put_on)]
    torch.testing.assert_close(logits[1], logits[2])
    assert not torch.allclose(logits[0], logits[1])
    two, _ = load_tuned(str(tmp_path / "two"))
    fields = [model_fields(model, tokenizer) for model in (base, alone, two)]
    assert fields[0]["weights_sha256"] != fields[1]["weights_sha256"] == fields[2]["weights_sha256"]
    assert len({entry["template_and_adapter_sha256"] for entry in fields}) == 3  # the scale of LoRA is in its config


@contextlib.contextmanager
def serve(model: Path) -> Iterator[str]:
    """`transformers serve`, as the guide starts it; yields its base URL."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [str(BIN / "transformers"), "serve", str(model), "--port", str(port), "--host", "127.0.0.1"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen([*command, "--device", "cpu"], cwd=ROOT, env=environment(), **quiet)
    try:
        deadline = time.monotonic() + 180
        while True:
            with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/health") as answer:
                assert answer.status == 200
                break
            assert process.poll() is None and time.monotonic() < deadline, "the server did not start"
            time.sleep(0.5)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.terminate()
        process.wait(30)


def tune_to_rate(model_dir: Path, output_dir: Path, rating: str) -> Path:
    """A real, if simple-minded, judge: a small model tuned to say one rating whatever it reads."""
    model, tokenizer = load_tuned(str(model_dir))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    said = tokenizer(rating, add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id]
    generator = torch.Generator().manual_seed(0)
    for _ in range(120):
        noise = torch.randint(10, len(tokenizer), (8, 40), generator=generator)
        asked = prompt_ids(tokenizer, "chat", ["x"])
        tail = torch.tensor([asked[-3:] + said] * 8)
        ids = torch.cat([noise, tail], 1)
        labels = ids.clone()
        labels[:, : -len(said)] = -100
        model(input_ids=ids, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(output_dir)
    tokenizer.save_pretrained(output_dir)
    return output_dir


@pytest.mark.slow
def test_a_local_server_judges_end_to_end(shared, small, tmp_path):
    """`transformers serve` with tiny-llama-instruct, which cannot judge; then with a model that says one rating."""
    pytest.importorskip("openai")
    pytest.importorskip("uvicorn")
    (tmp_path / "judge_prompts.jsonl").write_text("".join(json.dumps(prompt) + "\n" for prompt in PROMPTS.values()))
    for name, benchmarks in (("mine", ("alpaca_eval", "mt_bench")), ("theirs", ("mt_bench",))):
        options = ("--seed", str(len(name)), "--max_new_tokens", "4", "--benchmarks", *benchmarks)
        run(generate(shared, ONE_PROCESS, small, tmp_path, *options, name=name))
    fixed = [
        "--output_dir",
        str(tmp_path),
        *official(shared),
        "--judge_prompts",
        str(tmp_path / "judge_prompts.jsonl"),
    ]
    trial = ["--num_questions", "4", "--max_judge_tokens", "24", "--concurrency", "1"]
    python = str(BIN / "python")

    def recipe(step: str, *options: str) -> str:
        return run([python, "recipes/evaluate.py", step, *options, *fixed])

    tiny = shared / "models/tiny-llama-instruct"
    with serve(tiny) as url:
        judge = ["--base_url", url, "--judge_model", str(tiny), *trial]
        text = recipe("judge", "--names", "mine", "--benchmarks", "mt_bench", *judge)
        assert "mine: no score." in text and "8 of 8 judgments could not be read" in text
        assert "8 requests sent" in text
        pairs = recipe("pairwise", "--names", "mine", "theirs", "--benchmarks", "mt_bench", *judge)
        assert "8 of 8 could not be read" in pairs
        alpaca = start(
            [python, "recipes/evaluate.py", "judge", "--names", "mine", "--benchmarks", "alpaca_eval", *judge, *fixed]
        )
        message, _ = alpaca.communicate(timeout=400)
        assert alpaca.returncode == 1 and "None of 4 judgments could be read" in message
    assert "0 requests sent" in recipe(
        "judge", "--names", "mine", "--benchmarks", "mt_bench", *judge
    )  # server is gone

    rater = tune_to_rate(tiny, tmp_path / "rater", "Rating: [[7]]")
    with serve(rater) as url:
        judge = ["--base_url", url, "--judge_model", str(rater), *trial]
        text = recipe("judge", "--names", "mine", "--benchmarks", "mt_bench", *judge)
    assert "overall       7.00 +- 0.00" in text and "0 of 8 judgments could not be read" in text
