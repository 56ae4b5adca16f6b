"""What the documentation site adds to docs/: equations as MathML, and pages made from other files of the repository.

Equations are written between dollars, which GitHub draws too. A link that leaves docs/ for a file that the site has as
a page (`../benchmarks/RESULTS.md`) works in both places.
"""

from __future__ import annotations

import html
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.structure.files import File

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
    """Make links to files outside docs/ links to their pages."""
    up = "../" * page.file.src_uri.count("/")
    for outside, name in PAGES.items():
        markdown = markdown.replace(f"]({up}{outside}", f"]({up}{name}")
    return markdown


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


def parameters() -> str:
    """Return presets/defaults.yaml, every parameter with its comment."""
    text = (ROOT / "presets/defaults.yaml").read_text(encoding="utf-8")
    return (
        "# Parameters\n\n`params.yaml` has every parameter, and each stage checks all of them before it starts. The "
        "values below are `presets/defaults.yaml`, made for the paper's scale. `slsr preset NAME` writes them with the "
        f"changes of a preset.\n\n```yaml\n{text}```\n"
    )


def commands() -> str:
    """Describe every command with its arguments and options, from the program itself."""
    sys.path.insert(0, str(ROOT / "src"))
    import typer.main

    from slsr.cli.main import app

    intro = "Exit codes: 0 success, 1 a check failed, 2 bad input, 130 interrupted. Errors go to standard error.\n"
    return "\n".join(["# Commands\n", intro, *_describe(typer.main.get_command(app), "slsr")])


def _describe(command: Any, path: str) -> Iterator[str]:
    subcommands = getattr(command, "commands", None)
    if subcommands is not None:
        for name, one in sorted(subcommands.items()):
            yield from _describe(one, f"{path} {name}")
        return
    arguments = [one for one in command.params if one.param_type_name == "argument"]
    options = [one for one in command.params if one.param_type_name == "option"]
    usage = " ".join([path, *map(_usage, arguments), *(["[OPTIONS]"] if options else [])])
    yield f"## {path}\n\n{command.help}\n\n```console\n{usage}\n```\n"
    rows = [f"| `{_names(one)}` | {_explain(one)} |" for one in (*arguments, *options)]
    if rows:
        yield "\n".join(["| argument or option | meaning |", "| --- | --- |", *rows]) + "\n"


def _value(parameter: Any) -> str:
    return str(parameter.metavar or parameter.name.upper())


def _usage(argument: Any) -> str:
    value = _value(argument) + ("..." if argument.nargs == -1 else "")
    return value if argument.required else f"[{value}]"


def _names(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        return _value(parameter)
    names = ", ".join([*parameter.opts, *parameter.secondary_opts])
    return names if parameter.is_flag else f"{names} {_value(parameter)}"


def _explain(parameter: Any) -> str:
    default = parameter.default
    text = (parameter.help or "").replace("|", "\\|").replace("*", "\\*")
    return text if default is None or isinstance(default, (bool, list, tuple)) else f"{text} (default: `{default}`)"
