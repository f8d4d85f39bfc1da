"""The real `alpaca_eval` package judges our files: known replies give the known win rates. The judge is a fake."""

from __future__ import annotations

import csv
import json
import math
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from nuggets_trainer.evaluation.answer_files import alpaca_outputs_path, write_alpaca_outputs
from nuggets_trainer.evaluation.questions import load_alpaca_eval
from nuggets_trainer.evaluation.run_names import known_names
from tests.support.fake_judge import FakeJudge, fake_judge, prompt_of
from tests.support.forked import forked
from tests.support.launch import ROOT, environment

pytest.importorskip("tiktoken", reason="needs the extra `eval`")


@pytest.fixture()
def rows(shared) -> list[dict]:
    return load_alpaca_eval(str(shared / "data/alpaca_eval"), "v1")


@pytest.fixture()
def run_dir(rows, tmp_path) -> Path:
    write_alpaca_outputs(alpaca_outputs_path(tmp_path, "mine"), rows, [f"OURS {i}." for i in range(805)], "mine")
    return tmp_path


def command(shared, run_dir: Path, server: FakeJudge | None, *options: str) -> list[str]:
    url = [] if server is None else ["--base_url", server.base_url]
    fixed = ["--names", "mine", "--benchmarks", "alpaca_eval", "--output_dir", str(run_dir)]
    official = ["--alpaca_eval_dir", str(shared / "data/alpaca_eval")]
    return [sys.executable, "recipes/evaluate.py", "judge", *fixed, *official, *url, *options]


def run(words: list[str], **variables: str) -> subprocess.CompletedProcess[str]:
    given = environment(**variables)
    return subprocess.run(forked(words), cwd=ROOT, env=given, capture_output=True, text=True, timeout=500)


def number_of(request) -> int:
    """Which of our answers a request shows."""
    return int(re.search(r"OURS (\d+)\.", prompt_of(request)).group(1))


def verdict(number: int) -> str:
    """What the fake judge thinks of our answer: by its number, so that every rate is known."""
    return "?" if number % 10 == 7 else "win" if number % 4 == 0 else "loss"


def ranked(request) -> str:
    """Reply as AlpacaEval 1 asks for it: a list with the models' ranks."""
    said = verdict(number_of(request))
    if said == "?":
        return "As a language model I cannot rank these."
    ours_first = "OURS" in prompt_of(request).split('"model_2"')[0]
    rank = 1 if ours_first == (said == "win") else 2
    return f"[{{'model': 'model_1', 'rank': {rank}}}, {{'model': 'model_2', 'rank': {3 - rank}}}]"


def weighted(request) -> dict:
    """Reply as AlpacaEval 2 asks for it: log-probs of the tokens `m` and `M`; ours is preferred with 0.8 or 0.2."""
    ours_is_m = "OURS" in prompt_of(request).split('"model_identifier": "M"')[0]
    ours = 0.8 if verdict(number_of(request)) == "win" else 0.2
    shares = {"m": ours if ours_is_m else 1 - ours, "M": 1 - ours if ours_is_m else ours}
    top = [{"token": token, "logprob": math.log(share), "bytes": None} for token, share in shares.items()]
    return {
        "message": {"role": "assistant", "content": "m"},
        "logprobs": {"content": [{**top[0], "top_logprobs": top}]},
    }


def expected(numbers) -> tuple[float, int]:
    said = [verdict(number) for number in numbers]
    read = [verdict for verdict in said if verdict != "?"]
    return 100 * read.count("win") / len(read), said.count("?")


def test_known_replies_give_the_known_win_rate(shared, run_dir):
    with fake_judge(ranked) as server:
        first = run(command(shared, run_dir, server, "--num_questions", "40"))
        assert first.returncode == 0, first.stderr[-3000:]
        asked = [number_of(request) for request in server.requests]
        assert len(asked) == len(set(asked)) == 40
        again = run(command(shared, run_dir, server, "--num_questions", "40"))
        assert len(server.requests) == 40
    rate, unparsable = expected(asked)
    assert unparsable > 0
    result = json.loads((run_dir / "mine/alpaca_eval/v1-gpt-4-trial40/result.json").read_text())
    assert result["metrics"]["win_rate"] == pytest.approx(rate) and result["metrics"]["n_total"] == 40 - unparsable
    assert (
        f"win rate {rate:.2f} [" in first.stdout and f"{unparsable} of 40 judgments could not be read" in first.stdout
    )
    assert first.stdout == again.stdout


@pytest.mark.slow
def test_a_killed_job_judges_every_answer_once(shared, run_dir):
    """SIGKILL on the whole job after 300 replies, while another request hangs; then the same command."""
    hangs = threading.Event()

    def answer(request):
        if len(server.replied) >= 300 and not hangs.is_set():
            hangs.set()
            time.sleep(3600)
        return ranked(request)

    with fake_judge(answer) as server:
        words = command(shared, run_dir, server, "--concurrency", "1")
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        process = subprocess.Popen(words, cwd=ROOT, env=environment(), start_new_session=True, **quiet)
        assert hangs.wait(120)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        done = run(words)
        assert done.returncode == 0, done.stderr[-3000:]
    paid = [number_of(request) for request in server.replied]
    assert sorted(paid) == list(range(805)) and len(server.requests) == 806
    rate, unparsable = expected(range(805))
    folder = run_dir / "mine/alpaca_eval/v1-gpt-4"
    result = json.loads((folder / "result.json").read_text())
    assert result["metrics"]["win_rate"] == pytest.approx(rate) and result["unparsable"] == unparsable == 80
    annotations = json.loads((folder / "annotations.json").read_text())
    assert len(annotations) == 805 and {row["generator_2"] for row in annotations} == {"mine"}
    with (folder / "leaderboard.csv").open(newline="") as file:
        assert float(next(csv.DictReader(file))["win_rate"]) == pytest.approx(rate)


@pytest.mark.slow
def test_the_length_controlled_setting_runs_with_log_probs(shared, run_dir, tmp_path, rows):
    """AlpacaEval 2 on a FAKE `df_gamed.csv` (the official one is on the hub): the path runs, its rate says nothing."""
    snapshot = tmp_path / "hub/datasets--tatsu-lab--alpaca_eval/snapshots/rev"
    snapshot.mkdir(parents=True)
    (snapshot.parent.parent / "refs").mkdir()
    (snapshot.parent.parent / "refs/main").write_text("rev")
    with (snapshot / "df_gamed.csv").open("w") as file:
        file.write("model,preference,index,std_delta_len,instruction_difficulty,not_gamed_baseline\n")
        for i in range(805):
            file.write(f"a,{(i % 5) / 4},{i},{(i % 11 - 5) / 3},{(i % 7 - 3) / 2},False\n")
    with fake_judge(weighted) as server:
        words = command(shared, run_dir, server, "--alpaca_eval_setting", "v2", "--concurrency", "8")
        done = run(words, HF_HUB_CACHE=str(tmp_path / "hub"))
        assert done.returncode == 0, done.stderr[-3000:]
        assert all(request["logprobs"] and request["top_logprobs"] == 5 for request in server.requests)
    result = json.loads((run_dir / "mine/alpaca_eval/v2-gpt-4-1106-preview/result.json").read_text())
    wins = sum(verdict(number) == "win" for number in range(805))
    assert result["metrics"]["win_rate"] == pytest.approx(100 * (0.8 * wins + 0.2 * (805 - wins)) / 805)
    assert result["metrics"]["n_total"] == 805 and "length-controlled win rate" in done.stdout
    assert 0 < result["metrics"]["length_controlled_winrate"] < 100


@pytest.mark.slow
def test_what_cannot_be_judged_says_why(shared, run_dir, tmp_path):
    with fake_judge(ranked) as server:
        v2 = run(command(shared, run_dir, server, "--alpaca_eval_setting", "v2"))
        assert "df_gamed.csv" in v2.stderr and "hf download" in v2.stderr and not server.requests
        server.answer = lambda request: "I would rather not."
        refused = run(command(shared, run_dir, server, "--num_questions", "6"))
        assert "None of 6 judgments could be read" in refused.stderr and refused.returncode == 1
        server.answer = lambda request: (429, {"error": {"message": "slow down"}}, {"Retry-After": "0.01"})
        limited = run(command(shared, run_dir, server, "--num_questions", "9", "--max_retries", "2"))
        assert "still limits the rate" in limited.stderr and limited.returncode == 1
        server.answer = lambda request: (400, {"error": {"message": "no such model"}})
        wrong = run(command(shared, run_dir, server, "--num_questions", "30", "--judge_model", "x"))
        assert "rejects every request to 'x'" in wrong.stderr and "no such model" in wrong.stderr
        prices = ("--prompt_price", "10", "--completion_price", "30")
        server.answer = ranked
        capped = run(command(shared, run_dir, server, "--num_questions", "50", *prices, "--max_cost", "0.05"))
        assert "`max_cost` is reached" in capped.stderr and 6 < len({*map(number_of, server.replied)}) < 50
    down = run(command(shared, run_dir, server, "--num_questions", "12", "--max_retries", "0"))
    assert "cannot be reached" in down.stderr and down.returncode == 1
    keyless = run(command(shared, run_dir, None), OPENAI_API_KEY="")
    assert "OPENAI_API_KEY is not set. Set it, or name a local server" in keyless.stderr
    path = alpaca_outputs_path(run_dir, "mine")
    path.write_text(json.dumps(json.loads(path.read_text())[:804]))
    assert (
        "AlpacaEval's 805 rows in their order, got 804"
        in run(command(shared, run_dir, None), OPENAI_API_KEY="k").stderr
    )


def test_names_of_the_official_leaderboards_are_known():
    names = known_names()
    assert {"text_davinci_003", "gpt4_1106_preview", "vicuna-7b", "alpaca-7b"} <= names and len(names) > 150
