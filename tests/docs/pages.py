"""The pages of docs/, README.md and CONTRIBUTING.md taken apart: fences, code spans, links, headings."""

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import typer.main
from tiny import ROOT

from slsr.cli.main import app

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"^(?P<mark>```+)(?P<language>\w*)[^\n]*\n(?P<text>.*?)^(?P=mark)[ \t]*$", re.MULTILINE | re.DOTALL)
NOT_RUN = re.compile(r"<!-- not run: [^>]+ -->\s*$")


def name_of(page):
    return str(page.relative_to(ROOT))


@dataclass(frozen=True)
class Fence:
    language: str
    text: str
    line: int
    run: bool


@cache
def fences(page):
    text = page.read_text(encoding="utf-8")
    return [
        Fence(
            found["language"],
            found["text"],
            text.count("\n", 0, found.start()) + 2,
            run=not NOT_RUN.search(text[: found.start()]),
        )
        for found in FENCE.finditer(text)
    ]


@cache
def prose(page):
    """The page without its fences and comments."""
    return re.sub(r"<!--.*?-->", "", FENCE.sub("", page.read_text(encoding="utf-8")), flags=re.DOTALL)


def code_spans(page):
    return [" ".join(found[1].split()) for found in re.finditer(r"(?<!`)`([^`]+)`(?!`)", prose(page))]


def links(page):
    """Targets of links and pictures, but for those in code."""
    text = re.sub(r"(?<!`)`[^`]+`(?!`)", "code", prose(page))
    return [found[1] for found in re.finditer(r"\]\(([^)\s]+)\)", text)]


@cache
def anchors(page):
    """Of the headings of a page, as GitHub makes them; equal ones get a number."""
    found, seen = set(), {}
    for title in re.findall(r"^#{1,6} +(.+?) *#*$", prose(page), re.MULTILINE):
        text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", title)
        slug = re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")
        count = seen[slug] = seen.get(slug, -1) + 1
        found.add(slug if count == 0 else f"{slug}-{count}")
    return found


@cache
def root_command():
    return typer.main.get_command(app)


def command_lines(page):
    """Every line that a reader would type, from fences of a shell and code spans."""
    for fence in fences(page):
        if fence.language in {"console", "sh", "bash", ""}:
            joined = fence.text.replace("\\\n", " ")
            yield from (line.removeprefix("$ ") for line in joined.splitlines())
    yield from code_spans(page)


def repository_paths(page):
    """Code spans that name a file of this repository."""
    roots = {"src", "tests", "docs", "benchmarks", "tools", "presets", "studies", "metrics", ".github", ".dvc"}
    for span in code_spans(page):
        path = Path(span)
        if "/" in span and path.parts and path.parts[0] in roots and re.fullmatch(r"[\w./-]+", span):
            yield path
