"""Commands on the project: presets, freshness, remotes, the gate, the doctor, model cards."""

from __future__ import annotations

import itertools
import os
import re
from pathlib import Path
from typing import Annotated

import typer

from slsr.cli.options import PARAMS, PRESETS, TOOLS
from slsr.errors import CheckFailed, InputError

app = typer.Typer()


@app.command(rich_help_panel=TOOLS)
def preset(
    name: Annotated[
        str | None, typer.Argument(help="Name of a file in presets/. Without it, list the presets.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a params.yaml that you have edited.")] = False,
) -> None:
    """Write params.yaml from presets/defaults.yaml and a preset, with all comments; or list the presets."""
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


@app.command(rich_help_panel=TOOLS)
def fresh(
    rev: Annotated[
        str | None, typer.Option(help="Check a commit. By default, check the working tree with its edits.")
    ] = None,
) -> None:
    """Check that the committed metrics are those of the committed code, parameters and data.

    This pulls nothing and runs nothing.
    """
    from slsr.project.fresh import describe, freshness

    found = freshness(Path(), rev)
    typer.echo(describe(found))
    if found.stale:
        raise CheckFailed("the metrics are not those of this code, params.yaml and data; `dvc repro`, then commit")
    if found.unknown:
        raise InputError("some data cannot be checked from here; see above")


@app.command(rich_help_panel=TOOLS)
def remote(
    name: Annotated[
        str | None, typer.Argument(help="Name of a DVC remote. By default, each output is looked for in its own.")
    ] = None,
    rev: Annotated[
        str | None, typer.Option(help="Commit, branch, tag or experiment to check. By default, the working tree.")
    ] = None,
    send: Annotated[bool, typer.Option("--send", help="Send what is missing from the cache of this clone.")] = False,
) -> None:
    """Check that the remote has every file of the outputs; clear the transfer notes that DVC cached."""
    from slsr.project.remotes import describe, forget_notes, holdings, send_lacking

    forget_notes(Path())
    found = (send_lacking if send else holdings)(Path(), name, rev)
    typer.echo(describe(found))
    if found.lacking:
        remedy = "run this in a clone that has them" if send else "`slsr remote --send`"
        raise CheckFailed(f"{len(found.lacking)} objects are not in the remote; {remedy}")


@app.command(rich_help_panel=TOOLS)
def gate(
    against: Annotated[
        str | None,
        typer.Option(metavar="REV", help="Commit to compare with. By default, the commit where HEAD leaves main."),
    ] = None,
    rev: Annotated[str | None, typer.Option(help="Commit to judge. By default, the working tree.")] = None,
    json_path: Annotated[
        Path | None, typer.Option("--json", metavar="OUT", help="Write every verdict to this file.")
    ] = None,
    markdown: Annotated[Path | None, typer.Option(metavar="OUT", help="Write the whole table to this file.")] = None,
    despite_protocol: Annotated[
        bool, typer.Option("--despite-protocol", help="Compare although the test data or the protocol differ.")
    ] = False,
) -> None:
    """Compare the metrics with those of another commit, by the rules in its metrics/gate.yaml."""
    from slsr.files import write_bytes, write_json
    from slsr.project.gate.comparison import compare_revisions
    from slsr.project.gate.text import as_json, render, verdict

    result = compare_revisions(Path(), against, rev, despite_protocol)
    whole = render(result, every_row=True)
    typer.echo(render(result, every_row=False))
    if json_path is not None:
        write_json(json_path, as_json(result))
    if markdown is not None:
        write_bytes(markdown, whole.encode())
    if summary := os.environ.get("GITHUB_STEP_SUMMARY"):
        with Path(summary).open("a", encoding="utf-8") as file:
            file.write(whole)
    if result.judgment.failures:
        raise CheckFailed(f"{verdict(result)}; docs/gate.md says how to accept a drop")


@app.command(rich_help_panel=TOOLS)
def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")] = False,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds that each remote may take to answer.")] = 10.0,
) -> None:
    """Check machine, packages, parameters, data and remotes, with a remedy for each problem; exit 1 if there is one."""
    from slsr.project.doctor.examine import examine
    from slsr.project.doctor.report import as_json as json_of
    from slsr.project.doctor.report import counted, problems, render

    findings = examine(Path(), os.environ, timeout)
    typer.echo(json_of(findings) if as_json else render(findings))
    if found := problems(findings):
        raise CheckFailed(f"{counted(len(found), 'problem')}: {', '.join(one.topic for one in found)}")


@app.command(rich_help_panel=TOOLS)
def card(
    model: Annotated[str, typer.Argument(help="An artifact of dvc.yaml: encoder, baseline, lsro, slsr or generators.")],
    out: Annotated[Path | None, typer.Option("--out", "-o", metavar="FILE.md", help="Write it to this file.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that exists.")] = False,
) -> None:
    """Write the model card of an artifact: data, recipe, numbers with intervals, limits and ethics."""
    from slsr.files import write_bytes
    from slsr.reporting.model_card import model_card

    text = model_card(model, Path())
    if out is None:
        typer.echo(text, nl=False)
        return
    if out.exists() and not force:
        raise InputError(f"{out}: is there already; name another file, or say --force to replace it")
    write_bytes(out, text.encode())
    typer.echo(f"wrote {out}")
