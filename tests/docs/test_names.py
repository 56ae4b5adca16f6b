"""Names in the pages are names in the repository: parameters, modules and functions, files, error messages."""

import ast
import re

import pytest
from pages import PAGES, code_spans, name_of, prose, repository_paths, root_command
from test_commands import keys
from tiny import ROOT

KEYS = set(keys())
BLOCKS = {key for key in KEYS if any(other.startswith(f"{key}.") for other in KEYS)}
FILES = (".parquet", ".py", ".json", ".csv", ".yaml", ".npy", ".lock", ".png", ".md", ".safetensors")
# The metrics of DVC of the regularizer that has the name of the package.
METRICS = {f"slsr.{prefix}{measure}" for prefix in ("", "rerank_") for measure in ("rank1", "map_trapezoid")}
MADE_BY_ITS_USERS = {"metrics/accepted.yaml", ".github/CODEOWNERS", ".dvc/config.local"}


def is_dotted_parameter(span):
    """Whether a code span reads as `block.key`."""
    return span.split(".")[0] in {block.split(".")[0] for block in BLOCKS} and re.fullmatch(r"[a-z_0-9]+(\.\w+)+", span)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_dotted_parameter_exists(page):
    named = [span.split(":")[0] for span in code_spans(page)]
    named = [span for span in named if is_dotted_parameter(span) and not span.endswith(FILES)]
    assert not {span for span in named if span not in KEYS}


def tables_of_parameters(page):
    """The first column of each table whose heading begins with `parameter` or `option`."""
    for found in re.finditer(
        r"^\| *(?:parameter|option)\b[^\n]*\n\|[-| :]+\n((?:\|[^\n]*\n)+)", prose(page), re.MULTILINE
    ):
        for row in found[1].splitlines():
            yield from re.findall(r"`([^`]+)`", row.split("|")[1])


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_parameter_in_a_table_exists(page):
    last_parts = {key.rpartition(".")[2] for key in KEYS}
    known = KEYS | last_parts | options()
    assert not [name for name in tables_of_parameters(page) if name not in known and not name[0].isupper()]


def options(command=None):
    """The options of every command."""
    command = command or root_command()
    below = [options(one) for one in getattr(command, "commands", {}).values()]
    return {name for one in command.params for name in one.opts if name[0] == "-"}.union(*below)


def test_there_are_tables_of_parameters():
    assert sum(len(list(tables_of_parameters(page))) for page in PAGES) > 20


def defined(tree):
    """Names that a module's body defines or imports, and those of its classes."""
    for node in tree.body:
        match node:
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                yield name
                if isinstance(node, ast.ClassDef):
                    yield from (f"{name}.{inner}" for inner in defined(node))
            case ast.ImportFrom(names=names):
                yield from (one.asname or one.name for one in names)
            case ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name)):
                yield name


def exists(dotted):
    """Whether `slsr.a.b.c` is a module, or something that a module has; nothing is imported."""
    parts = dotted.split(".")
    for cut in range(len(parts), 0, -1):
        base = ROOT.joinpath("src", *parts[:cut])
        file = base / "__init__.py" if base.is_dir() else base.with_suffix(".py")
        if file.is_file():
            rest = ".".join(parts[cut:])
            return not rest or rest in set(defined(ast.parse(file.read_text(encoding="utf-8"))))
    return False


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_module_and_function_exists(page):
    text = prose(page)
    named = {span for span in code_spans(page) if re.fullmatch(r"slsr(\.\w+)+", span)}
    named |= set(re.findall(r"^::: (\S+)", text, re.MULTILINE))
    for listed in re.finditer(r"^::: (\S+)\n(?:    [^\n]*\n)*?      members: \[([^\]]+)\]", text, re.MULTILINE):
        named |= {f"{listed[1]}.{member.strip()}" for member in listed[2].split(",")}
    assert not {name for name in named if name not in METRICS and not exists(name)}


def test_a_name_that_is_none_is_found_out():
    assert (
        exists("slsr.labels.distributions.slsr")
        and exists("slsr.retrieval.evaluate")
        and exists("slsr.retrieval.Labels")
    )
    assert not exists("slsr.labels.distributions.slrs") and not exists("slsr.label")


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_file_of_the_repository_that_is_named_exists(page):
    assert not [
        path for path in repository_paths(page) if not (ROOT / path).exists() and str(path) not in MADE_BY_ITS_USERS
    ]


def messages():
    """Every text in the sources with a NUL for what is filled in."""
    for file in sorted((ROOT / "src").rglob("*.py")):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        docstrings = {node.value for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant | ast.JoinedStr | ast.BinOp) and node not in docstrings:
                yield plain(node)
    yield re.sub(r"\$\$?\([^)]*\)+", "\0", (ROOT / "Makefile").read_text())


def plain(node):
    match node:
        case ast.Constant(value=str(text)):
            return text.replace("`", "'")
        case ast.JoinedStr(values=values):
            return "".join(plain(value) for value in values)
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return plain(left) + plain(right)
    return "\0"


def says(source, message):
    """Whether a text of the source can read as a message of the page, `…` standing for anything."""
    parts = [part for part in re.split(r"\s*…\s*", message) if len(part) > 2]
    place = 0
    for part in parts:
        place = source.find(part, place)
        if place < 0:
            return False
        place += len(part)
    return bool(parts)


def test_every_message_of_the_troubleshooting_page_is_one_of_the_program():
    found = set(messages())
    page = next(page for page in PAGES if page.name == "troubleshooting.md")
    entries = re.findall(r"^### `(.+)`$", prose(page), re.MULTILINE)
    assert len(entries) >= 25
    assert not [entry for entry in entries if not any(says(one, entry) for one in found)]
    assert not any(says(one, "…: no such message; …") for one in found)
