"""The server around the page."""

from __future__ import annotations

import errno
import logging
import socket
from collections.abc import Callable
from typing import Any

from flask import Flask
from waitress.server import create_server

from slsr.errors import InputError
from slsr.explore.uploads import MAXIMUM_BYTES

THREADS = 6
TOO_LARGE = 4  # times the limit: what is larger, the server cuts off in its own words


def open_server(app: Flask, host: str, port: int) -> Any:
    """A waitress server that holds its address already; `run()` serves, `close()` ends it.

    Parameters
    ----------
    port : 0 for any free one; `address_of` tells which it became

    Raises
    ------
    InputError
        The port is taken, or the address is none of this machine's.
    """
    logging.getLogger("waitress").setLevel(logging.ERROR)
    limit = TOO_LARGE * MAXIMUM_BYTES
    try:
        return create_server(
            app,
            listen=_listen(host, port),
            threads=THREADS,
            ident=None,
            max_request_body_size=limit,
            inbuf_overflow=2 * limit,
            clear_untrusted_proxy_headers=True,
        )
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise InputError(
                f"port {port} of {host} is taken; choose another with --port, 0 for any free one"
            ) from error
        if error.errno == errno.EACCES:
            raise InputError(
                f"port {port} may not be opened by this user; choose one above 1023 with --port"
            ) from error
        raise InputError(
            f"{host}: not an address to listen on here ({error.strerror}); use --host 127.0.0.1"
        ) from error
    except ValueError as error:
        raise InputError(f"{host}: not an address to listen on here ({error}); use --host 127.0.0.1") from error


def _listen(host: str, port: int) -> str:
    """An address as waitress takes it, one address alone: a name may stand for several."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        raise InputError(f"{host}: no such address; use --host 127.0.0.1") from error
    family, _, _, _, address = min(found, key=lambda entry: entry[0] != socket.AF_INET)
    return f"[{address[0]}]:{port}" if family == socket.AF_INET6 else f"{address[0]}:{port}"


def address_of(server: Any, token: str | None = None) -> str:
    """What to open in a browser."""
    host = str(server.effective_host)
    shown = {"0.0.0.0": socket.gethostname(), "::": socket.gethostname()}.get(host, host)
    shown = f"[{shown}]" if ":" in shown else shown
    return f"http://{shown}:{server.effective_port}/" + (f"?token={token}" if token else "")


def serve(server: Any, ready: Callable[[], None]) -> None:
    """Answer until Ctrl-C."""
    try:
        ready()
        server.run()
    except KeyboardInterrupt:
        pass
    finally:
        server.close()
