"""The page in a real Chromium, without a screen: keys, changes in place, uploads, layout, colors, other origins.

`SLSR_SCREENSHOTS=FOLDER` keeps a picture of every page there, to be looked at.
"""

import http.server
import os
import re
import threading
from functools import partial
from pathlib import Path

import pytest
from builders import enormous_png
from explored import QUERY_LABELS, person

from slsr.explore.app import create_app
from slsr.explore.serving import address_of, open_server

pytestmark = [pytest.mark.browser, pytest.mark.timeout(600)]

PAGES = {
    "queries": "pick/q",
    "gallery": "pick/g",
    "ranking": "search?query=q3&right=none",
    "side-by-side": "search?query=q3",
    "models": "search?query=q3&left=0-plain&right=1-plain&maps=activation",
    "similarity": "search?query=q3&maps=similarity",
    "clusters": "clusters",
    "generated": "generated",
    "about": "about",
    "problem": "search?query=q1&depth=7",
}


@pytest.fixture(scope="module")
def address(exhibit):
    server = open_server(create_app(exhibit), "127.0.0.1", 0)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    yield address_of(server)
    server.close()


@pytest.fixture
def visit(chromium, address):
    """A function: open an address of the page; console messages and errors gather in `page.said`."""
    contexts = []

    def open_page(where, width=1280, height=800, **options):
        context = chromium.new_context(viewport={"width": width, "height": height}, base_url=address, **options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(120_000)  # the machine may be shared
        page.said = []
        page.on("console", lambda message: page.said.append(message.text))
        page.on("pageerror", lambda error: page.said.append(str(error)))
        page.goto(where)
        return page

    yield open_page
    for context in contexts:
        context.close()


def focused(page):
    return page.evaluate("document.activeElement.id")


def status(page):
    return page.locator("#status").text_content()


def settled(page):
    page.locator("#main:not([aria-busy])").wait_for()


CHECKS = """() => {
  const wrong = [];
  const say = (text) => wrong.push(text);
  const width = document.documentElement.scrollWidth;
  if (width > innerWidth) say(`wider than the window: ${width}`);
  if (document.querySelectorAll('h1').length !== 1) say('not one h1');
  for (const tag of ['header', 'nav', 'main']) if (!document.querySelector(tag)) say(`no ${tag}`);
  for (const nav of document.querySelectorAll('nav, aside, section')) {
    const named = nav.getAttribute('aria-label') || document.getElementById(nav.getAttribute('aria-labelledby'));
    if (!named) say(`unnamed ${nav.tagName}`);
  }
  for (const image of document.querySelectorAll('img')) {
    if (!image.getAttribute('alt')) say(`no alt: ${image.src}`);
    if (image.loading !== 'lazy' && image.naturalWidth === 0) say(`not loaded: ${image.src}`);
  }
  for (const field of document.querySelectorAll('select, input:not([type=hidden])')) {
    if (!field.labels.length) say(`unlabeled ${field.name}`);
  }
  for (const link of document.querySelectorAll('a, button')) if (!link.textContent.trim()) say('a link without a name');
  const ids = [...document.querySelectorAll('[id]')].map((one) => one.id);
  if (new Set(ids).size !== ids.length) say('an id twice');
  for (const one of document.querySelectorAll('[style], [onclick]')) say(`inline: ${one.outerHTML.slice(0, 80)}`);
  return wrong;
}"""


def take_pictures(page, folder, name):
    for width, height in ((1440, 900), (390, 844)):
        page.set_viewport_size({"width": width, "height": height})
        for scheme in ("dark", "light"):
            page.emulate_media(color_scheme=scheme)
            page.screenshot(path=folder / f"{name}-{width}-{scheme}.png")


@pytest.mark.parametrize("name", PAGES)
def test_pages_are_sound_at_every_width(visit, name):
    page = visit(PAGES[name])
    page.wait_for_load_state("load")
    for width, height in ((1440, 900), (640, 400), (390, 844), (320, 640)):  # 640: 1280 at 200 %
        page.set_viewport_size({"width": width, "height": height})
        assert page.evaluate(CHECKS) == []
    if folder := os.environ.get("SLSR_SCREENSHOTS"):
        take_pictures(page, Path(folder), name)
    expected = ["Failed to load resource: the server responded with a status of 400 (BAD REQUEST)"]
    assert page.said == (expected if name == "problem" else [])


def test_keys_move_within_a_list_and_tab_leaves_it(visit):
    page = visit("search?query=q3&right=0-reranked")
    lists = page.locator("[data-grid]")
    stops = "grid => [...grid.querySelectorAll('a')].filter((link) => link.tabIndex === 0).length"
    assert [lists.nth(place).evaluate(stops) for place in range(2)] == [1, 1]
    links = lists.nth(0).locator("a")
    ids = [link.get_attribute("id") for link in links.all()]
    tops = [round(link.bounding_box()["y"]) for link in links.all()]
    across = tops.count(tops[0])
    links.nth(0).focus()
    for key, place in (
        ("ArrowRight", 1),
        ("ArrowDown", 1 + across),
        ("ArrowUp", 1),
        ("ArrowUp", 1),
        ("ArrowLeft", 0),
        ("ArrowLeft", 0),
        ("End", len(ids) - 1),
        ("ArrowRight", len(ids) - 1),
        ("Home", 0),
        ("ArrowRight", 1),
    ):
        page.keyboard.press(key)
        assert focused(page) == ids[place], key
    outline = page.evaluate(
        "getComputedStyle(document.activeElement).outlineStyle + getComputedStyle(document.activeElement).outlineWidth"
    )
    assert outline == "solid3px"
    page.keyboard.press("Tab")
    assert focused(page) == lists.nth(1).locator("a").nth(0).get_attribute("id")
    page.keyboard.press("Shift+Tab")
    assert focused(page) == ids[1]


def test_tab_begins_with_the_skip_link_then_header_query_choices_results(visit):
    page = visit("search?query=q3")
    order = []
    for _ in range(20):
        page.keyboard.press("Tab")
        order.append(
            page.evaluate("(document.activeElement.id || document.activeElement.textContent).trim().slice(0, 20)")
        )
    assert order[0] == "Skip to the content"
    wanted = ["Queries", "About", "previous", "next", "left", "right", "maps", "depth"]
    places = [order.index(one) for one in wanted]
    assert places == sorted(places)
    panels = [place for place, one in enumerate(order) if re.match(r"(left|right)-\d", one)]
    assert len(panels) == 2
    assert min(panels) > max(places)


def test_enter_searches_with_the_image_in_place(visit):
    page = visit("search?query=q3&right=none")
    page.evaluate("window.same = true")
    first = page.locator("[data-grid] a").first
    row = first.get_attribute("id").removeprefix("left-")
    first.focus()
    page.keyboard.press("Enter")
    page.wait_for_url(f"**/search?query=g{row}&**")
    settled(page)
    assert page.evaluate("window.same") is True
    assert "SLSR, plain: First right match at rank" in status(page)
    assert focused(page) == page.locator("[data-grid] a").first.get_attribute("id")
    page.go_back()
    page.locator(".facts", has_text="queries").wait_for()
    assert page.url.endswith("query=q3&right=none")


def test_letters_work_in_the_ranked_list_alone_and_say_what_came(visit):
    page = visit("search?query=q3")
    page.keyboard.press("n")
    assert "query=q3" in page.url
    page.locator("[data-grid]").nth(1).locator("a").first.focus()
    page.keyboard.press("n")
    page.wait_for_url("**/search?query=q4&**")
    settled(page)
    assert focused(page).startswith("right-")
    assert status(page).startswith("0003_c1_4.png. SLSR, plain: First right match")
    page.keyboard.press("p")
    page.wait_for_url("**/search?query=q3&**")
    settled(page)
    page.keyboard.press("m")
    page.wait_for_url("**maps=activation**")
    settled(page)
    assert "/map/activation/" in page.locator("[data-grid] img").first.get_attribute("src")
    assert focused(page).startswith("right-")
    page.keyboard.press("b")
    page.wait_for_url("**right=1-plain**")
    settled(page)
    assert page.locator("h2").all_text_contents() == ["SLSR plain", "baseline (none) plain"]


def test_a_choice_changes_the_page_in_place_and_keeps_the_focus(visit):
    page = visit("search?query=q3")
    page.evaluate("window.same = true")
    page.locator("#left").focus()
    page.locator("#left").select_option("1-plain")
    page.wait_for_url("**left=1-plain**")
    settled(page)
    assert page.evaluate("window.same") is True
    assert focused(page) == "left"
    assert page.locator("h2").first.text_content() == "baseline (none) plain"
    assert "baseline (none), plain" in status(page)


OWN_PICTURE = """() => {
  document.querySelector('details.own').open = true;
  return [document.querySelector('.own .drop'), document.querySelector('.results')].map((one) => {
    const box = one.getBoundingClientRect();
    return [box.left, box.right];
  });
}"""
LINES = """(word) => {
  const text = [...document.querySelectorAll('.facts dd')].find((one) => one.textContent.includes(word)).firstChild;
  const range = document.createRange();
  range.setStart(text, text.textContent.indexOf(word));
  range.setEnd(text, text.textContent.indexOf(word) + word.length);
  return range.getClientRects().length;
}"""


def test_the_form_for_a_picture_leaves_the_results_free(visit):
    page = visit("search?query=q3&maps=activation")
    (_, right), (left, _) = page.evaluate(OWN_PICTURE)
    assert right <= left


def test_words_are_not_broken(visit):
    assert visit("search?query=x1").evaluate(LINES, "generated") == 1


def test_it_works_without_scripts(visit):
    page = visit("search?query=q3", java_script_enabled=False)
    page.locator("#left").select_option("1-reranked")
    page.get_by_role("button", name="Show").click()
    assert page.locator("h2").first.text_content() == "baseline (none) re-ranked"
    page.get_by_role("link", name="About").click()
    assert page.locator("h1").text_content() == "About this page"


def upload_file(page, content, name="me.png"):
    page.set_input_files("#picture", files=[{"name": name, "mimeType": "image/png", "buffer": content}])
    page.get_by_role("button", name="Search", exact=True).click()


def test_a_chosen_picture_is_searched_with(visit):
    page = visit("pick/q")
    upload_file(page, person(2, 77), "../../<img src=x>.png")
    page.wait_for_url("**/search?query=u**")
    assert page.locator("figure img").evaluate("image => image.decode().then(() => image.naturalHeight)") == 40
    assert page.locator(".asked .name").text_content() == "Name: <img src=x>.png"
    assert page.locator("[data-grid] li").count() == 40


DROP = """([bytes, kind]) => {
  const carried = new DataTransfer();
  carried.items.add(new File([new Uint8Array(bytes)], 'dropped.png', { type: 'image/png' }));
  const place = document.querySelector('h1');
  if (kind === 'drop') {
    for (const name of ['dragenter', 'dragover', 'drop']) {
      place.dispatchEvent(new DragEvent(name, { dataTransfer: carried, bubbles: true, cancelable: true }));
    }
  } else place.dispatchEvent(new ClipboardEvent('paste', { clipboardData: carried, bubbles: true, cancelable: true }));
}"""


@pytest.mark.parametrize("kind", ["drop", "paste"])
def test_a_dropped_or_pasted_picture_is_searched_with_under_the_same_choices(visit, kind):
    page = visit("search?query=q3&left=1-plain&right=none&depth=50")
    page.evaluate(DROP, [list(person(4, 5)), kind])
    page.wait_for_url("**/search?query=u**left=1-plain**")
    assert "depth=50" in page.url
    assert page.locator(".asked .name").text_content() == "Name: dropped.png"


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"<svg onload=alert(1)>", "not an image"), (enormous_png(), "more than 50,000,000 pixels")],
)
def test_a_hostile_picture_is_answered_with_one_line(visit, content, message):
    page = visit("pick/q")
    upload_file(page, content)
    alert = page.get_by_role("alert")
    assert message in alert.text_content()
    page.get_by_role("link", name="Back to the start").click()
    assert page.locator("h1").text_content() == "Queries"


CONTRAST = """() => {
  const style = getComputedStyle(document.documentElement);
  const paint = document.createElement('canvas').getContext('2d');
  const light = (name) => {
    paint.fillStyle = style.getPropertyValue(name);
    const channels = paint.fillStyle.match(/[0-9a-f]{2}/g).map((text) => parseInt(text, 16) / 255);
    const linear = channels.map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2];
  };
  const ratio = (one, other) => {
    const [high, low] = [light(one), light(other)].sort((a, b) => b - a);
    return (high + 0.05) / (low + 0.05);
  };
  const found = {};
  for (const ground of ['--ground', '--paper']) {
    for (const ink of ['--ink', '--quiet', '--accent', '--right-ink', '--wrong-ink']) {
      found[`${ink} on ${ground}`] = [ratio(ink, ground), 4.5];
    }
    for (const line of ['--right', '--wrong', '--focus', '--junk']) {
      found[`${line} on ${ground}`] = [ratio(line, ground), 3];
    }
  }
  found['paper on accent'] = [ratio('--paper', '--accent'), 4.5];
  return found;
}"""


FRAMES = """[...document.querySelectorAll('[data-grid] li')].map((card) => [
  card.className,
  getComputedStyle(card.querySelector('.frame')).borderTopStyle,
  card.querySelector('.verdict').textContent.trim(),
])"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_colors_have_contrast_in_both_schemes_and_marks_beside_them(visit, scheme):
    page = visit("search?query=q3", color_scheme=scheme, reduced_motion="reduce")
    for name, (ratio, least) in page.evaluate(CONTRAST).items():
        assert ratio >= least, f"{name}: {ratio:.2f}"
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", ground))) < 200) == (scheme == "dark")
    frames = page.evaluate(FRAMES)
    seen = {tuple(frame) for frame in frames}
    assert seen == {("card right", "solid", "✓ right"), ("card wrong", "dashed", "✗ wrong")}
    page.evaluate("document.getElementById('main').classList.add('busy')")
    assert page.evaluate("getComputedStyle(document.querySelector('.panels')).transitionDuration") == "0s"


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        pass


STRANGER = """<!doctype html><title>stranger</title>
<img id="image" src="{address}image/q/0.jpg"><iframe id="frame" src="{address}about"></iframe>
<form id="form" method="post" action="{address}upload" enctype="multipart/form-data">
<input name="picture" value="x"></form>"""


def test_other_origins_get_nothing(visit, address, exhibit, tmp_path):
    (tmp_path / "index.html").write_text(STRANGER.format(address=address))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=tmp_path))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        page = visit(f"http://127.0.0.1:{server.server_port}/index.html")
        page.wait_for_load_state("networkidle")
        assert page.evaluate("document.getElementById('image').naturalWidth") == 0
        for mode in ("cors", "no-cors"):
            fetched = page.evaluate(
                "([address, mode]) => fetch(address, { mode }).then((a) => a.text(), () => '')",
                [address + "about", mode],
            )
            assert fetched == ""
        assert "About this page" not in "".join(frame.content() for frame in page.frames[1:])
        kept = len(exhibit.uploads)
        page.evaluate("document.getElementById('form').submit()")
        page.wait_for_url("**/upload")
        assert page.locator("body").text_content().startswith("refused: another page sent this request")
        assert len(exhibit.uploads) == kept
    finally:
        server.shutdown()
        server.server_close()


def test_a_name_bound_to_this_address_gets_nothing(visit, address):
    page = visit(address.replace("127.0.0.1", "rebound.example"))
    assert page.locator("body").text_content().startswith("refused: the host 'rebound.example:")


def test_going_through_the_queries_by_hand_reaches_every_one(visit):
    page = visit("search?query=q0&right=none")
    for row in range(1, len(QUERY_LABELS)):
        page.locator("#next").click()
        page.wait_for_url(f"**/search?query=q{row}&**")
        settled(page)
    assert page.locator("#next").count() == 0
