"""`rstitch`: its commands. What a command does is in the module of its name, or in a program that `tools` runs."""

from __future__ import annotations

import sys

import typer

from rstitch.cli import ask, certs, demo, drain, export, heads, health, logs, profiles, status, trajectory, up, version
from rstitch.cli.tools import add_tools

app = typer.Typer(
    name="rstitch",
    help="Two language models write one answer.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.callback()(version.main_options)
app.command("up")(up.up)
app.command("logs")(logs.logs)
app.command("ask")(ask.ask)
app.add_typer(trajectory.app, name="trajectory")
app.add_typer(profiles.app, name="profiles")
app.add_typer(heads.app, name="heads")
app.command("export")(export.export)
app.command("health")(health.health)
app.command("status")(status.status)
app.command("drain")(drain.drain)
app.command("demo")(demo.demo)
add_tools(app)
app.command("certs")(certs.certs)
app.command("version")(version.version)


def main() -> None:
    """Runs the command line; the entry point of the console script."""
    try:
        app()
    except BrokenPipeError:  # whoever read our output has had enough
        sys.stdout = None  # or the interpreter would try to flush it
        raise SystemExit(0) from None


if __name__ == "__main__":
    main()
