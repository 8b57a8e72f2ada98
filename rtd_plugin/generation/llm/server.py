"""A language model behind any server that speaks OpenAI's chat protocol."""

import http.client
import json
import socket
import threading
import urllib.error
import urllib.parse
import urllib.request
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from rtd_plugin.errors import RTDError, UsageError
from rtd_plugin.printable import KEY_VARIABLES, read_api_key, redact

MAX_ANSWER_BYTES = 1 << 20
MAX_ERROR_BYTES = 1 << 16
MAX_TIMEOUT = 86_400.0  # seconds; sockets accept no infinite timeout
SHOWN_CHARACTERS = 300  # of an error's body
RETRIED = (408, 409, 425, 429)  # HTTP statuses, beside 5xx, after which a request is sent again


class RetryableError(Exception):
    """A request failed, and may succeed when it is sent again.

    Attributes:
        retry_after: seconds to wait, if the server says so.
    """

    def __init__(self, reason: str, retry_after: float | None = None) -> None:
        super().__init__(reason)
        self.retry_after = retry_after


@dataclass(frozen=True)
class Server:
    """A server and a model on it.

    Args:
        endpoint: the address before `/chat/completions`, such as `http://localhost:8000/v1`.
        model: the model's name on the server.
        timeout: seconds from a request to the end of its answer.
        attempts: how often a request is sent before it counts as failed.
        pause: seconds before the second attempt; doubles with each further one.

    Raises:
        UsageError: the endpoint is not an HTTP address, or contains a user name, a password or a query; or the timeout
            is not above 0 and at most a day.
    """

    endpoint: str
    model: str
    timeout: float = 120.0
    attempts: int = 6
    pause: float = 1.0

    def __post_init__(self) -> None:
        try:
            url = urllib.parse.urlsplit(self.endpoint)
            is_address = url.scheme in ("http", "https") and bool(url.hostname) and url.port != 0
        except ValueError:  # a broken port or IPv6 address
            is_address = False
        if not is_address:
            raise UsageError(f"--endpoint {self.endpoint}: not an address such as http://localhost:8000/v1")
        if url.username or url.password or url.query:
            raise UsageError(
                f"--endpoint: contains a user name, password or query; set a key in the environment "
                f"({' or '.join(KEY_VARIABLES)}) instead"
            )
        if not 0 < self.timeout <= MAX_TIMEOUT:
            raise UsageError(f"--timeout {self.timeout}: not between 0 and {MAX_TIMEOUT:.0f} seconds")

    @property
    def address(self) -> str:
        """The address that requests are sent to."""
        return f"{self.endpoint.rstrip('/')}/chat/completions"

    def ask(self, messages: list[dict[str, str]], seed: int) -> str:
        """Return the model's answer to a conversation.

        Raises:
            RetryableError: the request may succeed when it is sent again.
            RTDError: it will fail again.
        """
        body = {"model": self.model, "messages": messages, "temperature": 1.0, "seed": seed}
        headers = {"Content-Type": "application/json"}
        key = read_api_key()
        if key:
            headers["Authorization"] = f"Bearer {key}"
        request = urllib.request.Request(self.address, json.dumps(body).encode(), headers)
        with _Clock(self.timeout) as clock:
            try:
                with clock.open(request) as response:
                    content = response.read(MAX_ANSWER_BYTES + 1)
            except urllib.error.HTTPError as error:
                raise self._explain(error, clock) from error
            except (OSError, ValueError, http.client.HTTPException) as error:  # connection errors, time-outs included
                if isinstance(error, (ValueError, http.client.InvalidURL)) and not clock.is_connected:
                    raise RTDError(f"{self.address}: request failed ({error}): correct address or key") from error
                reason = str(getattr(error, "reason", error)) or type(error).__name__
                raise RetryableError(clock.explain() or reason) from error
            if clock.is_over:  # an answer without a length ends where its connection was cut
                raise RetryableError(clock.explain())
        try:
            answer = json.loads(content[:MAX_ANSWER_BYTES])["choices"][0]["message"]["content"]
        except (ValueError, KeyError, IndexError, TypeError, RecursionError) as error:
            raise RetryableError("the answer does not follow the chat protocol") from error
        if not isinstance(answer, str):
            raise RetryableError("the answer has no text")
        return answer

    def _explain(self, error: urllib.error.HTTPError, clock: "_Clock") -> Exception:
        with error:
            try:
                content = error.read(MAX_ERROR_BYTES)
                # Reading a given number of bytes does not fail if the body is shorter than announced.
                is_short = len(content) < MAX_ERROR_BYTES and bool(getattr(error.fp, "length", None))
                is_whole = not clock.is_over and not is_short
            except (OSError, ValueError, http.client.HTTPException):
                is_whole = False
            if not is_whole:
                return RetryableError(f"HTTP {error.code}, and its body is truncated")
            # Redact before cutting: a key cut in half would not be recognised.
            text = " ".join(redact(content.decode("utf-8", "replace")).split())[:SHOWN_CHARACTERS]
        if error.code in RETRIED or error.code >= 500:
            return RetryableError(f"HTTP {error.code}", _parse_seconds(error.headers.get("Retry-After")))
        hint = f"; set {KEY_VARIABLES[0]}" if error.code in (401, 403) else ""
        return RTDError(f"{self.address}: HTTP {error.code} ({text or error.reason}){hint}")


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Follows no redirect: it would send the key to another address."""

    def redirect_request(self, *args: Any) -> None:
        return None


class _Clock:
    """Opens a request and cuts its connection when its time is over: a socket's timeout restarts at each byte.

    Args:
        seconds: from the start of the block to the end of the answer.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._sockets: list[socket.socket] = []
        self.is_over = False
        self._timer = threading.Timer(seconds, self._cut)
        self._timer.daemon = True

    def __enter__(self) -> "_Clock":
        self._timer.start()
        return self

    def __exit__(
        self, type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._timer.cancel()

    def open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
        """Send a request and return its response, whose body is not read yet."""
        sockets = self._sockets

        class Connection(http.client.HTTPConnection):
            def connect(self) -> None:
                super().connect()
                sockets.append(self.sock)

        class SecureConnection(http.client.HTTPSConnection):
            def connect(self) -> None:
                super().connect()
                sockets.append(self.sock)

        class Handler(urllib.request.HTTPHandler):
            def http_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
                return self.do_open(Connection, request)

        class SecureHandler(urllib.request.HTTPSHandler):
            def https_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
                return self.do_open(SecureConnection, request)

        opener = urllib.request.build_opener(_NoRedirect, Handler, SecureHandler)
        return opener.open(request, timeout=self._seconds)

    @property
    def is_connected(self) -> bool:
        """Whether the request reached the server."""
        return bool(self._sockets)

    def explain(self) -> str:
        """Return a message if the time is over, else ""."""
        return f"no complete answer within {self._seconds:g} seconds" if self.is_over else ""

    def _cut(self) -> None:
        self.is_over = True
        for opened in self._sockets:
            with suppress(OSError):
                opened.shutdown(socket.SHUT_RDWR)


def _parse_seconds(retry_after: str | None) -> float | None:
    try:
        return max(0.0, float(retry_after)) if retry_after else None
    except ValueError:
        return None
