"""Pages that the site makes from other files, and equations."""

import re
import sys
import xml.etree.ElementTree as ElementTree

import pytest
from pages import PAGES, root_command
from tiny import ROOT

sys.path.insert(0, str(ROOT / "tools"))

import site_hooks

MATHML = "{http://www.w3.org/1998/Math/MathML}"


def leaves(command, path="slsr"):
    for name, one in getattr(command, "commands", {}).items():
        yield from leaves(one, f"{path} {name}")
    if not getattr(command, "commands", {}):
        yield path, command


def test_every_command_and_option_is_on_the_page_of_commands():
    text = site_hooks.commands()
    sections = dict(re.findall(r"^## (slsr [\w -]+)\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL))
    everything = dict(leaves(root_command()))
    assert set(sections) == set(everything)
    for path, command in everything.items():
        for parameter in command.params:
            names = parameter.opts if parameter.param_type_name == "option" else []
            assert all(name in sections[path] for name in names)


def test_the_report_shows_no_picture_of_a_person():
    text = site_hooks.report()
    pictures = re.findall(r"!\[[^\]]*\]\(([^)]+)\)", text)
    assert pictures and set(pictures) <= set(site_hooks.PICTURES)
    assert "rank-1" in text and "artifacts/" not in re.sub(r"`[^`]*`", "", text)


def test_the_page_of_parameters_is_the_commented_file():
    assert (ROOT / "presets/defaults.yaml").read_text(encoding="utf-8") in site_hooks.parameters()


def test_links_that_leave_the_folder_lead_to_their_pages():
    class Page:
        class file:
            src_uri = "api/index.md"

    text = site_hooks.on_page_markdown("[m](../../benchmarks/RESULTS.md#training-input) [d](../data.md)", page=Page)
    assert text == "[m](../measurements.md#training-input) [d](../data.md)"


def test_links_of_pages_of_the_root_lead_to_pages_of_the_site():
    text = site_hooks.from_root("CONTRIBUTING.md")
    assert "](design.md)" in text and "](changelog.md)" in text
    assert "](docs/" not in text and "](CHANGELOG.md" not in text


def test_an_equation_becomes_mathml_that_says_the_same():
    html = site_hooks.on_page_content(r'<p><span class="arithmatex">\(\frac{a}{b} &lt; c_k\)</span></p>')
    tree = ElementTree.fromstring(html)
    fraction = tree.find(f".//{MATHML}mfrac")
    assert ["".join(part.itertext()) for part in fraction] == ["a", "b"]
    assert "".join(tree.itertext()) == "ab<ck"
    assert tree.find(f".//{MATHML}msub") is not None


def test_an_unknown_command_in_an_equation_stops_the_build():
    with pytest.raises(ValueError, match="nosuchthing"):
        site_hooks.on_page_content(r'<div class="arithmatex">\[\nosuchthing{x}\]</div>')


def test_every_equation_of_the_pages_is_known():
    found = 0
    for page in PAGES:
        text = re.sub(r"^```.*?^```|`[^`\n]+`", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
        for latex in re.findall(r"\$\$(.+?)\$\$", text, re.DOTALL):
            assert "<math" in site_hooks.on_page_content(f'<div class="arithmatex">\\[{latex}\\]</div>')
            found += 1
    assert found >= 12


def test_what_is_returned_is_text():
    html = (
        '<li><code>float32 [N, D], in the order of `images`</code>\n –\n <div class="doc-md-description">\n </div></li>'
    )
    assert site_hooks.on_page_content(html) == "<li>float32 [N, D], in the order of <code>images</code></li>"
    described = '<li><code>int</code> – <div class="doc-md-description"><p>Rows.</p></div></li>'
    assert site_hooks.on_page_content(described) == described
