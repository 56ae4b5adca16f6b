"""Which requests are let in."""

import pytest

from slsr.explore.security import Doors, host_allowed, is_loopback, refuse_request, token_matches

HERE = "127.0.0.1:8008"
LOCAL, EXPOSED = Doors(), Doors(frozenset({"lab.example"}), exposed=True, token="secret")


@pytest.mark.parametrize("host", [HERE, "localhost:8008", "LOCALHOST", "[::1]:8008", "127.0.0.1:9000"])
def test_the_names_of_this_machine(host):
    assert host_allowed(host, LOCAL)


@pytest.mark.parametrize(
    "host",
    [
        "",
        "evil.example:8008",
        "evil.example",
        "127.0.0.1.evil.example:8008",
        "localhost.evil.example",
        "localhost:8008@evil.example",
        "evil.example#localhost",
        "localhost/evil",
        "127.0.0.1:port",
        "10.0.0.7:8008",
        "127.0.0.1:8008, evil.example",
        "[::1",
    ],
)
def test_other_names_such_as_rebinding_brings(host):
    assert not host_allowed(host, LOCAL)
    assert refuse_request("GET", {"Host": host}, LOCAL) is not None


def test_an_exposed_page_answers_addresses_and_given_names_but_no_others():
    for host in ("10.0.0.7:8008", "[fe80::1]:8008", "lab.example:8008", HERE):
        assert host_allowed(host, EXPOSED)
    assert not host_allowed("evil.example:8008", EXPOSED)


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Sec-Fetch-Site": "same-origin"},
        {"Sec-Fetch-Site": "none"},
        {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"},
    ],
)
def test_pages_may_be_opened_and_linked_to(headers):
    assert refuse_request("GET", {"Host": HERE} | headers, LOCAL) is None


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "image"},
        {"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "cors", "Sec-Fetch-Dest": "empty"},
        {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "iframe"},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:9999"},
    ],
)
def test_nothing_can_be_fetched_or_framed_by_other_pages(headers):
    assert refuse_request("GET", {"Host": HERE} | headers, LOCAL) is not None


@pytest.mark.parametrize(
    ("headers", "allowed"),
    [
        ({"Origin": f"http://{HERE}"}, True),
        ({"Origin": f"http://{HERE}", "Sec-Fetch-Site": "same-origin"}, True),
        ({"Sec-Fetch-Site": "same-origin"}, True),
        ({}, False),
        ({"Origin": "null"}, False),
        ({"Origin": "http://evil.example"}, False),
        ({"Origin": "http://["}, False),
        ({"Origin": "http://localhost:8008"}, False),
        ({"Origin": f"http://{HERE}", "Sec-Fetch-Site": "cross-site"}, False),
        ({"Sec-Fetch-Site": "none"}, False),
        (
            {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"},
            False,
        ),
    ],
)
def test_an_upload_must_come_from_the_page_itself(headers, allowed):
    assert (refuse_request("POST", {"Host": HERE} | headers, LOCAL) is None) == allowed


def test_tokens():
    assert token_matches(None, LOCAL)
    assert token_matches("secret", EXPOSED)
    for wrong in (None, "", "Secret", "sécret"):
        assert not token_matches(wrong, EXPOSED)


@pytest.mark.parametrize(
    ("host", "expected"),
    [("127.0.0.1", True), ("127.8.8.8", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("::", False)],
)
def test_loopback(host, expected):
    assert is_loopback(host) == expected
    assert not is_loopback("some.machine")
