"""Servers with OpenAI's chat interface, asked several questions at a time."""

from __future__ import annotations

import json
import os
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPException, IncompleteRead
from typing import Any

from palaestra.core.errors import BadSetting, require
from palaestra.language.judges.calls import Failed, Late, call_here
from palaestra.language.judges.memory import layers

LARGEST = 1 << 22
"""Bytes of the longest reply that is read."""


class Endpoint:
    """Asks a server with OpenAI's chat interface, such as vLLM's: `url` ends in /v1.

    A question may take `timeout` seconds, with further tries where the server is busy or a connection breaks; where it could not
    be reached all that time, the other questions of a call are tried once. Up to `parallel` are sent at a time. `key` names the
    environment variable that has the server's key. `options` go into every request; `temperature` or `max_tokens` of None leaves
    that option out.
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
        away = threading.Event()
        with ThreadPoolExecutor(self.parallel) as pool:
            return list(pool.map(lambda question: call_here(lambda: self._ask(question, away)), questions))

    def _ask(self, question: str, away: threading.Event) -> str:
        """The reply to a question. `away` is set once a server could not be reached for as long as a question may take, after
        which none is waited for."""
        body = {"model": self.model, "messages": [{"role": "user", "content": question}], **self.options}
        request = self._request("chat/completions", json.dumps(body).encode())
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
                if away.is_set():
                    raise
                last = error
            if time.monotonic() + pause > end:
                if not isinstance(last, urllib.error.HTTPError):
                    away.set()
                raise last
            time.sleep(pause)
            pause *= 2

    def reach(self) -> None:
        """See whether there is a server, by asking it for its models, whatever it answers.

        Raises:
            BadSetting: there is none, or it has not answered for as long as a question may take.
        """
        try:
            self._read(self._request("models"), time.monotonic() + self.timeout)
        except urllib.error.HTTPError:
            pass
        except (OSError, HTTPException) as error:
            reason = f"{self.timeout:g} s" if isinstance(error, TimeoutError) else getattr(error, "reason", error)
            raise BadSetting(f"no server answers at {self.url} ({reason})") from None

    def _request(self, where: str, body: bytes | None = None) -> urllib.request.Request:
        headers = {"Content-Type": "application/json"}
        if self.key:
            headers["Authorization"] = f"Bearer {os.environ[self.key]}"
        return urllib.request.Request(f"{self.url}/{where}", body, headers)

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


def reach_all(judges: Mapping[str, Any]) -> None:
    """See whether the servers that judges ask are there.

    Raises:
        BadSetting: one is not.
    """
    for judge in judges.values():
        for layer in layers(judge):
            if isinstance(layer, Endpoint):
                layer.reach()


class _Straight(urllib.request.HTTPRedirectHandler):
    """Follows no redirection, which would send the key to another server."""

    def redirect_request(self, *given: Any) -> None:
        return None
