"""The server around the page."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable
from typing import Any

from flask import Flask
from waitress.server import create_server

from slsr.errors import InputError
from slsr.explore.addresses import refusal, resolve
from slsr.explore.uploads import MAXIMUM_BYTES

THREADS = 6
TOO_LARGE = 4  # times the limit: the server itself cuts off larger requests, with its own message


def open_server(app: Flask, host: str, port: int) -> Any:
    """Open a waitress server that holds its address already; `run()` serves, `close()` ends it.

    Parameters
    ----------
    port : 0 for any free port; `address_of` tells which one was chosen

    Raises
    ------
    InputError
        The port is taken, or the address is not an address of this machine.
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
        raise InputError(refusal(host, port, error)) from error
    except ValueError as error:
        raise InputError(f"{host}: cannot listen on this address ({error}); use --host 127.0.0.1") from error


def _listen(host: str, port: int) -> str:
    """Return an address as waitress takes it."""
    family, (address, number) = resolve(host, port)
    return f"[{address}]:{number}" if family == socket.AF_INET6 else f"{address}:{number}"


def address_of(server: Any, token: str | None = None) -> str:
    """Return the address to open in a browser."""
    host = str(server.effective_host)
    shown = {"0.0.0.0": socket.gethostname(), "::": socket.gethostname()}.get(host, host)
    shown = f"[{shown}]" if ":" in shown else shown
    return f"http://{shown}:{server.effective_port}/" + (f"?token={token}" if token else "")


def serve(server: Any, ready: Callable[[], None]) -> None:
    """Answer requests until Ctrl-C."""
    try:
        ready()
        server.run()
    except KeyboardInterrupt:
        pass
    finally:
        server.close()
