"""Runs the service on a socket until Ctrl-C or SIGTERM."""

from __future__ import annotations

import contextlib
import socket

import uvicorn
from starlette.types import ASGIApp

from rtd_plugin.errors import RTDError

CONNECTIONS = 900  # that are open together: below the usual limit of 1024 files
BACKLOG = 512


def open_socket(host: str, port: int) -> socket.socket:
    """Return a socket that listens.

    Args:
        host: a name or an address of this machine.
        port: 0 for any that is free.

    Raises:
        RTDError: there is no such address here, or the port is taken.
    """
    with contextlib.ExitStack() as stack:
        try:
            family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
            listening = stack.enter_context(socket.socket(family, kind, protocol))
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind(address)
            listening.listen(BACKLOG)
        except OSError as error:
            raise RTDError(f"{host}:{port}: cannot be listened on ({error.strerror}): pass another --port") from error
        stack.pop_all()
    return listening


def run(app: ASGIApp, listening: socket.socket, seconds: float) -> None:
    """Answer requests until Ctrl-C, which lets those in work finish for up to `seconds`."""
    config = uvicorn.Config(
        app,
        http="h11",
        ws="none",
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=CONNECTIONS,
        timeout_graceful_shutdown=max(1, int(seconds)),
    )
    with contextlib.suppress(KeyboardInterrupt):  # which uvicorn raises after it has closed all
        uvicorn.Server(config).run(sockets=[listening])
