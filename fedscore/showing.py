"""What all commands share: their settings, and how they show a result to people or programs."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

SETTINGS: Final[dict[str, Any]] = {
    "no_args_is_help": True,
    "add_completion": False,
    "pretty_exceptions_enable": False,
    "rich_markup_mode": None,
}

LONGEST_MESSAGE: Final = 4000

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]


def show(value: Any, tables: "Sequence[Table]", *, json: bool) -> None:  # noqa: ANN401  any struct
    """Prints a result as tables, or as JSON."""
    if json:
        import msgspec

        typer.echo(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())
        return
    for table in tables:
        console().print(table)


def shown(message: str) -> str:
    """Returns a message that a terminal prints as it is: what files hold may be in it."""
    kept = message if len(message) <= LONGEST_MESSAGE else message[:LONGEST_MESSAGE] + "..."
    return "".join(one if one.isprintable() or one == "\n" else ascii(one)[1:-1] for one in kept)


def console() -> "Console":
    """Returns where tables go: as wide as the terminal, or 110 columns into a file."""
    from rich.console import Console

    found = Console()
    return found if found.is_terminal else Console(width=110)
