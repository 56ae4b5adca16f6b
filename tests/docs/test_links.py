"""Links between pages work on GitHub; the strict build of the site proves the same for the site."""

import pytest
from pages import PAGES, anchors, links, name_of
from test_commands import keys
from tiny import ROOT

DEFAULTS = ROOT / "presets/defaults.yaml"  # the page of parameters, on the site


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_link_leads_somewhere(page):
    wrong = []
    for target in links(page):
        if target.startswith(("http://", "https://", "mailto:")):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        known = set(keys()) if file == DEFAULTS else anchors(file) if anchor else set()
        if not file.is_relative_to(ROOT) or not file.exists() or (anchor and anchor not in known):
            wrong.append(target)
    assert not wrong


def test_there_are_links_and_anchors_to_check():
    assert sum("#" in target for page in PAGES for target in links(page)) > 15
    assert "what-the-released-code-does-otherwise" in anchors(ROOT / "docs/method.md")


def test_the_readme_is_one_page():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 140 and "make repro" in text and "make test" in text
