"""A judge behind an OpenAI-compatible endpoint: each question is asked once, and its raw reply is kept.

All requests of the official `openai` client go through this module. So a reply is on the disk before it is used, it is
never paid twice, and the cost stays below a limit. The client retries errors that may pass (429, 5xx, lost
connections); it waits as `Retry-After` says, or from half a second doubling to 8 s. The key of a reply is made of the
judge's name and the request, not of the endpoint, because a local server may move to another port.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from nuggets_trainer.config.checks import check_int
from nuggets_trainer.evaluation.journal import Journal
from nuggets_trainer.wording import counted

logger = logging.getLogger(__name__)

MAX_REJECTED = 5  # after so many rejected requests and no reply, the fault is not in the requests
OVERHEAD_TOKENS = 64  # upper bound on a chat's roles and markers, for the bound on the cost of a request
Request = dict[str, Any]
Reply = dict[str, Any]


class JudgeError(RuntimeError):
    """Error that stops judging, with what to do. All replies are kept: the same command continues from there."""


@dataclass(frozen=True)
class Endpoint:
    """The endpoint of a judge, and what it may cost.

    Attributes:
        base_url: URL such as `http://localhost:8000/v1`; None for OpenAI's own.
        api_key_env: environment variable that holds the key.
        max_cost: most dollars to spend, over everything that the journal holds; None for no limit.
        prompt_price: dollars per million prompt tokens.
        completion_price: dollars per million completion tokens.
        max_retries: number of retries of one request.
        timeout: seconds to wait for one request.
        concurrency: number of requests that are sent at the same time.
    """

    base_url: str | None = None
    api_key_env: str = "OPENAI_API_KEY"
    max_cost: float | None = None
    prompt_price: float | None = None
    completion_price: float | None = None
    max_retries: int = 8
    timeout: float = 600.0
    concurrency: int = 4

    def __post_init__(self) -> None:
        if self.max_cost is not None and (self.prompt_price is None or self.completion_price is None):
            raise ValueError(
                "`max_cost` needs `prompt_price` and `completion_price` (dollars per million tokens). Prices change, "
                "so none is built in: give both."
            )
        check_int("concurrency", self.concurrency, minimum=1)
        check_int("max_retries", self.max_retries, minimum=0)

    def key(self) -> str:
        """Return the key from the environment; a local server accepts any.

        Raises:
            ValueError: if there is no key for OpenAI's own endpoint.
        """
        key = os.environ.get(self.api_key_env, "")
        if not key and self.base_url is None:
            raise ValueError(
                f"The judge needs a key, but the environment variable {self.api_key_env} is not set. Set it, or name "
                "a local server with `base_url` (such as http://localhost:8000/v1)."
            )
        return key or "EMPTY"

    def cost(self, prompt_tokens: float, completion_tokens: float) -> float:
        """Return the cost in dollars; 0 without prices."""
        prompt_price = self.prompt_price or 0.0
        completion_price = self.completion_price or 0.0
        return (prompt_price * prompt_tokens + completion_price * completion_tokens) / 1e6


class Judge:
    """Asks an endpoint, and keeps the raw replies in a journal.

    Args:
        endpoint: endpoint to ask.
        directory: directory of the journal; judges of any name share it.
    """

    def __init__(self, endpoint: Endpoint, directory: str | Path) -> None:
        self.endpoint = endpoint
        self.asked = 0  # requests that were sent; the journal answered the others
        self.rejected: list[str] = []  # messages of the endpoint about rejected requests: too long, filtered
        self.has_replied = False  # whether the endpoint has replied to this process
        self._journal = Journal(directory)
        self._replies = self._journal.read()
        self._lock = threading.Condition()
        self._client: Any = None
        self._failure: Exception | None = None
        self.spent = sum(map(self._cost_of, self._replies.values()))
        self._reserved: dict[str, float] = {}  # highest cost of each request that was sent and has no reply yet

    def ask(self, request: Request) -> Reply | None:
        """Return the reply to a request for a chat completion, from the journal or from the endpoint.

        Args:
            request: arguments of `chat.completions.create`, with `model`, `messages` and `max_tokens`.

        Returns:
            The raw reply; None if the endpoint rejects this one request (HTTP 400: too long, filtered). A rejected
            request costs nothing, is counted, and is sent again by the next run.

        Raises:
            JudgeError: if the endpoint cannot be used or the limit is reached. All later calls raise it at once.
        """
        key = request_key(request)
        with self._lock:
            while key in self._reserved:
                self._lock.wait()  # another thread has sent the same request
            if key in self._replies:
                return _reply(self._replies[key])
            self._reserve(key, request)
        try:
            reply = self._send(request)
            if reply is None:
                return None
            record = {"request": request, "reply": reply}
            self._journal.append({key: record})  # before the reply is used, so that it is never paid twice
            with self._lock:
                self._replies[key] = record
                self.spent += self._cost_of(record)
            return reply
        except Exception as error:  # whatever it is, the other threads must stop asking
            self._failure = error
            raise
        finally:
            with self._lock:
                del self._reserved[key]
                self._lock.notify_all()

    def ask_all(self, requests: Sequence[Request], label: str) -> list[Reply | None]:
        """Return the replies to many requests in their order; several are sent at the same time.

        After an error or Ctrl-C no more requests are sent; replies to those already sent are still kept.
        """
        pool = ThreadPoolExecutor(self.endpoint.concurrency)
        try:
            futures = [pool.submit(self.ask, request) for request in requests]
            for future in tqdm(as_completed(futures), total=len(futures), desc=label, unit="reply"):
                future.result()
        finally:
            pool.shutdown(cancel_futures=True)
        return [future.result() for future in futures]

    def _reserve(self, key: str, request: Request) -> None:
        """Reserve the highest cost of a request; wait while the requests that were sent leave no room for it.

        A byte-level tokenizer makes no more tokens than there are bytes.
        """
        bound = self.endpoint.cost(_bytes_of(request) + OVERHEAD_TOKENS, request["max_tokens"])
        limit = self.endpoint.max_cost
        if limit is None:
            limit = float("inf")
        while self._failure is None and self.spent + sum(self._reserved.values()) + bound > limit:
            if not self._reserved:
                self._failure = JudgeError(
                    f"`max_cost` is reached: {self.spent:.4f} of {limit:.4f} dollars are spent, and the next request "
                    f"could cost {bound:.4f}. All replies are kept: run the same command with a higher `max_cost` to "
                    "continue."
                )
            else:
                self._lock.wait()
        if self._failure is not None:
            raise self._failure
        self._reserved[key] = bound
        self.asked += 1

    def _send(self, request: Request) -> Reply | None:
        """Send a request; return None if it is rejected."""
        import openai

        try:
            reply: Reply = self._open().chat.completions.create(**request).model_dump(mode="json")
        except openai.BadRequestError as error:
            self.rejected.append(_detail(error))
            if not self.has_replied and len(self.rejected) >= MAX_REJECTED:
                raise JudgeError(
                    f"{self._place()} rejects every request to {request['model']!r}: {self.rejected[-1]} Check that "
                    "the server has a model of this name."
                ) from error
            logger.warning("The judge's endpoint rejects a request: %s", self.rejected[-1])
            return None
        except openai.APIError as error:
            raise self._explained(error, request) from error
        if not reply.get("choices"):
            raise JudgeError(f"{self._place()} gave a reply without `choices`: {json.dumps(reply)[:200]}")
        self.has_replied = True
        return reply

    def _explained(self, error: Exception, request: Request) -> JudgeError:
        """Turn an error of the client into one that says what to do."""
        import openai

        place, detail, retries = self._place(), _detail(error), counted(self.endpoint.max_retries, "retry", "retries")
        if isinstance(error, openai.AuthenticationError):
            return JudgeError(f"{place} refuses the key in {self.endpoint.api_key_env}: {detail}")
        if isinstance(error, openai.NotFoundError):
            return JudgeError(f"{place} has no judge {request['model']!r}: {detail}")
        if isinstance(error, openai.RateLimitError):
            return JudgeError(
                f"{place} still limits the rate (or the quota is used up) after {retries}: {detail}. All replies are "
                "kept: run the same command later, or with less `concurrency`."
            )
        if isinstance(error, openai.APIConnectionError):  # timeouts too
            return JudgeError(
                f"{place} cannot be reached ({error.__cause__ or error}) after {retries}. Check that the server runs. "
                "All replies are kept: run the same command to continue."
            )
        return JudgeError(f"{place} fails: {detail}. All replies are kept: run the same command to continue.")

    def _open(self) -> Any:
        """Make the client once; check with a short timeout that there is a server before any long wait for it."""
        with self._lock:
            if self._client is None:
                import openai

                endpoint = self.endpoint
                client = openai.OpenAI(
                    base_url=endpoint.base_url,
                    api_key=endpoint.key(),
                    max_retries=endpoint.max_retries,
                    timeout=endpoint.timeout,
                )
                # A server that answers with an error is there; it need not have a list of models.
                with contextlib.suppress(openai.APIStatusError):
                    client.with_options(max_retries=1, timeout=30.0).models.list()
                self._client = client
            return self._client

    def _place(self) -> str:
        return f"The judge's endpoint {self.endpoint.base_url or '(OpenAI)'}"

    def _cost_of(self, record: dict[str, Any]) -> float:
        """Return the dollars by the usage in the reply; the upper bound if the reply has none."""
        usage = record["reply"].get("usage") or {}
        prompt_tokens = usage.get("prompt_tokens")
        if prompt_tokens is None:
            prompt_tokens = _bytes_of(record["request"]) + OVERHEAD_TOKENS
        completion_tokens = usage.get("completion_tokens")
        if completion_tokens is None:
            completion_tokens = record["request"]["max_tokens"]
        return self.endpoint.cost(prompt_tokens, completion_tokens)


def judge_request(judge_model: str, system_prompt: str, user_prompt: str, max_tokens: int) -> Request:
    """Make a greedy request with a system prompt."""
    messages = [{"role": "system", "content": system_prompt}, {"role": "user", "content": user_prompt}]
    return {"model": judge_model, "messages": messages, "temperature": 0, "max_tokens": max_tokens}


def reply_text(reply: Reply | None) -> str:
    """Return the text of a reply, or its refusal; an empty text if the request was rejected."""
    if reply is None:
        return ""
    message = reply["choices"][0]["message"]
    return message.get("content") or message.get("refusal") or ""


def request_key(request: Request) -> str:
    """Return the SHA-256 hash of a request: the same question to the same judge has the same reply."""
    return hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()


def _reply(record: dict[str, Any]) -> Reply:
    reply: Reply = record["reply"]
    return reply


def _bytes_of(request: Request) -> int:
    return len(json.dumps(request["messages"], ensure_ascii=False).encode())


def _detail(error: Exception) -> str:
    """Return the message of the server; for some servers the client's own message does not contain it."""
    body = getattr(error, "body", None)
    if not body or str(body) in str(error):
        return str(error)
    return f"{error} {body}"
