"""The template of the page of plots: its files, and what a browser without a network makes of it."""

import hashlib
import json
import re

import pytest
import yaml
from dvc_render import ImageRenderer, VegaRenderer, render_html
from PIL import Image
from tiny import ROOT

from slsr.labels.regularizers import REGULARIZERS
from slsr.reporting.titles import title_of

PLOTS = ROOT / ".dvc/plots"
TEMPLATE = PLOTS / "page.html"
RUNS = [
    {"rank": rank, "share": share, "filename": f"{run}/cmc.csv", "field": "share", "rev": revision}
    for revision, lift in (("workspace", 0.0), ("two", 0.1))
    for run, shares in (("none", (0.5, 0.7)), ("slsr", (0.4, 0.65)))
    for rank, share in enumerate([one + lift for one in shares], start=1)
]


def test_the_project_uses_the_template_and_dvc_fills_it():
    assert "html_template = plots/page.html" in (ROOT / ".dvc/config").read_text()
    text = TEMPLATE.read_text(encoding="utf-8")
    assert text.count("{plot_divs}") == 1 and "{scripts}" not in text
    assert not re.findall(r"(?:src|href)=[\"'](?:https?:)?//", text)


def test_vega_is_what_its_table_says_and_comes_with_its_license():
    rows = re.findall(r"^\| (\S+\.js) \| (\S+) \d[^|]*\| (\w{64}) \|$", (PLOTS / "vega/README.md").read_text(), re.M)
    assert {name for name, _, _ in rows} == {path.name for path in (PLOTS / "vega").glob("*.js")}
    for name, _, digest in rows:
        assert hashlib.sha256((PLOTS / "vega" / name).read_bytes()).hexdigest() == digest
        assert f"vega/{name}" in TEMPLATE.read_text(encoding="utf-8")
    assert "University of Washington" in (PLOTS / "vega/LICENSE").read_text()


def named_plots(file):
    for plot in yaml.safe_load(file.read_text()).get("plots", []):
        yield from [plot] if isinstance(plot, str) else plot


@pytest.mark.parametrize("name", [*named_plots(ROOT / "dvc.yaml"), *named_plots(ROOT / "studies/dvc.yaml")])
def test_every_plot_has_a_section_and_a_caption(name):
    patterns = re.findall(r"^      \[/(.+)/(i?),", TEMPLATE.read_text(encoding="utf-8"), re.MULTILINE)
    matching = [pattern for pattern, flag in patterns if re.search(pattern, name, re.I if flag else 0)]
    assert matching and "^" not in matching


def test_the_page_knows_every_regularizer_by_its_title():
    (block,) = re.findall(r"^const NAMES = (\{.*?\});$", TEMPLATE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    names = json.loads(block.replace(",\n}", "\n}"))
    assert names == {name: title_of(name) for name in REGULARIZERS}
    assert next(iter(names)) == "none", "the baseline comes first"


def vega(name, datapoints=RUNS):
    copies = [dict(point) for point in datapoints]
    lines = [{"filename": f"{run}/cmc.csv", "field": "share"} for run in ("none", "slsr")]
    properties = {"x": "rank", "y": "share", "title": name, "anchors_y_definitions": lines}
    return VegaRenderer(copies, name, template="runs", template_dir=str(PLOTS), **properties)


@pytest.fixture
def page(tmp_path, chromium):
    """Open what DVC would write for some plots, at 375 pixels, without a network."""
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc/plots").symlink_to(PLOTS)
    (tmp_path / "dvc_plots").mkdir()
    context = chromium.new_context(viewport={"width": 375, "height": 800}, offline=True)
    page, said = context.new_page(), []
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("requestfailed", lambda request: said.append(request.url))

    def show(*renderers):
        for renderer in renderers:
            for point in renderer.datapoints if isinstance(renderer, ImageRenderer) else []:
                Image.new("RGB", (900, 90), "teal").save(tmp_path / "dvc_plots" / point["src"])
        file = tmp_path / "dvc_plots/index.html"
        render_html(list(renderers), file, html_template=str(TEMPLATE))
        page.goto(file.as_uri())
        page.wait_for_function("[...document.images].every(image => image.complete)")
        assert said == []
        return page

    yield show
    context.close()


def image(name, *revisions):
    points = [{"rev": revision, "src": f"{revision}_{name.replace('/', '_')}"} for revision in revisions]
    return ImageRenderer(points, name)


@pytest.mark.browser
def test_plots_are_sorted_into_sections_with_captions(page):
    shown = page(
        image("artifacts/generated/sheet.png", "workspace"),
        image("artifacts/evaluate/slsr/ranked_lists.png", "workspace", "two"),
        image("artifacts/evaluate/none/ranked_lists_rerank.png", "workspace"),
        vega("The discriminators' probability of real, median over the clusters"),
        vega("Something new"),
        vega("CMC, single query"),
    )
    shown.wait_for_selector("svg.marks")
    assert shown.locator("h2").all_text_contents() == [
        "What the networks find",
        "Generators and generated images",
        "Other plots",
    ]
    assert shown.locator("h3").all_text_contents() == [
        "CMC, single query",
        "Baseline (none): re-ranked galleries",
        "SLSR: ranked galleries",
        "The discriminators' probability of real, median over the clusters",
        "Generated images",
        "Something new",
    ]
    assert shown.locator("nav a").all_text_contents() == shown.locator("h2").all_text_contents()
    assert "artifacts/" not in shown.inner_text("body")
    assert shown.locator(".revision").all_text_contents() == ["workspace", "two"]
    assert shown.evaluate("document.documentElement.scrollWidth") == 375


@pytest.mark.browser
def test_an_unknown_run_comes_last(page):
    runs = ("my-own", "mprl", "slsr-nearest", "none")
    shown = page(*(image(f"artifacts/evaluate/{run}/ranked_lists.png", "workspace") for run in runs))
    assert shown.locator("h3").all_text_contents() == [
        "Baseline (none): ranked galleries",
        "SLSR, nearest: ranked galleries",
        "MPRL: ranked galleries",
        "my-own: ranked galleries",
    ]


@pytest.mark.browser
def test_curves_are_drawn_and_named(page):
    shown = page(vega("CMC, single query"))
    shown.wait_for_selector("svg.marks g.mark-line path")
    words = shown.locator("svg.marks text").all_text_contents()
    assert {"baseline", "slsr", "workspace", "two"} <= set(words)
    lines = shown.locator("g.mark-line path").evaluate_all("all => all.map(one => one.getAttribute('d'))")
    assert len(set(lines)) == 4


@pytest.mark.browser
def test_without_vega_the_page_says_how_to_get_the_curves(page, tmp_path, chromium):
    page(vega("CMC, single query"))
    (tmp_path / ".dvc/plots").unlink()
    alone = chromium.new_page()
    alone.goto((tmp_path / "dvc_plots/index.html").as_uri())
    assert "root of the clone" in alone.inner_text(".problem")
    alone.close()
