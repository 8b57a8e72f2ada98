"""A language model behind any server that speaks OpenAI's chat protocol."""

import http.client
import json
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from typing import Any

from rtd_plugin.errors import RTDError, UsageError
from rtd_plugin.printable import KEY_VARIABLES, read_api_key, redact

MAX_ANSWER_BYTES = 1 << 20
MAX_ERROR_BYTES = 1 << 16
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
        timeout: seconds to wait for an answer.
        attempts: how often a request is sent before it counts as failed.
        pause: seconds before the second attempt; doubles with each further one.

    Raises:
        UsageError: the endpoint is not an HTTP address, or contains a user name, a password or a query.
    """

    endpoint: str
    model: str
    timeout: float = 120.0
    attempts: int = 6
    pause: float = 1.0

    def __post_init__(self) -> None:
        url = urllib.parse.urlsplit(self.endpoint)
        if url.scheme not in ("http", "https") or not url.hostname:
            raise UsageError(f"--endpoint {self.endpoint}: not an address such as http://localhost:8000/v1")
        if url.username or url.password or url.query:
            raise UsageError(
                f"--endpoint: contains a user name, password or query; set a key in the environment "
                f"({' or '.join(KEY_VARIABLES)}) instead"
            )

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
        try:
            with _OPENER.open(request, timeout=self.timeout) as response:
                content = response.read(MAX_ANSWER_BYTES + 1)
        except urllib.error.HTTPError as error:
            raise self._explain(error) from error
        except (OSError, http.client.HTTPException) as error:  # connection errors, time-outs included
            raise RetryableError(str(getattr(error, "reason", error)) or type(error).__name__) from error
        try:
            answer = json.loads(content[:MAX_ANSWER_BYTES])["choices"][0]["message"]["content"]
        except (ValueError, KeyError, IndexError, TypeError, RecursionError) as error:
            raise RetryableError("the answer does not follow the chat protocol") from error
        if not isinstance(answer, str):
            raise RetryableError("the answer has no text")
        return answer

    def _explain(self, error: urllib.error.HTTPError) -> Exception:
        with error:
            # Redact before cutting: a key cut in half would not be recognised.
            text = redact(error.read(MAX_ERROR_BYTES).decode("utf-8", "replace"))
            text = " ".join(text.split())[:SHOWN_CHARACTERS]
        if error.code in RETRIED or error.code >= 500:
            return RetryableError(f"HTTP {error.code}", _parse_seconds(error.headers.get("Retry-After")))
        hint = f"; set {KEY_VARIABLES[0]}" if error.code in (401, 403) else ""
        return RTDError(f"{self.address}: HTTP {error.code} ({text or error.reason}){hint}")


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Follows no redirect: it would send the key to another address."""

    def redirect_request(self, *args: Any) -> None:
        return None


_OPENER = urllib.request.build_opener(_NoRedirect)


def _parse_seconds(retry_after: str | None) -> float | None:
    try:
        return max(0.0, float(retry_after)) if retry_after else None
    except ValueError:
        return None
