"""Commands on the project: presets, freshness, remotes, the gate, the doctor, model cards."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from slsr.cli.options import PARAMS, PRESETS, TOOLS
from slsr.errors import CheckFailed, InputError

app = typer.Typer()


@app.command(rich_help_panel=TOOLS)
def preset(
    name: Annotated[str | None, typer.Argument(help="name of a file in presets/; none lists them")] = None,
    force: Annotated[bool, typer.Option("--force", help="replace a params.yaml that you have edited")] = False,
) -> None:
    """Write params.yaml from presets/defaults.yaml and a preset, comments included."""
    from slsr.params.presets import preset_names, write_preset

    if name is None:
        typer.echo("\n".join(preset_names(PRESETS)))
        return
    write_preset(PRESETS, name, PARAMS, force)
    typer.echo(f"wrote {PARAMS} from the preset {name}")


@app.command(rich_help_panel=TOOLS)
def fresh(
    rev: Annotated[str | None, typer.Option(help="a commit; by default the working tree, edits included")] = None,
) -> None:
    """Check that the committed metrics are those of the committed code, parameters and data; pulls and runs nothing."""
    from slsr.project.fresh import describe, freshness

    found = freshness(Path(), rev)
    typer.echo(describe(found))
    if found.stale:
        raise CheckFailed("the metrics are not those of this code, params.yaml and data; `dvc repro`, then commit")
    if found.unknown:
        raise InputError("some data cannot be checked from here; see above")


@app.command(rich_help_panel=TOOLS)
def remote(
    name: Annotated[str | None, typer.Argument(help="a DVC remote; by default the one that each out goes to")] = None,
    rev: Annotated[
        str | None, typer.Option(help="a commit, branch, tag or experiment; by default the working tree")
    ] = None,
    send: Annotated[bool, typer.Option("--send", help="send what is missing and lies in this clone's cache")] = False,
) -> None:
    """Check that every object of the outs lies in the remote, and have DVC forget what a killed command noted."""
    from slsr.project.remotes import describe, forget_notes, holdings, send_lacking

    forget_notes(Path())
    found = (send_lacking if send else holdings)(Path(), name, rev)
    typer.echo(describe(found))
    if found.lacking:
        remedy = "from a clone that has them" if send else "`slsr remote --send`"
        raise CheckFailed(f"{len(found.lacking)} objects are not in the remote; {remedy}")


@app.command(rich_help_panel=TOOLS)
def gate(
    against: Annotated[
        str | None, typer.Option(metavar="REV", help="commit to compare with; by default where HEAD leaves main")
    ] = None,
    rev: Annotated[str | None, typer.Option(help="commit to judge; by default the working tree")] = None,
    json_path: Annotated[Path | None, typer.Option("--json", metavar="OUT", help="write every verdict here")] = None,
    markdown: Annotated[Path | None, typer.Option(metavar="OUT", help="write the whole table here")] = None,
    despite_protocol: Annotated[
        bool, typer.Option("--despite-protocol", help="compare although test data or protocol differ")
    ] = False,
) -> None:
    """Compare metrics with those of another commit, by the rules in its metrics/gate.yaml."""
    from slsr.files import write_bytes, write_json
    from slsr.project.gate.comparison import compare_revisions
    from slsr.project.gate.text import as_json, render, verdict

    comparison = compare_revisions(Path(), against, rev, despite_protocol)
    whole = render(comparison, every_row=True)
    typer.echo(render(comparison, every_row=False))
    if json_path is not None:
        write_json(json_path, as_json(comparison))
    if markdown is not None:
        write_bytes(markdown, whole.encode())
    if summary := os.environ.get("GITHUB_STEP_SUMMARY"):
        with Path(summary).open("a", encoding="utf-8") as file:
            file.write(whole)
    if comparison.judgment.failures:
        raise CheckFailed(f"{verdict(comparison)}; docs/gate.md says how to accept a drop")


@app.command(rich_help_panel=TOOLS)
def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="for programs")] = False,
    timeout: Annotated[float, typer.Option(min=0.1, help="seconds that each remote may take to answer")] = 10.0,
) -> None:
    """What the machine offers, what a run will use, and what stands in the way: ends with 1 where something does."""
    from slsr.project.doctor.findings import examine
    from slsr.project.doctor.report import as_json as json_of
    from slsr.project.doctor.report import problems, render

    findings = examine(Path(), os.environ, timeout)
    typer.echo(json_of(findings) if as_json else render(findings))
    if found := problems(findings):
        raise CheckFailed(f"{len(found)} problem{'s' * (len(found) > 1)}: {', '.join(one.topic for one in found)}")


@app.command(rich_help_panel=TOOLS)
def card(
    model: Annotated[str, typer.Argument(help="encoder, baseline, lsro, slsr or generators, as in dvc.yaml")],
    out: Annotated[Path | None, typer.Option("--out", "-o", metavar="FILE.md", help="write it here")] = None,
    force: Annotated[bool, typer.Option("--force", help="replace a file that is there")] = False,
) -> None:
    """The model card of an artifact: data, recipe, numbers with intervals, limits, ethics."""
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
