"""The server itself: its address, its limits, its headers."""

import http.client
import socket
import threading

import pytest
from explored import person

from slsr.errors import InputError
from slsr.explore import exhibit as exhibits
from slsr.explore.app import create_app, empty_app
from slsr.explore.security import Doors
from slsr.explore.serving import address_of, open_server
from slsr.explore.uploads import MAXIMUM_BYTES


@pytest.fixture(scope="module")
def server(exhibit):
    server = open_server(create_app(exhibit), "127.0.0.1", 0)
    threading.Thread(target=server.run, daemon=True).start()
    yield server
    server.close()


def ask(server, method, path, body=b"", **headers):
    connection = http.client.HTTPConnection("127.0.0.1", server.effective_port, timeout=20)
    try:
        connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
        answer = connection.getresponse()
        return answer.status, dict(answer.getheaders()), answer.read()
    finally:
        connection.close()


def multipart(content):
    head = b'--x\r\nContent-Disposition: form-data; name="picture"; filename="a.png"\r\nContent-Type: image/png\r\n\r\n'
    return head + content + b"\r\n--x--\r\n"


def test_it_answers_at_the_address_that_it_says(server):
    assert address_of(server) == f"http://127.0.0.1:{server.effective_port}/"
    assert address_of(server, "abc").endswith("/?token=abc")
    status, headers, body = ask(server, "GET", "/about")
    assert status == 200
    assert b"About this page" in body
    assert "Server" not in headers


def test_a_large_picture_arrives_and_a_larger_one_does_not(server):
    here = {"Origin": f"http://127.0.0.1:{server.effective_port}", "Content_Type": "multipart/form-data; boundary=x"}
    status, headers, _ = ask(server, "POST", "/upload", multipart(person(1, 1, 1200, 600)), **here)
    assert status == 303
    assert headers["Location"].startswith("/search?query=u")
    for size in (MAXIMUM_BYTES, MAXIMUM_BYTES + 2**21, 3 * MAXIMUM_BYTES):
        status, _, body = ask(server, "POST", "/upload", multipart(bytes(size)), **here)
        assert status == 413
        assert b"larger than 20 MB" in body


def test_a_port_that_is_taken_is_said(server):
    with pytest.raises(InputError, match=f"port {server.effective_port} of 127.0.0.1 is taken; choose another"):
        open_server(server.application, "127.0.0.1", server.effective_port)


def test_a_port_that_is_taken_is_said_before_anything_is_computed(server, place, run_slsr, monkeypatch):
    monkeypatch.setattr(exhibits, "load_encoder", None)
    tables = ["--gallery", place.sources.gallery, "--query", place.sources.query]
    code, out, err = run_slsr("explore", *place.sources.models, *tables, "--port", server.effective_port)
    assert (code, out) == (2, "")
    assert err.startswith(f"slsr: port {server.effective_port} of 127.0.0.1 is taken; choose another")
    assert len(err.splitlines()) == 1


def test_the_port_is_held_while_the_exhibit_is_opened_and_let_go_when_that_fails(place, run_slsr, monkeypatch):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    refused = []

    def opened(*arguments, **options):
        with pytest.raises(InputError, match="is taken"):
            open_server(empty_app(Doors()), "127.0.0.1", port)
        refused.append(port)
        raise InputError("no more")

    monkeypatch.setattr(exhibits, "open_exhibit", opened)
    for _ in range(2):
        code, out, err = run_slsr(
            "explore", *place.sources.models, "--gallery", place.sources.gallery, "--port", port, "--strict"
        )
        assert (code, out, err) == (2, "", "slsr: no more\n")
    assert refused == [port, port]


@pytest.mark.parametrize("host", ["no.such.host.invalid", "192.0.2.1"])
def test_an_address_that_is_not_ours_is_said(server, host):
    with pytest.raises(InputError, match=f"{host}: (cannot listen on this|no such) address"):
        open_server(server.application, host, 0)


def test_ipv6_is_written_in_brackets(exhibit):
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        pytest.skip("no IPv6 loopback address on this machine")
    server = open_server(create_app(exhibit), "::1", 0)
    assert address_of(server) == f"http://[::1]:{server.effective_port}/"
    server.close()
