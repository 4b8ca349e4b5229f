"""The `icclip` command: its subcommands, and errors into exit codes."""

from __future__ import annotations

import re
import sys
import time
from typing import Annotated, Any

import typer

from icclip import __version__
from icclip.commands import (
    assemble,
    blend,
    cache,
    compare,
    doctor,
    embed,
    evaluate,
    export,
    index,
    plot,
    plugins,
    push,
    quickstart,
    report,
    search,
    serve,
    train,
    verify,
)
from icclip.commands import config as config_commands
from icclip.commands import data as data_commands
from icclip.commands.declared import Command, Group
from icclip.console import Reporter, harmless
from icclip.errors import EXIT_INTERRUPTED, EXIT_USAGE, ConfigError, ElsewhereError, IcclipError, InterruptError
from icclip.extras import missing_extra
from icclip.files import refused_path
from icclip.plugins.loading import Plugin
from icclip.plugins.registry import Registry
from icclip.voice import is_first_to_say

TIME_TO_SPEAK = 1.0
"""Seconds that a process with nothing to add leaves to the one that speaks."""

ENDLESS = re.compile(r"\S{1000,}")
SHOWN = 200
"""Of a path or a word that nobody would read to its end, the characters that are shown of its beginning and its end."""

EPILOG = "Exit codes: 0 ok, 1 internal error, 2 usage or bad input, 3 a gate failed (parity, guard)."


class PluginGroup(Group):
    """Adds the subcommands of plugins. Our own come first: no plugin can replace `train`."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.own_commands = frozenset(self.commands)

    def list_commands(self, ctx: Any) -> list[str]:
        """All commands, those of third-party plugins included."""
        self._add_from(ctx.obj.plugins)
        return super().list_commands(ctx)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command, looked for among third-party plugins last."""
        found = super().get_command(ctx, cmd_name)
        for tier in ctx.obj.tiers() if found is None else ():
            self._add_from(tier)
            found = found or super().get_command(ctx, cmd_name)
        return found

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Resolve as Typer does; if there is no such command, name the plugins that might have provided it."""
        try:
            return super().resolve_command(ctx, args)
        except Exception:
            if failures := ctx.obj.failures():
                Reporter.for_this_process().warn(failures)
            raise

    def invoke(self, ctx: Any) -> Any:
        """As Click does. Of several processes with a mistake in their options one shows it."""
        try:
            return super().invoke(ctx)
        except Exception as error:
            # What Click calls its exceptions depends on the version of Typer.
            if hasattr(error, "format_message") and not is_first_to_say(error.format_message()):
                time.sleep(TIME_TO_SPEAK)
                raise SystemExit(EXIT_USAGE) from error
            raise

    def _add_from(self, plugins: tuple[Plugin, ...]) -> None:
        for plugin in plugins:
            for name, command in plugin.commands.items():
                self.commands.setdefault(name, command)


app = typer.Typer(
    cls=PluginGroup,
    name="icclip",
    help="Fine-tune CLIP and SigLIP for retrieval, measure it honestly, ship encoders proven to match.",
    epilog=EPILOG,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={
        "help_option_names": ["-h", "--help"],
        # The seed project spells its options with underscores, so --train_bs means --train-bs.
        "token_normalize_func": lambda token: token.replace("_", "-"),
    },
)


def _print_version(value: bool) -> None:
    if value:
        typer.echo(f"icclip {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """The global options; `version` works in its callback."""


app.command("quickstart", cls=Command)(quickstart.quickstart)
app.command("train", cls=Command)(train.train)
app.command("eval", cls=Command)(evaluate.evaluate)
app.command("assemble", cls=Command)(assemble.assemble)
app.command("blend", cls=Command)(blend.blend)
app.command("compare", cls=Command)(compare.compare)
app.command("report", cls=Command)(report.report)
app.command("plot", cls=Command)(plot.plot)
app.command("export", cls=Command)(export.export)
app.command("verify", cls=Command)(verify.verify)
app.command("embed", cls=Command)(embed.embed)
app.command("push", cls=Command)(push.push)
app.add_typer(index.app, name="index")
app.command("search", cls=Command)(search.search)
app.command("serve", cls=Command)(serve.serve)
app.add_typer(config_commands.app, name="config")
app.add_typer(data_commands.app, name="data")
app.add_typer(plugins.app, name="plugins")
app.add_typer(cache.app, name="cache")
app.command("doctor", cls=Command)(doctor.doctor)


def main(argv: list[str] | None = None) -> None:
    """Run the command line and exit. IcclipErrors become one line; bugs keep their traceback."""
    try:
        app(argv, prog_name="icclip", obj=Registry.from_environment())
    except ElsewhereError as error:
        # A launcher ends all processes as soon as one has ended: the one that speaks does so before that.
        time.sleep(TIME_TO_SPEAK)
        raise SystemExit(error.exit_code) from None
    except IcclipError as error:
        _fail(error)
    except ModuleNotFoundError as error:
        arguments = sys.argv[1:] if argv is None else argv
        missing = missing_extra(error, " ".join(["icclip", *arguments[:1]]))
        if missing is None:
            raise
        _fail(missing)
    except (OSError, RuntimeError) as error:
        refused = refused_path(error)
        if refused is None:
            raise
        _fail(refused)
    except SystemExit as exit_:
        if exit_.code == EXIT_INTERRUPTED:
            _fail(InterruptError("interrupted; what was saved before is intact"))
        raise


def _without_middle(found: re.Match[str]) -> str:
    return f"{found[0][:SHOWN]}...{found[0][-SHOWN:]}"


def _fail(error: IcclipError) -> None:
    lines = error.problems if isinstance(error, ConfigError) else [str(error)]
    if error.settled or is_first_to_say("\n".join(lines)):
        where = error.where and f"{error.where}: "
        for line in lines:
            # One line, whatever a file or a path is called.
            shown = ENDLESS.sub(_without_middle, harmless(f"{where}{line}")).replace("\n", "\\n")
            sys.stderr.write(f"error: {shown}\n")
        sys.stderr.flush()
    else:
        time.sleep(TIME_TO_SPEAK)
    raise SystemExit(error.exit_code)
