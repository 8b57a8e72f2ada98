"""Lets `rtd-plugin serve` answer a few requests once it listens, and then end as after Ctrl-C."""

import hashlib
import http.client
import io
import os
import re
import signal
import socket
import tempfile
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

from PIL import Image
from starlette.types import ASGIApp

from rtd_plugin.serving import server

ANSWER = re.compile(r"^answer to .*$", re.MULTILINE)
"""A line that the client prints of an answer. A server that says that it cannot answer gave none."""
Run = Callable[[ASGIApp, socket.socket, float], None]


def install() -> None:
    """Let the service of this process, once it runs, have a client that interrupts it at the end; idempotent."""
    if not hasattr(server.run, "has_client"):
        server.run = _add_client(server.run)


def _add_client(run: Run) -> Run:
    def run_with_client(app: ASGIApp, listening: socket.socket, seconds: float) -> None:
        client = threading.Thread(target=_ask_and_interrupt, args=(listening.getsockname(),))
        # Large uploads are temporary files: in the work folder, where faults reach them.
        before, tempfile.tempdir = tempfile.tempdir, str(Path.cwd())
        client.start()
        try:
            run(app, listening, seconds)
            client.join()
        finally:
            tempfile.tempdir = before

    run_with_client.has_client = True  # type: ignore[attr-defined]
    return run_with_client


def _ask_and_interrupt(address: tuple[str, int]) -> None:
    try:
        for method, path, body, headers in _list_requests():
            connection = http.client.HTTPConnection(*address[:2], timeout=60)
            try:
                connection.request(method, path, body, {"Host": f"localhost:{address[1]}", **headers})
                answer = connection.getresponse()
                content = answer.read()
            finally:
                connection.close()
            if answer.status < 500 or b"unexpected" in content:
                digest = hashlib.sha256(content).hexdigest() if answer.status == 200 else content.decode()
                print(f"answer to {method} {path}: {answer.status} {digest}")
    finally:
        os.kill(os.getpid(), signal.SIGINT)


def _list_requests() -> Iterator[tuple[str, str, bytes, dict[str, str]]]:
    picture = io.BytesIO()
    Image.linear_gradient("L").resize((800, 700)).convert("RGB").save(picture, "bmp")  # 1.7 MB
    yield "GET", "/", b"", {}
    yield "GET", "/info", b"", {}
    yield "GET", "/thumbnails/1.png", b"", {}
    yield "POST", "/search", *_write_form(text=b"is red", name=b"0.png", k=b"3")
    yield "POST", "/search", *_write_form(text=b"is blue", image=picture.getvalue())
    yield "POST", "/compose", *_write_form(text=b"is lit", name=b"4.png")


def _write_form(**fields: bytes) -> tuple[bytes, dict[str, str]]:
    """Return the body and the headers of a form; the field `image` is a file."""
    boundary = uuid.uuid5(uuid.NAMESPACE_URL, "form").hex
    parts = []
    for name, content in fields.items():
        file = '; filename="a.bmp"' if name == "image" else ""
        head = f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"{file}\r\n\r\n'
        parts.append(head.encode() + content + b"\r\n")
    body = b"".join(parts) + f"--{boundary}--\r\n".encode()
    return body, {"Content-Type": f"multipart/form-data; boundary={boundary}"}
