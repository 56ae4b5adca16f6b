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
    "ranking": "search?query=q3&right=off",
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
    page = visit("search?query=q3&right=off")
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
    assert page.url.endswith("query=q3&right=off")


def press(page, key, expected):
    """Press a key, and wait until the address of the page has changed as expected and the page is there."""
    page.keyboard.press(key)
    page.wait_for_url(expected)
    settled(page)


def test_letters_work_at_once_after_loading_and_say_what_came(visit):
    page = visit("search?query=q3")
    assert page.evaluate("document.activeElement.tagName") == "BODY"
    press(page, "n", "**/search?query=q4&**")
    assert status(page).startswith("0003_c1_4.png. SLSR, plain: First right match")
    assert page.locator("h1").text_content() == "Query: identity 3, camera 1"
    press(page, "p", "**/search?query=q3&**")
    press(page, "m", "**maps=activation**")
    assert "/map/activation/" in page.locator("[data-grid] img").first.get_attribute("src")
    press(page, "b", "**right=1-plain**")
    assert page.locator("h2").all_text_contents() == ["SLSR plain", "baseline plain"]


def test_letters_keep_the_list_that_has_the_focus(visit):
    page = visit("search?query=q3")
    page.locator("[data-grid]").nth(1).locator("a").first.focus()
    press(page, "n", "**/search?query=q4&**")
    assert focused(page).startswith("right-")
    press(page, "m", "**maps=activation**")
    assert focused(page).startswith("right-")


@pytest.mark.parametrize("control", ["#left", "#maps", "#picture", ".own button"])
def test_letters_do_nothing_while_a_control_of_a_form_has_the_focus(visit, control):
    page = visit("search?query=q3")
    page.evaluate("document.querySelector('details.own').open = true")
    page.locator(control).focus()
    before = page.url
    for key in "npbe":
        page.keyboard.press(key)
    page.keyboard.press("Control+b")
    page.wait_for_timeout(300)
    assert "query=q3" in page.url
    assert page.url == before or control == "#left", "a letter may choose an option of a menu by its first letter"
    assert page.locator("dialog[open]").count() == 0


def test_letters_written_into_the_filter_are_text(visit):
    page = visit("pick/q")
    page.locator("#find").focus()
    page.keyboard.type("png")
    page.wait_for_url("**find=png**")
    settled(page)
    assert page.locator("#find").input_value() == "png"
    assert focused(page) == "find"
    assert page.locator("dialog[open]").count() == 0


def test_a_choice_changes_the_page_in_place_and_keeps_the_focus(visit):
    page = visit("search?query=q3")
    page.evaluate("window.same = true")
    page.locator("#left").focus()
    page.locator("#left").select_option("1-plain")
    page.wait_for_url("**left=1-plain**")
    settled(page)
    assert page.evaluate("window.same") is True
    assert focused(page) == "left"
    assert page.locator("h2").first.text_content() == "baseline plain"
    assert "baseline, plain" in status(page)


BOXES = """(names) => names.map((name) => {
  const box = document.querySelector(name).getBoundingClientRect();
  return { left: box.left, right: box.right, top: box.top + scrollY, bottom: box.bottom + scrollY };
})"""


LINES = """(word) => {
  const text = [...document.querySelectorAll('.facts dd')].find((one) => one.textContent.includes(word)).firstChild;
  const range = document.createRange();
  range.setStart(text, text.textContent.indexOf(word));
  range.setEnd(text, text.textContent.indexOf(word) + word.length);
  return range.getClientRects().length;
}"""


@pytest.mark.parametrize("width", [320, 375, 1000, 1280, 1600, 1920])
def test_the_form_for_a_picture_leaves_the_results_free(visit, width):
    page = visit("search?query=q3&maps=activation", width=width)
    page.evaluate("document.querySelector('details.own').open = true")
    asked, form, results = page.evaluate(BOXES, [".asked", ".own .drop", ".results"])
    assert asked["left"] <= form["left"] < form["right"] <= asked["right"]
    if width < 960:
        assert form["bottom"] <= results["top"]
    else:
        assert asked["right"] <= results["left"]


def test_the_sidebar_can_be_scrolled_to_its_end_where_the_window_is_low(visit):
    page = visit("search?query=q3&maps=activation", height=500)
    page.evaluate("document.querySelector('details.own').open = true")
    page.locator(".own button").scroll_into_view_if_needed()
    assert page.locator(".own button").evaluate("(one) => one.getBoundingClientRect().bottom <= innerHeight")


def test_on_a_narrow_screen_controls_are_folded_and_images_come_early(visit):
    page = visit("search?query=q3", width=375, height=812)
    assert not page.locator("#left").is_visible()
    (image,) = page.evaluate(BOXES, ["[data-grid] .frame"])
    assert image["top"] < 600
    page.locator("summary", has_text="Ranking, maps").click()
    assert page.locator("#left").is_visible()
    page.locator("#depth").select_option("50")
    page.wait_for_url("**depth=50**")
    settled(page)
    assert page.locator("#left").is_visible(), "it stays open"
    page.set_viewport_size({"width": 1280, "height": 800})
    assert page.locator("#left").is_visible()
    assert not page.locator("summary", has_text="Ranking, maps").is_visible()


def test_controls_are_there_on_a_narrow_screen_without_scripts(visit):
    page = visit("search?query=q3", width=375, java_script_enabled=False)
    assert page.locator("#left").is_visible()


def test_the_header_begins_where_the_content_does(visit):
    for width in (1280, 1920):
        brand, heading = visit("pick/q", width=width).evaluate(BOXES, [".brand", "h1"])
        assert brand["left"] == pytest.approx(heading["left"], abs=1)


def test_the_strip_leads_to_the_queries_where_a_model_gains_most(visit):
    page = visit("pick/q")
    assert page.locator(".strip tbody th").all_text_contents() == ["SLSR", "baseline"]
    page.locator(".strip a", has_text="better").click()
    page.wait_for_url("**order=gain-0-1**")
    assert page.locator("#order").input_value() == "gain-0-1"
    assert page.locator(".count").text_content().endswith("average precision: baseline → SLSR")
    page.locator("[data-grid] a").first.click()
    page.wait_for_url("**/search?**left=0-plain&right=1-plain&order=gain-0-1**")
    assert page.locator("h2").all_text_contents() == ["SLSR plain", "baseline plain"]


def test_letters_follow_the_order_and_choices_keep_it(visit, exhibit):
    page = visit("search?query=q3&order=hardest-0&by=precision")
    page.locator("#depth").select_option("50")
    page.wait_for_url("**order=hardest-0**depth=50")
    settled(page)
    expected = page.locator("#next").get_attribute("href")
    page.evaluate("document.activeElement.blur()")
    press(page, "n", f"**{expected.replace('?', '**')}")
    assert page.locator(".around .quiet").text_content().endswith("in this order")


def test_a_generated_image_is_enlarged_beside_its_nearest_real_one(visit):
    page = visit("generated")
    page.keyboard.press("e")
    images = page.locator("dialog[open] img")
    images.nth(1).wait_for()
    assert "/image/x/0/large.jpg" in images.nth(0).get_attribute("src")
    assert re.search(r"/image/t/\d+/large.jpg", images.nth(1).get_attribute("src"))
    assert "nearest real image: id" in page.locator("dialog figcaption").nth(1).text_content()


def test_a_wrong_file_is_answered_at_the_form_without_scripts(visit):
    page = visit("search?query=q3&depth=50", java_script_enabled=False)
    page.locator("details.own summary").click()
    upload_file(page, b"no image")
    assert page.get_by_role("alert").is_visible()
    assert page.locator("#depth").input_value() == "50"


def test_the_order_changes_at_once_and_can_be_undone(visit):
    page = visit("pick/q")
    assert not page.get_by_role("button", name="Show").is_visible()
    first = page.locator("[data-grid] a").first.get_attribute("href")
    page.locator("#order").focus()
    page.locator("#order").select_option("hardest-1")
    page.wait_for_url("**order=hardest-1**")
    settled(page)
    assert focused(page) == "order"
    assert page.locator("[data-grid] .note").first.text_content().startswith("AP ")
    page.go_back()
    page.wait_for_url("**/pick/q")
    settled(page)
    assert page.locator("[data-grid] a").first.get_attribute("href") == first


def test_the_chosen_order_is_not_cut_off(visit):
    page = visit("pick/q", width=1280)
    width = """(select) => {
      const style = getComputedStyle(select);
      const paint = document.createElement('canvas').getContext('2d');
      paint.font = style.font;
      const longest = Math.max(...[...select.options].map((one) => paint.measureText(one.text).width));
      return select.clientWidth - parseFloat(style.paddingLeft) - parseFloat(style.paddingRight) - longest;
    }"""
    assert page.locator("#order").evaluate(width) > 16  # the arrow


def test_an_image_is_enlarged_beside_the_query_by_a_key_and_by_the_mouse(visit):
    page = visit("search?query=q3&right=off&maps=activation")
    links = page.locator("[data-grid] a")
    links.nth(1).focus()
    page.keyboard.press("e")
    images = page.locator("dialog[open] img")
    images.nth(2).wait_for()
    sources = [image.get_attribute("src") for image in images.all()]
    row = links.nth(1).get_attribute("id").removeprefix("left-")
    assert "/image/q/3/large.jpg" in sources[0]
    assert f"/image/g/{row}/large.jpg" in sources[1]
    assert "/map/activation/" in sources[2]
    assert images.first.evaluate("image => image.decode().then(() => image.naturalHeight)") == 40
    assert "rank 2" in page.locator("dialog figcaption").nth(1).text_content()
    page.keyboard.press("n")
    assert "query=q3" in page.url
    page.keyboard.press("ArrowRight")
    assert "rank 3" in page.locator("dialog figcaption").nth(1).text_content()
    page.keyboard.press("Escape")
    assert page.locator("dialog[open]").count() == 0
    assert focused(page) == links.nth(2).get_attribute("id")
    links.nth(4).hover()
    page.locator("[data-grid] li").nth(4).get_by_role("button").click()
    assert "rank 5" in page.locator("dialog figcaption").nth(1).text_content()
    page.get_by_role("button", name="Close").click()
    assert page.said == []


def test_a_ranking_is_saved_as_a_file_that_opens_by_itself(visit, tmp_path):
    page = visit("search?query=q3")
    with page.expect_download() as download:
        page.locator("#save").click()
    assert download.value.suggested_filename == "ranking-0002_c2_3.html"
    download.value.save_as(tmp_path / "saved.html")
    shown = page.locator("[data-grid] .verdict").all_text_contents()
    page.goto((tmp_path / "saved.html").as_uri())
    assert page.locator(".mark").all_text_contents() == [text.strip() for text in shown]
    assert page.evaluate("[...document.images].every((one) => one.complete && one.naturalHeight > 0)")
    for width in (320, 1280):
        page.set_viewport_size({"width": width, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert page.said == []


def test_words_are_not_broken(visit):
    assert visit("search?query=x1").evaluate(LINES, "generated") == 1


def test_it_works_without_scripts(visit):
    page = visit("search?query=q3", java_script_enabled=False)
    page.locator("#left").select_option("1-reranked")
    page.get_by_role("button", name="Show").click()
    assert page.locator("h2").first.text_content() == "baseline re-ranked"
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
    assert page.locator(".crumbs [aria-current]").text_content() == "<img src=x>.png"
    assert page.locator(".caution").text_content().startswith("Any picture gets a ranking")
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
    page = visit("search?query=q3&left=1-plain&right=off&depth=50")
    page.evaluate(DROP, [list(person(4, 5)), kind])
    page.wait_for_url("**/search?query=u**left=1-plain**")
    assert "depth=50" in page.url
    assert page.locator(".crumbs [aria-current]").text_content() == "dropped.png"


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"<svg onload=alert(1)>", "not an image"), (enormous_png(), "more than 50,000,000 pixels")],
)
def test_a_hostile_picture_is_answered_at_the_form_and_the_choices_stay(visit, content, message):
    page = visit("pick/q?order=hardest-1&find=c1")
    upload_file(page, content)
    alert = page.get_by_role("alert")
    assert message in alert.text_content()
    assert focused(page) == "picture"
    assert page.locator("#order").input_value() == "hardest-1"
    assert page.locator("#find").input_value() == "c1"
    assert "/pick/q?" in page.url, "the address can be opened again"
    page.reload()
    assert page.locator("h1").text_content() == "Queries"
    assert page.get_by_role("alert").count() == 0


@pytest.mark.parametrize("width", [375, 1280])
@pytest.mark.parametrize("content", [b"no image", bytes(21 * 2**20)], ids=["no image", "too large"])
def test_a_wrong_file_keeps_the_ranking(visit, width, content):
    page = visit("search?query=q3&left=1-plain&right=off&depth=50", width=width)
    page.locator("details.own summary").click()
    upload_file(page, content)
    alert = page.get_by_role("alert")
    assert ("larger than 20 MB" if len(content) > 100 else "not an image") in alert.text_content()
    assert alert.is_visible()
    assert page.locator("h1").text_content() == "Query: identity 2, camera 2"
    assert page.locator("h2").all_text_contents() == ["baseline plain"]
    assert page.url.endswith("query=q3&left=1-plain&right=off&maps=off&depth=50")
    upload_file(page, person(2, 1))
    page.wait_for_url("**/search?query=u**left=1-plain**")


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
    page = visit("search?query=q0&right=off")
    for row in range(1, len(QUERY_LABELS)):
        page.locator("#next").click()
        page.wait_for_url(f"**/search?query=q{row}&**")
        settled(page)
    assert page.locator("#next").count() == 0
