"""Pages that the site makes from other files, and equations."""

import functools
import re
import shlex
import sys
import xml.etree.ElementTree as ElementTree

import pytest
import yaml
from pages import PAGES, root_command
from test_commands import keys
from tiny import ROOT

from slsr.params.file import Params

sys.path.insert(0, str(ROOT / "tools"))

import site_commands
import site_hooks
import site_parameters

MATHML = "{http://www.w3.org/1998/Math/MathML}"


def leaves(command, path="slsr"):
    for name, one in getattr(command, "commands", {}).items():
        yield from leaves(one, f"{path} {name}")
    if not getattr(command, "commands", {}):
        yield path, command


def test_every_command_and_option_is_on_the_page_of_commands():
    text = site_commands.commands()
    sections = dict(re.findall(r"^### (slsr [\w -]+)\n(.*?)(?=^##|\Z)", text, re.MULTILINE | re.DOTALL))
    everything = dict(leaves(root_command()))
    assert set(sections) == set(everything)
    for path, command in everything.items():
        for parameter in command.params:
            names = parameter.opts if parameter.param_type_name == "option" else []
            assert all(name in sections[path] for name in names)


def test_every_command_has_an_example_and_nothing_else_has():
    examples = site_commands.examples()
    assert set(examples) == {path for path, _ in leaves(root_command())}
    own = {path for path, command in leaves(root_command()) if command.epilog}
    assert not own & set(yaml.safe_load(site_commands.EXAMPLES.read_text())), "an example in two places"
    for path, example in examples.items():
        assert any(line.startswith(path) for line in example.splitlines()), path


def parse(line):
    """Let click parse a line of a shell as `slsr` would, without running it."""
    command, words = root_command(), shlex.split(line, comments=True)[1:]
    while hasattr(command, "commands"):
        command = command.commands[words.pop(0)]
    return command.make_context(command.name, words).params


@pytest.mark.parametrize("path", [path for path, _ in leaves(root_command())])
def test_every_line_of_an_example_is_one_that_the_program_takes(path):
    stages = set(yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"])
    lines = site_commands.examples()[path].splitlines()
    assert lines
    for line in lines:
        if line.startswith("slsr "):
            parse(line)
        else:
            assert re.fullmatch(r"dvc repro (\w+)(@\w+)?", line)[1] in stages


@pytest.mark.parametrize("line", ["slsr score", "slsr score a.npz --reank", "slsr index a.npz -o b --recall high"])
def test_a_line_that_the_program_refuses_is_noticed(line):
    with pytest.raises(Exception, match=r"Missing|No such option|valid number"):
        parse(line)


def test_arguments_of_any_number_have_one_ellipsis():
    assert "......" not in site_commands.commands()


def anchors_of(markdown):
    return re.findall(r"^#+ .*\{#([^}]+)\}$", markdown, re.MULTILINE)


def test_every_parameter_has_an_anchor_its_default_and_its_comment():
    page = site_parameters.parameters()
    assert sorted(anchors_of(page)) == sorted(keys())
    defaults = yaml.safe_load((ROOT / "presets/defaults.yaml").read_text())
    for name in anchors_of(page):
        section = page.partition(f"{{#{name}}}\n")[2].partition("\n#")[0]
        value = functools.reduce(lambda block, key: block[key], name.split("."), defaults)
        if not isinstance(value, dict):
            shown = re.search(r"default `([^`]*)`", section)[1]
            assert yaml.safe_load(shown) == value, name
    assert "gradient penalty on real images (Mescheder et al. 2018)" in page


def test_an_entry_says_what_is_allowed_and_which_presets_differ():
    page = site_parameters.parameters()
    section = page.partition("{#train.sampler}")[2].partition("####")[0]
    assert "`shuffle`, `identities`" in section and "[encoder.sampler](#encoder.sampler)" in section
    assert re.search(r"presets: `identities` in .*market1501-strong\b", section)
    for name, kind in {
        "gan.r1": "number at least 0",
        "train.schedule.step_factor": "number above 0, below 1",
        "train.steps": "whole number at least 1, or `null`",
        "cluster.k": "whole number at least 1, or `auto`",
        "cluster.sweep": "list of: whole number at least 1",
        "train.last_stride": "`1`, `2`",
        "train.ema": "number at least 0, below 1",
    }.items():
        assert site_parameters.kind_of(Params, name) == kind


def test_a_comment_of_several_lines_is_one_text_and_blocks_nest():
    text = "# Head.\n\na:  # block\n  b: 1  # first\n       # second\n  c:\n    d: 'x y'\n  e: null\n"
    found = [(one.name, one.value, one.comment) for one in site_parameters.entries(text)]
    assert found == [
        ("a", "", "block"),
        ("a.b", "1", "first second"),
        ("a.c", "", ""),
        ("a.c.d", "'x y'", ""),
        ("a.e", "null", ""),
    ]
    with pytest.raises(ValueError, match="- item"):
        site_parameters.entries("a:\n  - item\n")


def test_the_report_shows_no_picture_of_a_person():
    text = site_hooks.report()
    pictures = re.findall(r"!\[[^\]]*\]\(([^)]+)\)", text)
    assert pictures and set(pictures) <= set(site_hooks.PICTURES)
    assert "rank-1" in text and "artifacts/" not in re.sub(r"`[^`]*`", "", text)


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
