"""What `slsr COMMAND --help` says, read from every command."""

import os
import re
import shlex
import subprocess
import sys

import pytest
import typer.main
from tiny import ROOT

from slsr.cli import stages
from slsr.cli.main import app

MAIN = ["embed", "index", "search", "export", "transfer", "score", "explore", "study", "compare", "preset", "card"]


def leaves(command, path=()):
    for name, one in getattr(command, "commands", {}).items():
        yield from leaves(one, (*path, name))
    if not getattr(command, "commands", {}):
        yield path, command


COMMANDS = dict(leaves(typer.main.get_command(app)))


@pytest.fixture
def help_of(run_slsr, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")

    def read(*path, name="--help"):
        code, out, err = run_slsr(*path, name)
        assert (code, err) == (0, "")
        return out

    return read


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_help_begins_with_a_verb_and_names_no_type_of_a_switch(help_of, path):
    text = help_of(*path)
    assert help_of(*path, name="-h") == text
    first = COMMANDS[path].help.split("\n")[0]
    assert first.endswith(".")
    verb = first.split()[0]
    assert verb.istitle() and not verb.endswith("s"), f"{first!r} begins with no command verb"
    for noise in ("<bool>", "<path>", "list[", "[default: ("):
        assert noise not in text
    for parameter in COMMANDS[path].params:
        assert parameter.help[0].isupper() and parameter.help.endswith("."), parameter.name


def test_every_option_is_still_shown(help_of):
    for path, command in COMMANDS.items():
        shown = help_of(*path)
        for parameter in command.params:
            names = parameter.opts if parameter.param_type_name == "option" else [parameter.metavar]
            assert all(name in shown for name in names), (path, names)


@pytest.mark.parametrize("name", MAIN)
def test_the_examples_of_a_command_are_lines_that_it_takes(name):
    """Each is parsed by the command itself, which is not run."""
    command = COMMANDS[name,]
    heading, *lines = command.epilog.splitlines()
    assert heading == "Examples:" and lines
    for line in lines:
        program, typed, *arguments = shlex.split(line)
        assert (program, typed) == ("slsr", name)
        command.make_context(name, arguments)


def test_stages_come_after_what_users_call(help_of):
    text = help_of()
    places = {name: re.search(rf"^│ {name} ", text, re.MULTILINE).start() for (name, *_) in COMMANDS}
    tools = [name for name in places if name.replace("-", "_") not in stages.COMMANDS]
    assert max(places[name] for name in tools) < min(places[name] for name in places if name not in tools)
    assert max(map(len, text.splitlines())) <= 100


def test_the_shell_is_told_the_commands_that_begin_so(tmp_path):
    """What `slsr --install-completion` makes bash ask."""
    asked = {"_SLSR_COMPLETE": "complete_bash", "COMP_WORDS": "slsr ex", "COMP_CWORD": "1"}
    program = "import sys; from slsr.cli.main import app; app(prog_name='slsr')"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | asked | {"PYTHONPATH": str(ROOT / "src")},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert set(done.stdout.split()) == {"extract-features", "export", "explore"}
