"""What the pages tell a reader to type exists: commands, options, make targets, stages, parameters."""

import re
import shlex

import pytest
import yaml
from pages import PAGES, command_lines, name_of, root_command
from tiny import ROOT

from slsr.params.file import Params

SEPARATORS = {"&&", "||", ";", "|", ">", "2>", "&", "("}
PLACEHOLDER = re.compile(r"[A-Z.…][A-Z_.…]*$")


def words(line):
    try:
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.wordchars += "@=*…<>,:!^{}[]$%+"
        lexer.commenters = "#"
        lexer.whitespace_split = False
        return list(lexer)
    except ValueError:  # a quote that is not closed: prose in a code span
        return line.split()


def invocations(line):
    """The words after each `slsr` that starts a command in a line."""
    found = words(line)
    for place, word in enumerate(found):
        starts = place == 0 or found[place - 1] in {*SEPARATORS, "-m", "run"} or "=" in found[place - 1]
        if word == "slsr" and starts:
            rest = found[place + 1 :]
            ends = [number for number, one in enumerate(rest) if one in SEPARATORS]
            yield rest[: ends[0]] if ends else rest


def complaint(arguments):
    """Why these are not a command of slsr; None where they are."""
    command, rest = root_command(), list(arguments)
    while getattr(command, "commands", None):
        if not rest or rest[0] == "--help" or PLACEHOLDER.match(rest[0]):
            return None
        if rest[0] not in command.commands:
            return f"no command {rest[0]!r}"
        command = command.commands[rest.pop(0)]
    known = {name for one in command.params for name in (*one.opts, *one.secondary_opts)} | {"--help"}
    unknown = [word for word in rest if re.match(r"-{1,2}[a-z]", word) and word.split("=")[0] not in known]
    return f"no option {unknown}" if unknown else None


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_command_and_option_exists(page):
    wrong = {
        line: problem
        for line in command_lines(page)
        for arguments in invocations(line)
        if (problem := complaint(arguments)) is not None
    }
    assert not wrong


def test_the_search_for_commands_finds_them_and_what_is_wrong_with_them():
    """The checks above would pass if nothing were found."""
    assert list(invocations("slsr score a.npz --rerank && slsr gate | cat # slsr no")) == [
        ["score", "a.npz", "--rerank"],
        ["gate"],
    ]
    assert list(invocations("PYTHONPATH=src torchrun --nnodes=2 -m slsr train slsr")) == [["train", "slsr"]]
    assert complaint(["score", "x", "--reank"]) and complaint(["scoer"]) and complaint(["data", "ad"])
    assert complaint(["data", "add", "x", "--link"]) is None
    assert sum(len(list(invocations(line))) for page in PAGES for line in command_lines(page)) > 60


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_make_target_exists(page):
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {found for line in command_lines(page) for found in re.findall(r"^make (?:-\w+ )*([a-z-]+)", line)}
    assert named <= targets


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_stage_that_dvc_is_asked_for_exists(page):
    stages = set(yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"])
    for line in command_lines(page):
        found = re.match(r"dvc (?:repro|commit)\b(.*)", line.partition("#")[0])
        for word in found[1].split() if found else []:
            if re.fullmatch(r"[a-z_]+(@[a-z-]+)?", word):
                assert word.partition("@")[0] in stages, line


def keys(model=Params, prefix=""):
    """Dotted names of all parameters, blocks included."""
    for name, field in model.model_fields.items():
        yield prefix + name
        if hasattr(field.annotation, "model_fields"):
            yield from keys(field.annotation, f"{prefix}{name}.")


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_parameter_that_is_set_on_a_command_line_exists(page):
    known = set(keys())
    named = {found for line in command_lines(page) for found in re.findall(r"(?:-S|--set-param) '?([\w.]+)=", line)}
    assert named <= known
