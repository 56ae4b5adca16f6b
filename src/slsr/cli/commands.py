"""Commands whose help says no more than is needed: no type beside a switch, and examples at the end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import typer
from typer.core import TyperArgument, TyperCommand, TyperGroup
from typer.models import CommandFunctionType


def _without_types(parameters: Sequence[Any]) -> list[Any]:
    """Show no type beside a switch, which takes no value, and beside an argument, whose help says what it is."""
    for one in parameters:
        if isinstance(one, TyperArgument):
            one.display_type_rich = lambda ctx: None  # type: ignore[method-assign]
        elif one.is_flag:
            one.metavar = ""
    return list(parameters)


class Command(TyperCommand):
    """A command with short help."""

    def get_params(self, ctx: Any) -> list[Any]:
        """List the parameters, `--help` among them."""
        return _without_types(super().get_params(ctx))


class Group(TyperGroup):
    """A group of commands with short help."""

    def get_params(self, ctx: Any) -> list[Any]:
        """List the parameters, `--help` among them."""
        return _without_types(super().get_params(ctx))


class Commands(typer.Typer):
    """A group to which functions are added as commands."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"cls": Group} | options)

    def command(
        self, name: str | None = None, *, examples: Sequence[str] = (), **options: Any
    ) -> Callable[[CommandFunctionType], CommandFunctionType]:
        """Add a function as a command.

        Parameters
        ----------
        examples : whole command lines, which its help shows at the end
        options : of `typer.Typer.command`
        """
        shown = "\n".join(["Examples:", *(f"  {line}" for line in examples)]) if examples else None
        return super().command(name, **{"cls": Command, "epilog": shown} | options)
