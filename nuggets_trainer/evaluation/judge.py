"""A judge behind an OpenAI-compatible endpoint: each question is asked once, its raw reply kept. Knows no benchmark.

The official `openai` client retries what may pass (429, 5xx, lost connections; it waits as `Retry-After` says, or
doubling from half a second to 8 s) and asks through here alone, so that a reply is on the disk before it is used, is
never paid twice, and the cost stays below a cap. The judge's name and the request say which reply is meant, the
endpoint does not: a local server may move to another port.
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

from nuggets_trainer.evaluation.journal import Journal

logger = logging.getLogger(__name__)

MAX_REJECTED = 5  # requests rejected before any reply: then it is not the requests
OVERHEAD_TOKENS = 64  # of a chat's roles and markers, at most, in the bound on what a request costs
Request = dict[str, Any]
Reply = dict[str, Any]


class JudgeError(RuntimeError):
    """Why judging stopped, and what to do. What was answered is kept: the same command goes on from there."""


@dataclass(frozen=True)
class Endpoint:
    """Where the judge is asked, and what that may cost.

    Attributes:
        base_url: such as `http://localhost:8000/v1`; None for OpenAI's own.
        api_key_env: environment variable that holds the key.
        max_cost: never spend more than this, in dollars, over all that the journal holds; None without a cap.
        prompt_price: dollars per million tokens asked.
        completion_price: dollars per million tokens replied.
        max_retries: of one request.
        timeout: seconds for one request.
        concurrency: requests on their way at once.
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
                "`max_cost` needs `prompt_price` and `completion_price` (dollars per million tokens): prices change, "
                "so none is built in."
            )
        if self.concurrency < 1 or self.max_retries < 0:
            raise ValueError(
                f"`concurrency` must be at least 1 and `max_retries` at least 0, got {self.concurrency} and "
                f"{self.max_retries}."
            )

    def key(self) -> str:
        """Read the key; a local server takes any.

        Raises:
            ValueError: if OpenAI's own endpoint is asked without a key.
        """
        key = os.environ.get(self.api_key_env, "")
        if not key and self.base_url is None:
            raise ValueError(
                f"The judge needs a key: set the environment variable {self.api_key_env}, or name a local server with "
                "`base_url` (such as http://localhost:8000/v1)."
            )
        return key or "EMPTY"

    def cost(self, prompt_tokens: float, completion_tokens: float) -> float:
        """Dollars; 0 without prices."""
        asked, replied = self.prompt_price or 0.0, self.completion_price or 0.0
        return (asked * prompt_tokens + replied * completion_tokens) / 1e6


class Judge:
    """Asks an endpoint, through a journal of raw replies.

    Args:
        endpoint: where, and at what cost.
        directory: of the journal; judges of any name share it.
    """

    def __init__(self, endpoint: Endpoint, directory: str | Path) -> None:
        self.endpoint = endpoint
        self.asked = 0  # requests that were sent; the others were answered from the journal
        self.rejected: list[str] = []  # why requests were refused by the endpoint: too long, filtered
        self.heard = False  # whether the endpoint has replied to this process
        self._journal = Journal(directory)
        self._replies = self._journal.read()
        self._lock = threading.Condition()
        self._client: Any = None
        self._failure: Exception | None = None
        self.spent = sum(self._cost_of(record) for record in self._replies.values())
        self._reserved: dict[str, float] = {}  # what requests on their way can cost

    def ask(self, request: Request) -> Reply | None:
        """Reply to a request for a chat completion, from the journal or from the endpoint.

        Args:
            request: arguments of `chat.completions.create`, with `model`, `messages` and `max_tokens`.

        Returns:
            The raw reply; None where the endpoint rejects this one request (HTTP 400: too long, filtered), which costs
            nothing, is counted, and is asked again by the next run.

        Raises:
            JudgeError: if the endpoint cannot be used or the cap is reached. All later calls raise it at once.
        """
        key = request_key(request)
        with self._lock:
            while key in self._reserved:
                self._lock.wait()  # another thread asks the same
            if key in self._replies:
                return _reply(self._replies[key])
            self._reserve(key, request)
        try:
            reply = self._send(request)
            if reply is None:
                return None
            record = {"request": request, "reply": reply}
            self._journal.append({key: record})  # before it is used
            with self._lock:
                self._replies[key] = record
                self.spent += self._cost_of(record)
            return reply
        except Exception as error:  # whatever it is, the other threads must stop asking; it is raised on
            self._failure = error
            raise
        finally:
            with self._lock:
                del self._reserved[key]
                self._lock.notify_all()

    def ask_all(self, requests: Sequence[Request], label: str) -> list[Reply | None]:
        """Reply to many requests, several at once, in their order.

        On an error or Ctrl-C, no more are sent, and replies on their way are still kept.
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
        """Set aside what a request can cost at most, once what is on its way leaves room for it under the cap.

        A byte-level tokenizer makes no more tokens than there are bytes.
        """
        bound = self.endpoint.cost(_bytes_of(request) + OVERHEAD_TOKENS, request["max_tokens"])
        cap = float("inf") if self.endpoint.max_cost is None else self.endpoint.max_cost
        while self._failure is None and self.spent + sum(self._reserved.values()) + bound > cap:
            if not self._reserved:
                self._failure = JudgeError(
                    f"`max_cost` is reached: {self.spent:.4f} of {cap:.4f} dollars are spent, and the next request "
                    f"could cost {bound:.4f}. What was answered is kept; the same command with a higher `max_cost` "
                    "goes on."
                )
            else:
                self._lock.wait()
        if self._failure is not None:
            raise self._failure
        self._reserved[key] = bound
        self.asked += 1

    def _send(self, request: Request) -> Reply | None:
        import openai

        try:
            reply: Reply = self._open().chat.completions.create(**request).model_dump(mode="json")
        except openai.BadRequestError as error:
            self.rejected.append(_detail(error))
            if not self.heard and len(self.rejected) >= MAX_REJECTED:
                raise JudgeError(
                    f"{self._place()} rejects every request to {request['model']!r}: {self.rejected[-1]} Is it the "
                    "name the server knows?"
                ) from error
            logger.warning("The judge's endpoint rejects a request: %s", self.rejected[-1])
            return None
        except openai.AuthenticationError as error:
            raise JudgeError(
                f"{self._place()} refuses the key in {self.endpoint.api_key_env}: {_detail(error)}"
            ) from error
        except openai.NotFoundError as error:
            raise JudgeError(f"{self._place()} has no judge {request['model']!r}: {_detail(error)}") from error
        except openai.RateLimitError as error:
            raise JudgeError(
                f"{self._place()} still limits the rate (or the quota is used up) after {self.endpoint.max_retries} "
                f"retries: {_detail(error)}. What was answered is kept; run the same command later, or with less "
                "`concurrency`."
            ) from error
        except openai.APIConnectionError as error:  # timeouts too
            raise JudgeError(
                f"{self._place()} cannot be reached ({error.__cause__ or error}), {self.endpoint.max_retries} retries "
                "included. Is the server up? What was answered is kept; the same command goes on."
            ) from error
        except openai.APIError as error:
            raise JudgeError(
                f"{self._place()} fails: {_detail(error)}. What was answered is kept; try again."
            ) from error
        if not reply.get("choices"):
            raise JudgeError(f"{self._place()} gave a reply without `choices`: {json.dumps(reply)[:200]}")
        self.heard = True
        return reply

    def _open(self) -> Any:
        """Make the client once, and see that there is a server before it is waited for with patience."""
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
                with contextlib.suppress(openai.APIStatusError):  # it answers; a list of models need not be there
                    client.with_options(max_retries=1, timeout=30.0).models.list()
                self._client = client
            return self._client

    def _place(self) -> str:
        return f"The judge's endpoint {self.endpoint.base_url or '(OpenAI)'}"

    def _cost_of(self, record: dict[str, Any]) -> float:
        """Dollars, by the usage that came with the reply; the bound where none came."""
        usage = record["reply"].get("usage") or {}
        prompt_tokens = usage.get("prompt_tokens")
        if prompt_tokens is None:
            prompt_tokens = _bytes_of(record["request"]) + OVERHEAD_TOKENS
        completion_tokens = usage.get("completion_tokens")
        if completion_tokens is None:
            completion_tokens = record["request"]["max_tokens"]
        return self.endpoint.cost(prompt_tokens, completion_tokens)


def judge_request(judge_model: str, system_prompt: str, user_prompt: str, max_tokens: int) -> Request:
    """Return a greedy request with a system prompt."""
    messages = [{"role": "system", "content": system_prompt}, {"role": "user", "content": user_prompt}]
    return {"model": judge_model, "messages": messages, "temperature": 0, "max_tokens": max_tokens}


def reply_text(reply: Reply | None) -> str:
    """Give what the judge said, be it a refusal; empty where it was not heard."""
    message = {} if reply is None else reply["choices"][0]["message"]
    return message.get("content") or message.get("refusal") or ""


def request_key(request: Request) -> str:
    """SHA-256 of a request: the same question to the same judge has the same reply."""
    return hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()


def _reply(record: dict[str, Any]) -> Reply:
    reply: Reply = record["reply"]
    return reply


def _bytes_of(request: Request) -> int:
    return len(json.dumps(request["messages"], ensure_ascii=False).encode())


def _detail(error: Exception) -> str:
    """Give what the server says, which the client keeps apart from its own message for some servers."""
    body = getattr(error, "body", None)
    return str(error) if not body or str(body) in str(error) else f"{error} {body}"
