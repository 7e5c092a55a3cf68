"""`rstitch`: its commands, and what becomes of their errors. What a command does is in the module of its name."""

from __future__ import annotations

import sys

import typer

from rstitch.cli import ask, bench, calibrate, demo, health, pairs, profile, profiles, trajectory, up, version
from rstitch.cli import eval as evaluation
from rstitch.cli.hand_over import SETTINGS

app = typer.Typer(
    name="rstitch",
    help="Two language models write one answer.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("up")(up.up)
app.command("ask")(ask.ask)
app.add_typer(trajectory.app, name="trajectory")
app.add_typer(profiles.app, name="profiles")
app.command("health")(health.health)
app.command("demo")(demo.demo)
app.command("bench", context_settings=SETTINGS)(bench.bench)
app.command("calibrate", context_settings=SETTINGS)(calibrate.calibrate)
app.command("profile", context_settings=SETTINGS)(profile.profile)
app.command("pairs", context_settings=SETTINGS)(pairs.pairs)
app.command("eval", context_settings=SETTINGS)(evaluation.evaluate)
app.command("version")(version.version)


def main() -> None:
    """The console script."""
    try:
        app()
    except BrokenPipeError:  # whoever read our output has had enough
        sys.stdout = None  # or the interpreter would try to flush it
        raise SystemExit(0) from None


if __name__ == "__main__":
    main()
