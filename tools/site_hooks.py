"""What the documentation site adds to docs/: equations as MathML, and pages made from other files of the repository.

Equations are written between dollars, which GitHub draws too. A link that leaves docs/ for a file that the site has as
a page (`../benchmarks/RESULTS.md`) works in both places.
"""

from __future__ import annotations

import html
import re
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.structure.files import File
from site_commands import commands
from site_parameters import parameters

ROOT = Path(__file__).parents[1]
PAGES = {
    "../CHANGELOG.md": "changelog.md",
    "../CONTRIBUTING.md": "contributing.md",
    "../benchmarks/RESULTS.md": "measurements.md",
    "../metrics/report.md": "report.md",
    "../presets/defaults.yaml": "parameters.md",
}
PICTURES = ("cmc.png", "curves.png", "silhouettes.png")
MATH = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL)
RETURNED = re.compile(r'<code>([^<]+)</code>\s*–\s*<div class="doc-md-description">\s*</div>')
CODE = re.compile(r"`([^`]+)`")


def on_files(files: Any, config: Any) -> Any:
    """Add the pages that are made from other files, and the diagrams of the report."""
    texts = {
        "changelog.md": from_root("CHANGELOG.md"),
        "commands.md": commands(),
        "contributing.md": from_root("CONTRIBUTING.md"),
        "parameters.md": parameters(),
        "report.md": report(),
        "measurements.md": (ROOT / "benchmarks/RESULTS.md").read_text(encoding="utf-8"),
    }
    for name, text in texts.items():
        files.append(File.generated(config, name, content=text))
    for name in PICTURES:
        files.append(File.generated(config, name, abs_src_path=str(ROOT / "metrics" / name)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Make links to files outside docs/ links to their pages, and draw commands as commands.

    In a fence of `console`, only what follows a prompt is a command for the highlighter; our fences have no prompts.
    """
    up = "../" * page.file.src_uri.count("/")
    for outside, name in PAGES.items():
        markdown = markdown.replace(f"]({up}{outside}", f"]({up}{name}")
    return markdown.replace("```console\n", "```sh\n")


def on_page_content(content: str, **_: Any) -> str:
    """Turn equations into MathML, which browsers draw and screen readers read without a script.

    Also turn a one-line description of a returned value back into text: mkdocstrings takes it for a type.
    """
    return RETURNED.sub(lambda found: CODE.sub(r"<code>\1</code>", found[1]), MATH.sub(_mathml, content))


def _mathml(match: re.Match[str]) -> str:
    tag, latex = match[1], html.unescape(match[2]).strip()
    mathml = convert(latex, display="block" if tag == "div" else "inline")
    if "\\" in mathml:
        raise ValueError(f"{latex}: latex2mathml does not know a command of this equation; write it otherwise")
    return f'<{tag} class="math">{mathml}</{tag}>'


def from_root(name: str) -> str:
    """Return a page of the root, with its links as the site needs them."""
    text = (ROOT / name).read_text(encoding="utf-8").replace("](docs/", "](")
    for outside, page in PAGES.items():
        text = text.replace(f"]({outside.removeprefix('../')}", f"]({page}")
    return text


def report() -> str:
    """Return metrics/report.md without the pictures of people, which may be real ones."""
    text = (ROOT / "metrics/report.md").read_text(encoding="utf-8")
    return text.partition("## Pictures of people")[0]
