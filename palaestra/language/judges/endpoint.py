"""Servers with OpenAI's chat interface, asked several questions at a time."""

from __future__ import annotations

import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPException, IncompleteRead
from typing import Any

from palaestra.core.errors import require
from palaestra.language.judges.calls import Failed, Late, call_here

LARGEST = 1 << 22
"""Bytes of the longest reply that is read."""


class Endpoint:
    """Asks a server with OpenAI's chat interface, such as vLLM's: `url` ends in /v1.

    A question may take `timeout` seconds, with further tries where the server is busy or a connection breaks; up to `parallel`
    questions are sent at a time. `key` names the environment variable that has the server's key. `options` go into every request;
    `temperature` or `max_tokens` of None leaves that option out.
    """

    def __init__(
        self,
        url: str,
        model: str,
        key: str = "",
        timeout: float = 60.0,
        parallel: int = 8,
        options: Mapping[str, Any] | None = None,
    ):
        require(url.startswith(("http://", "https://")), f"an endpoint begins with http:// or https://, got {url!r}")
        require(timeout > 0, f"the time limit of a question must be positive, got {timeout}")
        require(parallel >= 1, f"parallel must be at least 1, got {parallel}")
        require(not key or key in os.environ, f"there is no environment variable {key} to have the key")
        self.url, self.model, self.key, self.timeout, self.parallel = url.rstrip("/"), model, key, timeout, parallel
        given = {"temperature": 0.0, "max_tokens": 512, **(options or {})}
        self.options = {name: value for name, value in given.items() if value is not None}
        self._opener = urllib.request.build_opener(_Straight)

    def __call__(self, questions: Sequence[str]) -> list[str | Failed]:
        with ThreadPoolExecutor(self.parallel) as pool:
            return list(pool.map(lambda question: call_here(lambda: self._ask(question)), questions))

    def _ask(self, question: str) -> str:
        body = {"model": self.model, "messages": [{"role": "user", "content": question}], **self.options}
        headers = {"Content-Type": "application/json"}
        if self.key:
            headers["Authorization"] = f"Bearer {os.environ[self.key]}"
        request = urllib.request.Request(f"{self.url}/chat/completions", json.dumps(body).encode(), headers)
        end, pause = time.monotonic() + self.timeout, 0.25
        while True:
            try:
                return json.loads(self._read(request, end))["choices"][0]["message"]["content"] or ""
            except urllib.error.HTTPError as error:
                if error.code not in (408, 429) and error.code < 500:
                    raise
                last: Exception = error
            except TimeoutError:
                raise Late(f"took longer than {self.timeout:g} seconds") from None
            except (OSError, HTTPException) as error:
                last = error
            if time.monotonic() + pause > end:
                raise last
            time.sleep(pause)
            pause *= 2

    def _read(self, request: urllib.request.Request, end: float) -> bytes:
        """The body of a response, all of which must have come by `end`.

        Raises:
            TimeoutError: it has not.
            IncompleteRead: the connection broke off.
        """
        read = b""
        try:
            with self._opener.open(request, timeout=max(end - time.monotonic(), 1e-3)) as response:
                while part := response.read1(1 << 16):
                    read += part
                    if len(read) > LARGEST:
                        raise ValueError(f"the reply is longer than {LARGEST} bytes")
                    if time.monotonic() > end:
                        raise TimeoutError
                if response.length:  # `read1` does not say so
                    raise IncompleteRead(read, response.length)
        except urllib.error.URLError as error:
            if isinstance(error.reason, TimeoutError):
                raise error.reason from None
            raise
        return read


class _Straight(urllib.request.HTTPRedirectHandler):
    """Follows no redirection, which would send the key to another server."""

    def redirect_request(self, *given: Any) -> None:
        return None
