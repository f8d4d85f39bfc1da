"""A judge is asked once for each question, whatever happens: limits, refusals, kills, a cap; the server is a fake."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from nuggets_trainer.judging.judge import Endpoint, Judge, JudgeError, judge_request, reply_text
from tests.support.fake_judge import fake_judge, prompt_of
from tests.support.launch import ROOT, environment

pytest.importorskip("openai", reason="needs the extra `eval`")


def requests(count: int, words: int = 3) -> list[dict]:
    return [judge_request("judge", "Judge.", f"question {i} " * words, 20) for i in range(count)]


def texts(replies) -> list[str]:
    return [reply_text(reply) for reply in replies]


def endpoint(server, **options) -> Endpoint:
    return Endpoint(server.base_url, **{"concurrency": 2, "max_retries": 3, **options})


def test_replies_come_in_order_and_are_kept(tmp_path):
    with fake_judge(lambda request: prompt_of(request).upper()) as server:
        asked = requests(7)
        first = Judge(endpoint(server), tmp_path)
        replies = first.ask_all(asked, "judging")
        assert texts(replies) == [prompt_of(request).upper() for request in asked]
        again = Judge(endpoint(server), tmp_path)
        assert texts(again.ask_all([*asked[::-1], *requests(8)], "judging")[:7]) == texts(replies)[::-1]
    assert (first.asked, again.asked, len(server.requests)) == (7, 1, 8)


def test_equal_requests_at_once_are_asked_once(tmp_path):
    def slow(request):
        time.sleep(0.2)
        return "x"

    with fake_judge(slow) as server:
        judge = Judge(endpoint(server, concurrency=4), tmp_path)
        assert texts(judge.ask_all(requests(1) * 4, "judging")) == ["x"] * 4
    assert len(server.requests) == 1


def test_rate_limits_are_waited_for(tmp_path):
    """Every question is refused once with 429 and a `Retry-After`, and answered at the second try."""
    seen: set[str] = set()

    def answer(request):
        if prompt_of(request) in seen:
            return "ok"
        seen.add(prompt_of(request))
        return 429, {"error": {"message": "Rate limit reached"}}, {"Retry-After": "0.05"}

    with fake_judge(answer) as server:
        judge = Judge(endpoint(server), tmp_path)
        assert texts(judge.ask_all(requests(4), "judging")) == ["ok"] * 4
    assert len(server.requests) == 8 and len(server.replied) == 4


def test_a_lasting_rate_limit_keeps_the_replies(tmp_path):
    def answer(request):
        if len(server.replied) < 3:
            return "ok"
        return 429, {"error": {"message": "quota"}}, {"Retry-After": "0.01"}

    with fake_judge(answer) as server:
        judge = Judge(endpoint(server, concurrency=1), tmp_path)
        with pytest.raises(JudgeError, match=r"still limits the rate .* after 3 retries.*quota.*`concurrency`"):
            judge.ask_all(requests(6), "judging")
        assert len(server.requests) == 3 + 4  # the others were not sent at all
        server.answer = lambda request: "ok"
        again = Judge(endpoint(server), tmp_path)
        assert texts(again.ask_all(requests(6), "judging")) == ["ok"] * 6 and again.asked == 3


@pytest.mark.parametrize(
    ("status", "message"),
    [(401, "refuses the key in OPENAI_API_KEY"), (404, "has no judge 'judge'"), (400, "rejects every request")],
)
def test_what_no_retry_can_help_stops_at_once(tmp_path, status, message):
    with fake_judge(lambda request: (status, {"error": {"message": "as it is"}})) as server:
        judge = Judge(endpoint(server, concurrency=1), tmp_path)
        with pytest.raises(JudgeError, match=f"{message}.*as it is"):
            judge.ask_all(requests(30), "judging")
    assert len(server.requests) == (5 if status == 400 else 1)


def test_an_endpoint_that_is_down_is_named(tmp_path):
    with fake_judge(lambda request: "ok") as server:
        place = endpoint(server, max_retries=0)
    started = time.monotonic()
    with pytest.raises(JudgeError, match=r"127\.0\.0\.1.* cannot be reached.*Check that the server runs"):
        Judge(place, tmp_path).ask_all(requests(5), "judging")
    assert time.monotonic() - started < 20 and not list(tmp_path.iterdir())


def test_a_missing_key_is_said_before_anything_is_sent(monkeypatch, tmp_path):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(ValueError, match="environment variable OPENAI_API_KEY is not set. Set it.*`base_url`"):
        Endpoint().key()
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    assert Endpoint().key() == "secret" and Endpoint("http://localhost:1/v1", api_key_env="NONE").key() == "EMPTY"


def test_the_key_is_sent_and_never_written(monkeypatch, tmp_path):
    monkeypatch.setenv("MY_KEY", "very-secret")
    with fake_judge(lambda request: "ok") as server:
        judge = Judge(endpoint(server, api_key_env="MY_KEY"), tmp_path)
        judge.ask_all(requests(2), "judging")
    assert "very-secret" not in "".join(path.read_text() for path in tmp_path.iterdir())


def test_one_rejected_request_does_not_stop_the_others(tmp_path):
    def answer(request):
        if "question 2" in prompt_of(request):
            return 400, {"error": {"message": "maximum context length"}}
        return "ok"

    with fake_judge(answer) as server:
        judge = Judge(endpoint(server), tmp_path)
        assert texts(judge.ask_all(requests(4), "judging")) == ["ok", "ok", "", "ok"]
    assert len(judge.rejected) == 1 and "maximum context length" in judge.rejected[0]


def test_a_refusal_is_a_reply(tmp_path):
    refusal = {"message": {"role": "assistant", "content": None, "refusal": "I will not."}}
    with fake_judge(lambda request: refusal) as server:
        judge = Judge(endpoint(server), tmp_path)
        assert texts(judge.ask_all(requests(2), "judging")) == ["I will not."] * 2
    assert len(server.requests) == 2


def test_the_cap_is_never_exceeded_over_several_runs(tmp_path):
    """A reply costs 100 + 10 tokens, 110 millionths of a dollar; no request is sent that could pass the cap."""
    prices = {"prompt_price": 1.0, "completion_price": 1.0}
    with fake_judge(lambda request: "ok") as server:
        judge = Judge(endpoint(server, max_cost=0.0011, **prices), tmp_path)
        with pytest.raises(JudgeError, match=r"`max_cost` is reached: 0\.00\d+ of 0\.0011 dollars.*higher `max_cost`"):
            judge.ask_all(requests(30), "judging")
        paid = len(server.replied)
        assert 5 <= paid <= 10 and judge.spent == pytest.approx(110e-6 * paid) and judge.spent <= 0.0011
        again = Judge(endpoint(server, max_cost=0.0011, **prices), tmp_path)  # knows what was spent before
        with pytest.raises(JudgeError, match="max_cost"):
            again.ask_all(requests(30), "judging")
        more = Judge(endpoint(server, max_cost=1.0, **prices), tmp_path)
        assert texts(more.ask_all(requests(30), "judging")) == ["ok"] * 30
    assert len(server.replied) == len(server.requests) == 30
    with pytest.raises(ValueError, match="`max_cost` needs `prompt_price`"):
        Endpoint(max_cost=1.0)


def test_killed_while_judging_nothing_is_asked_twice(tmp_path):
    """SIGKILL while the 6th question is on its way: it is the only one that is sent again, and was never answered."""
    waits = threading.Event()

    def answer(request):
        if "question 5" in prompt_of(request) and not waits.is_set():
            waits.set()
            time.sleep(3600)
        return prompt_of(request)

    script = (
        "import sys\n"
        "from tests.judging.test_judge import Endpoint, Judge, requests, texts\n"
        "judge = Judge(Endpoint(sys.argv[1], concurrency=1), sys.argv[2])\n"
        "print(texts(judge.ask_all(requests(9), 'judging')))\n"
    )
    with fake_judge(answer) as server:
        command = [sys.executable, "-c", script, server.base_url, str(tmp_path)]
        process = subprocess.Popen(command, cwd=ROOT, env=environment(), stderr=subprocess.DEVNULL)
        assert waits.wait(60)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        output = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, check=True)
    assert output.stdout.strip() == str([prompt_of(request) for request in requests(9)])
    sent = [prompt_of(request) for request in server.requests]
    assert len(sent) == 10 and sent.count(prompt_of(requests(6)[5])) == 2
    assert sorted(map(prompt_of, server.replied)) == sorted(map(prompt_of, requests(9)))  # each paid once
