"""Commands that set up a clone: presets, and the doctor."""

from __future__ import annotations

import itertools
import os
import re
from pathlib import Path
from typing import Annotated

import typer

from slsr.cli.commands import Commands
from slsr.cli.options import PARAMS, PRESETS, SET_UP
from slsr.errors import CheckFailed, InputError

app = Commands()


@app.command(rich_help_panel=SET_UP, examples=["slsr preset", "slsr preset market1501-strong"])
def preset(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="The preset to write. Without it, list the presets.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a params.yaml that you have edited.")] = False,
) -> None:
    """Write params.yaml from a preset, or list the presets."""
    from slsr.params.presets import write_preset

    if name is None:
        typer.echo(_listed_presets())
        return
    write_preset(PRESETS, name, PARAMS, force)
    typer.echo(f"wrote {PARAMS} from the preset {name}; back to the committed one: git checkout {PARAMS}")


def _listed_presets() -> str:
    """List each preset with the first sentence of its file; a star marks the one that params.yaml was written from."""
    from slsr.params.presets import preset_names, render_preset

    names = preset_names(PRESETS)
    if not names:
        raise InputError(f"{PRESETS.resolve()}: no presets; run this in the root of a clone of the project")
    current = PARAMS.read_text(encoding="utf-8", errors="replace") if PARAMS.is_file() else ""
    width = max(map(len, names))
    lines = []
    for name in names:
        is_current = current.startswith(f"# The preset {name}:")
        edited = " (params.yaml has edits)" if is_current and render_preset(PRESETS, name) != current else ""
        lines.append(f"{'*' if is_current else ' '} {name:<{width}}  {_summary(PRESETS / f'{name}.yaml')}{edited}")
    return "\n".join(lines)


def _summary(path: Path) -> str:
    """Return the first sentence of the comment at the top of a file."""
    lines = path.read_text(encoding="utf-8").splitlines()
    comment = " ".join(line.lstrip("# ") for line in itertools.takewhile(lambda line: line.startswith("#"), lines))
    return re.split(r"(?<=[.:])\s", comment, maxsplit=1)[0].rstrip(".:")


@app.command(rich_help_panel=SET_UP)
def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")] = False,
    timeout: Annotated[
        float, typer.Option(metavar="SECONDS", min=0.1, help="Time that each remote has to answer.")
    ] = 10.0,
) -> None:
    """Check machine, packages, parameters, data and remotes, and say how to fix each problem."""
    from slsr.project.doctor.examine import examine
    from slsr.project.doctor.report import as_json as json_of
    from slsr.project.doctor.report import counted, problems, render

    findings = []
    for finding in examine(Path(), os.environ, timeout):  # each is printed as soon as it is known
        findings.append(finding)
        if not as_json:
            typer.echo(render(finding))
    if as_json:
        typer.echo(json_of(findings))
    if found := problems(findings):
        raise CheckFailed(f"{counted(len(found), 'problem')}: {', '.join(one.topic for one in found)}")
