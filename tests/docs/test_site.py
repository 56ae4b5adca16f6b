"""The built site: no warning, nothing fetched from elsewhere, readable in a narrow window."""

import functools
import http.server
import os
import re
import shlex
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from tiny import ROOT

pytestmark = pytest.mark.slow

PATIENCE = 120_000  # milliseconds: the machine may be shared
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
WIDER_THAN_THE_WINDOW = """() => {
  const width = document.documentElement.clientWidth;
  const scrolls = e => e && (/auto|scroll|hidden/.test(getComputedStyle(e).overflowX) || scrolls(e.parentElement));
  return [...document.querySelectorAll('.md-content *')]
    .filter(e => e.getBoundingClientRect().right > width + 1 && !scrolls(e))
    .map(e => e.tagName + ' ' + e.textContent.trim().slice(0, 40));
}"""


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    done = build(ROOT, "--site-dir", folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def build(folder, *options):
    """The command of `make site`, with this interpreter."""
    recipe = re.search(r"^site:.*\n\t(.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)[1]
    setting, _, *arguments = shlex.split(recipe)
    name, _, value = setting.partition("=")
    command = [sys.executable, *arguments, *map(str, options)]
    environment = os.environ | {name: value}
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300, check=False
    )


@pytest.fixture(scope="module")
def address(site):
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(site)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.skip(f"no browser here: none of {', '.join(BROWSERS)} is installed")
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield started
        started.close()


def pages(site):
    return sorted(str(path.relative_to(site)) for path in site.rglob("*.html"))


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("[x](nowhere.md)", "nowhere.md"),
        ("[x](data.md#no-such-heading)", "no-such-heading"),
        ("::: slsr.labels.distributions.no_such_function", "no_such_function"),
    ],
)
def test_what_leads_nowhere_stops_the_build(tmp_path, line, complaint):
    for name in ("src", "tools", "metrics", "presets", "benchmarks", "CHANGELOG.md", "CONTRIBUTING.md"):
        (tmp_path / name).symlink_to(ROOT / name)
    shutil.copy(ROOT / "mkdocs.yml", tmp_path)
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    with (tmp_path / "docs/glossary.md").open("a") as page:
        page.write(f"\n{line}\n")
    done = build(tmp_path)
    assert done.returncode != 0
    assert complaint in done.stdout + done.stderr


def test_every_page_has_one_title_and_a_language_and_no_raw_markup(site):
    assert len(pages(site)) > 25
    for name in pages(site):
        text = (site / name).read_text(encoding="utf-8")
        assert text.count("<h1") == 1 and '<html lang="en"' in text, name
        assert "arithmatex" not in text and not re.search(r"<p>:::", text), name
    assert "<math" in (site / "method.html").read_text(encoding="utf-8")


def test_no_page_names_a_script_style_or_picture_of_another_host(site):
    for name in pages(site):
        text = (site / name).read_text(encoding="utf-8")
        assets = re.findall(r"<(?:script|img|iframe)[^>]*\bsrc=\"?([^\" >]+)", text)
        assets += re.findall(r"<link[^>]*\bhref=\"?([^\" >]+)", text)
        assert not [one for one in assets if re.match(r"(https?:)?//", one)], name


@pytest.mark.parametrize(("width", "colors"), [(1280, "light"), (390, "dark")])
def test_pages_fit_the_window_and_fetch_nothing_from_elsewhere(site, address, browser, width, colors):
    context = browser.new_context(viewport={"width": width, "height": 844}, color_scheme=colors)
    page = context.new_page()
    page.set_default_timeout(PATIENCE)
    requests, errors = [], []
    page.on("request", lambda request: requests.append(request.url))
    page.on("pageerror", lambda error: errors.append(str(error)))
    for name in pages(site):
        page.goto(address + name)
        assert page.evaluate(WIDER_THAN_THE_WINDOW) == [], name
        assert page.evaluate("document.body.dataset.mdColorScheme") == ("slate" if colors == "dark" else "default")
    context.close()
    assert not errors
    assert not [url for url in requests if not url.startswith((address, "data:", "blob:"))]


def found_by_searching(browser, page_address, word):
    """The pages that the search box offers for a word, and the addresses that were asked for anything."""
    context = browser.new_context(offline=page_address.startswith("file:"))
    requests, page = [], context.new_page()
    context.on("request", lambda request: requests.append(request.url))
    page.set_default_timeout(PATIENCE)
    page.goto(page_address)
    page.keyboard.press("/")
    page.keyboard.type(word)
    page.wait_for_selector(".md-search-result__item a")
    found = [one.get_attribute("href") for one in page.query_selector_all(".md-search-result__item a")]
    context.close()
    return {re.search(r"(\w+)\.html", address)[1] for address in found}, requests


@pytest.mark.parametrize(
    ("word", "name"), [("memorization", "generators"), ("resume", "resuming"), ("r1", "parameters")]
)
@pytest.mark.parametrize("opened", ["served", "from disk"])
def test_the_search_finds_a_page(site, address, browser, opened, word, name):
    start = address + "index.html" if opened == "served" else (site / "index.html").as_uri()
    found, requests = found_by_searching(browser, start, word)
    assert name in found
    allowed = (address, site.as_uri(), "data:", "blob:", "about:")
    assert not [url for url in requests if not url.startswith(allowed)]


def test_a_page_opens_from_disk(site, browser):
    """Without a server: links are to files, and styles are found."""
    page = browser.new_page()
    page.set_default_timeout(PATIENCE)
    page.goto(Path(site / "index.html").as_uri())
    page.click("text=Method and equations >> nth=0")
    assert page.url.endswith("method.html")
    assert page.evaluate("getComputedStyle(document.querySelector('.md-header')).position") == "sticky"
    page.close()
