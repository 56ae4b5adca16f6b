"""Which requests are answered: only those of this page itself, addressed to a name of this server."""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; img-src 'self'; style-src 'self'; script-src 'self'; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
}


@dataclass(frozen=True)
class Doors:
    """Who may open the page.

    Attributes
    ----------
    names
        Host names, in lower case, that a request may be addressed to, in addition to those of the loopback address.
    exposed
        Whether the server listens beyond the loopback address. If so, any numeric address is accepted too. This is
        safe, since DNS rebinding needs a name.
    token
        What a browser must show once, or None.
    """

    names: frozenset[str] = frozenset()
    exposed: bool = False
    token: str | None = None


def is_loopback(host: str) -> bool:
    """Whether an address or name to listen on can be reached from this machine only."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def refuse_request(method: str, headers: Mapping[str, str], doors: Doors) -> str | None:
    """Return why a request is refused; None if it is answered.

    The host must be a name of this server. If the browser says where the request comes from (Sec-Fetch-Site, Origin),
    that must be this page; a link on another page may lead here, and nothing else. A request that changes something
    must say where it comes from.
    """
    host = headers.get("Host", "")
    if not host_allowed(host, doors):
        return (
            f"the host {host[:100]!r} is not a name of this page; open it by the address that the terminal shows, or "
            "start it with --allowed-host"
        )
    site, origin = headers.get("Sec-Fetch-Site"), headers.get("Origin")
    if origin is not None and not _same_origin(origin, host):
        return "another page sent this request; only requests from this page are answered"
    if method in ("GET", "HEAD"):
        followed = headers.get("Sec-Fetch-Mode") == "navigate" and headers.get("Sec-Fetch-Dest") in ("document", None)
        if site in (None, "same-origin", "none") or followed:
            return None
        return "another page asked for this; only requests from this page are answered"
    if site not in (None, "same-origin"):
        return "another page sent this request; only requests from this page are answered"
    if site is None and origin is None:
        return "this request does not say which page it comes from (no Origin, no Sec-Fetch-Site)"
    return None


def host_allowed(host: str, doors: Doors) -> bool:
    """Whether the Host header names this server; any port is allowed, since a tunnel may use another one."""
    name = _host_name(host)
    if name is None:
        return False
    if name in LOOPBACK_NAMES or name in doors.names:
        return True
    if not doors.exposed:
        return False
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def token_matches(given: str | None, doors: Doors) -> bool:
    """Whether this is the token, compared in constant time."""
    return doors.token is None or (given is not None and hmac.compare_digest(given.encode(), doors.token.encode()))


def _host_name(host: str) -> str | None:
    """Return the name or address in a Host header, without port and brackets; None if the header is not valid."""
    try:
        parts = urlsplit(f"//{host}")
        _ = parts.port
    except ValueError:
        return None
    if parts.netloc != host or parts.username is not None or parts.path or parts.query or not parts.hostname:
        return None
    return parts.hostname.lower()


def _same_origin(origin: str, host: str) -> bool:
    try:
        parts = urlsplit(origin)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and parts.netloc.lower() == host.lower()
