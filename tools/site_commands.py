"""The page of commands, from the program itself; command_examples.yaml has examples that its help does not have."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
EXAMPLES = Path(__file__).with_name("command_examples.yaml")
INTRODUCTION = """# Commands

`slsr --help` lists the commands, and `slsr COMMAND -h` says what this page says. `slsr --install-completion` lets your
shell complete commands and options. Exit codes: 0 success, 1 a check failed, 2 bad input, 130 interrupted. Errors go to
standard error.
"""
STAGES = """`dvc repro` runs these commands in the right order and skips what is up to date; `dvc repro evaluate@slsr`
runs one stage and the stages that it needs. `dvc.yaml` calls the commands below. They read `params.yaml` and the
outputs of earlier stages, and if you call one yourself, DVC does not know of it.
"""


def commands() -> str:
    """Return the page, in Markdown: groups of commands, stages last, and each command with an example.

    Raises
    ------
    KeyError
        A command has no example.
    """
    shown = examples()
    groups: dict[str, list[str]] = {}
    for path, command, panel in leaves(root_command()):
        groups.setdefault(panel.partition(" (")[0], []).append(describe(command, path, shown[path]))
    parts = [INTRODUCTION]
    for name in sorted(groups, key=_is_of_stages):
        parts += [f"## {name}\n", *([STAGES] if _is_of_stages(name) else []), *groups[name]]
    return "\n".join(parts)


def _is_of_stages(group: str) -> bool:
    return group.startswith("Stages")


def examples() -> dict[str, str]:
    """Return what to type, in lines of a shell, for each command, such as `slsr data add`.

    The examples are those at the end of the command's own help, or those of command_examples.yaml if it has none.
    """
    found: dict[str, str] = yaml.safe_load(EXAMPLES.read_text(encoding="utf-8"))
    for path, command, _ in leaves(root_command()):
        if command.epilog:
            found[path] = "\n".join(line.strip() for line in command.epilog.splitlines()[1:])
    return found


def root_command() -> Any:
    """Return the program as a click command."""
    sys.path.insert(0, str(ROOT / "src"))
    import typer.main

    from slsr.cli.main import app

    return typer.main.get_command(app)


def leaves(command: Any, path: str = "slsr", panel: str = "Tools") -> Iterator[tuple[str, Any, str]]:
    """Yield each command that has no subcommands: what to type, the command, the heading of its group in the help."""
    panel = getattr(command, "rich_help_panel", None) or panel
    subcommands = getattr(command, "commands", None)
    if subcommands is None:
        yield path, command, panel
    else:
        for name, one in subcommands.items():
            yield from leaves(one, f"{path} {name}", panel)


def describe(command: Any, path: str, example: str) -> str:
    """Describe one command: what it does, what it takes, an example, every argument and option."""
    arguments = [one for one in command.params if one.param_type_name == "argument"]
    options = [one for one in command.params if one.param_type_name == "option"]
    usage = " ".join([path, *map(_usage, arguments), *(["[OPTIONS]"] if options else [])])
    parts = [f"### {path}", command.help, f"Usage: `{usage}`", f"```sh\n{example.strip()}\n```"]
    rows = [f"| `{_names(one)}` | {_explain(one)} |" for one in (*arguments, *options)]
    if rows:
        parts.append("\n".join(["| argument or option | meaning |", "| --- | --- |", *rows]))
    return "\n\n".join(parts) + "\n"


def _value(parameter: Any) -> str:
    return str(parameter.metavar or parameter.name.upper())


def _usage(argument: Any) -> str:
    value = _value(argument).removesuffix("...") + ("..." if argument.nargs == -1 else "")
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
