"""The address that the page is served at; nothing here loads a web server."""

from __future__ import annotations

import errno
import socket

from slsr.errors import InputError


def check_address(host: str, port: int) -> None:
    """Refuse an address that no server could listen on now.

    Parameters
    ----------
    port : 0 for any free port

    Raises
    ------
    InputError
        The port is taken, or the address is not an address of this machine.
    """
    family, address = resolve(host, port)
    with socket.socket(family, socket.SOCK_STREAM) as tried:
        tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server does
        try:
            tried.bind(address)
            tried.listen()
        except OSError as error:
            raise InputError(refusal(host, port, error)) from error


def resolve(host: str, port: int) -> tuple[socket.AddressFamily, tuple[str, int]]:
    """Return the family and the numeric address of a name; only one, although a name may have several.

    Raises
    ------
    InputError
        There is no such name.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        raise InputError(f"{host}: no such address; use --host 127.0.0.1") from error
    family, _, _, _, address = min(found, key=lambda entry: entry[0] != socket.AF_INET)
    return family, (str(address[0]), int(address[1]))


def refusal(host: str, port: int, error: OSError) -> str:
    """Say why a port cannot be opened, and what to do."""
    if error.errno == errno.EADDRINUSE:
        return f"port {port} of {host} is taken; choose another with --port, or 0 for any free port"
    if error.errno == errno.EACCES:
        return f"port {port} may not be opened by this user; choose a port above 1023 with --port"
    return f"{host}: cannot listen on this address ({error.strerror}); use --host 127.0.0.1"
