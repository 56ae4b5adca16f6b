"""Commands on results: are they those of the code, are they worse, does the remote have them, what is in a model."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from slsr.cli.commands import Commands
from slsr.cli.options import RESULTS
from slsr.cli.outputs import check_output
from slsr.cli.terminal import fitted
from slsr.errors import CheckFailed, InputError

app = Commands()


@app.command(rich_help_panel=RESULTS)
def fresh(
    rev: Annotated[
        str | None, typer.Option(metavar="REV", help="Commit to check. By default, the working tree with its edits.")
    ] = None,
) -> None:
    """Check that the committed metrics belong to the committed code, parameters and data. This runs nothing."""
    from slsr.project.fresh import describe, freshness

    found = freshness(Path(), rev)
    typer.echo(describe(found))
    if found.stale:
        raise CheckFailed("the metrics are not those of this code, params.yaml and data; `dvc repro`, then commit")
    if found.unknown:
        raise InputError("some data cannot be checked from here; see above")


@app.command(rich_help_panel=RESULTS, examples=["slsr remote", "slsr remote storage --send"])
def remote(
    name: Annotated[
        str | None,
        typer.Argument(metavar="NAME", help="DVC remote to check. By default, each output is looked for in its own."),
    ] = None,
    rev: Annotated[
        str | None,
        typer.Option(metavar="REV", help="Commit, branch, tag or experiment to check. By default, the working tree."),
    ] = None,
    send: Annotated[bool, typer.Option("--send", help="Send what is missing from the cache of this clone.")] = False,
) -> None:
    """Check that the DVC remote has every output of this commit, or send what is missing."""
    from slsr.project.remotes import describe, forget_notes, holdings, send_lacking

    forget_notes(Path())
    found = (send_lacking if send else holdings)(Path(), name, rev)
    typer.echo(describe(found))
    if found.lacking:
        remedy = "run this in a clone that has them" if send else "`slsr remote --send`"
        raise CheckFailed(f"{len(found.lacking)} objects are not in the remote; {remedy}")


@app.command(rich_help_panel=RESULTS, examples=["slsr gate", "slsr gate --against v1.0 --markdown gate.md"])
def gate(
    against: Annotated[
        str | None,
        typer.Option(metavar="REV", help="Commit to compare with. By default, the commit where HEAD leaves main."),
    ] = None,
    rev: Annotated[
        str | None, typer.Option(metavar="REV", help="Commit to judge. By default, the working tree.")
    ] = None,
    json_path: Annotated[
        Path | None, typer.Option("--json", metavar="OUT.json", help="Write every verdict to this file.")
    ] = None,
    markdown: Annotated[
        Path | None, typer.Option(metavar="OUT.md", help="Write the whole table as Markdown to this file.")
    ] = None,
    despite_protocol: Annotated[
        bool, typer.Option("--despite-protocol", help="Compare although the test data or the protocol differ.")
    ] = False,
) -> None:
    """Check that the metrics are not worse than those of another commit, by the rules in its metrics/gate.yaml."""
    check_output(json_path, ".json", replace=True)
    check_output(markdown, ".md", replace=True)
    from slsr.files import write_bytes, write_json
    from slsr.project.gate.comparison import compare_revisions
    from slsr.project.gate.text import as_json, render, verdict

    result = compare_revisions(Path(), against, rev, despite_protocol)
    whole = render(result, every_row=True)
    typer.echo(fitted(render(result, every_row=False)))
    if json_path is not None:
        write_json(json_path, as_json(result))
    if markdown is not None:
        write_bytes(markdown, whole.encode())
    if summary := os.environ.get("GITHUB_STEP_SUMMARY"):
        with Path(summary).open("a", encoding="utf-8") as file:
            file.write(whole)
    if result.judgment.failures:
        raise CheckFailed(f"{verdict(result)}; docs/gate.md says how to accept a drop")


@app.command(rich_help_panel=RESULTS, examples=["slsr results"])
def results() -> None:
    """Print the result of the last run: each method with intervals, and what to do next."""
    from slsr.files import METRICS, read_json
    from slsr.labels.regularizers import committed_names
    from slsr.params.dataset import SAMPLE
    from slsr.params.file import load_params
    from slsr.reporting.result import render_result

    floors, *runs = (read_json(METRICS / f"{name}.json") for name in ("floors", *committed_names()))
    of_sample = load_params(Path("params.yaml")).dataset.archive == SAMPLE
    typer.echo(render_result(floors, dict(zip(committed_names(), runs, strict=True)), of_sample), nl=False)


@app.command(rich_help_panel=RESULTS, examples=["slsr card slsr --out slsr-card.md"])
def card(
    model: Annotated[
        str,
        typer.Argument(metavar="NAME", help="An artifact of dvc.yaml: encoder, baseline, lsro, slsr or generators."),
    ],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="OUT.md", help="Write the card to this file.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that exists.")] = False,
) -> None:
    """Write the model card of an artifact: data, recipe, numbers with intervals, limits and ethics."""
    check_output(out, ".md", replace=force)
    from slsr.files import write_bytes
    from slsr.reporting.model_card import model_card

    text = model_card(model, Path())
    if out is None:
        typer.echo(text, nl=False)
        return
    write_bytes(out, text.encode())
    typer.echo(f"wrote {out}")
