"""A FAKE judge: a real HTTP server that speaks the OpenAI protocol and gives prepared replies.

For what no real model can do here: known judgments, rate limits, refusals, an endpoint that hangs or fails. A real
server with a real (small) model is in test_judge_server.py.
"""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = Callable[[dict[str, Any]], Any]


class FakeJudge:
    """Replies to chat completions with what `answer(request)` gives.

    `answer` returns the text; or `(status, body, headers)` for an error; or a dict that is merged into the reply's
    only choice (a refusal, log-probs).
    """

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.requests: list[dict[str, Any]] = []  # that were received
        self.replied: list[dict[str, Any]] = []  # that got a reply with status 200: what would have been paid
        self._lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                self.send(200, {"object": "list", "data": []})

            def do_POST(self) -> None:
                request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                self.send(*outer.reply(request))

            def send(self, status: int, body: dict[str, Any], headers: dict[str, str] | None = None) -> None:
                content = json.dumps(body).encode()
                with contextlib.suppress(ConnectionError):  # the client may be dead: that is a test
                    self.send_response(status)
                    for name, value in {"Content-Type": "application/json", **(headers or {})}.items():
                        self.send_header(name, value)
                    self.send_header("Content-Length", str(len(content)))
                    self.end_headers()
                    self.wfile.write(content)

            def log_message(self, *arguments: Any) -> None:
                """Stay quiet."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.base_url = f"http://127.0.0.1:{self._server.server_port}/v1"

    def reply(self, request: dict[str, Any]) -> tuple[Any, ...]:
        with self._lock:
            self.requests.append(request)
        given = self.answer(request)
        if isinstance(given, tuple):
            return given
        with self._lock:
            self.replied.append(request)
        extra = given if isinstance(given, dict) else {"message": {"role": "assistant", "content": given}}
        choice = {"index": 0, "finish_reason": "stop", "logprobs": None, **extra}
        usage = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}
        reply = {"id": "fake", "object": "chat.completion", "created": 1700000000, "model": request["model"]}
        return 200, {**reply, "choices": [choice], "usage": usage}

    def start(self) -> None:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@contextlib.contextmanager
def fake_judge(answer: Answer) -> Iterator[FakeJudge]:
    judge = FakeJudge(answer)
    judge.start()
    try:
        yield judge
    finally:
        judge.stop()


def prompt_of(request: dict[str, Any]) -> str:
    return str(request["messages"][-1]["content"])


# Our own words in the fields of the official prompts, which are no part of this project.
TEXTS = {
    "single-v1": "S|{question}|{answer}",
    "single-math-v1": "SM|{question}|{ref_answer_1}|{answer}",
    "single-v1-multi-turn": "S2|{question_1}|{answer_1}|{question_2}|{answer_2}",
    "single-math-v1-multi-turn": "SM2|{question_1}|{ref_answer_1}|{answer_1}|{question_2}|{ref_answer_2}|{answer_2}",
    "pair-v2": "P|{question}|{answer_a}|{answer_b}",
    "pair-math-v1": "PM|{question}|{ref_answer_1}|{answer_a}|{answer_b}",
    "pair-v2-multi-turn": "P2|{question_1}|{question_2}|{answer_a_1}|{answer_a_2}|{answer_b_1}|{answer_b_2}",
    "pair-math-v1-multi-turn": (
        "PM2|{question_1}|{question_2}|{ref_answer_1}|{ref_answer_2}|{answer_a_1}|{answer_a_2}|{answer_b_1}|{answer_b_2}"
    ),
}


PROMPTS = {name: {"name": name, "system_prompt": "Judge.", "prompt_template": text} for name, text in TEXTS.items()}
