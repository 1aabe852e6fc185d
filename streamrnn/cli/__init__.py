"""The command line. Each command imports what it needs when it runs: help must not wait for torch."""

from __future__ import annotations

import sys

import typer

from streamrnn.cli import backtest, decode, demo, inspect, models, reset, serve, simulate, topics
from streamrnn.runtime.exit_codes import ExitCode, exit_code_of

app = typer.Typer(
    name="streamrnn",
    help="Rolling forecasts and filled gaps from a Kafka topic, by one recurrent state per series that keeps learning.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for group in (demo, serve, simulate, backtest, decode, topics, inspect, reset):
    group.register(app)
app.add_typer(models.app, name="models")


@app.command()
def version() -> None:
    """Print the version."""
    from streamrnn import __version__

    typer.echo(__version__)


def main() -> None:
    """Runs the command line; every known failure is one clear message and a documented exit code."""
    try:
        app()
    except Exception as error:
        code = exit_code_of(error)
        if code is ExitCode.BUG:
            raise
        typer.echo(f"streamrnn: {error}", err=True)
        sys.exit(code)
