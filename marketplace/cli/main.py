"""`coulomb`: the entry point. Global options may stand anywhere on the line."""

import os
import sys
from collections.abc import Sequence
from pkgutil import resolve_name
from types import ModuleType
from typing import Annotated

import typer
from typer import Option
from typer.main import get_command

from marketplace.cli import Format
from marketplace.errors import ExitCode

WITH_VALUE = ("-o", "--output", "--profile", "--account", "--keystore", "--password-file")
MESSAGE_CHARS_MAX = 20_000  # of an error, which may repeat what a server said
FLAGS = ("-y", "--yes", "--dry-run")
COMMANDS = {  # where each is, and what it is about: only the one that is run is imported
    "provider": ("provider:app", "Sell compute from this machine."),
    "ask": ("ask:app", "Offer your GPUs at a price."),
    "earnings": ("wallet:earnings_app", "See and withdraw what you earned."),
    "tier": ("book:tier_app", "List the classes of GPU."),
    "book": ("book:app", "See what is on offer."),
    "job": ("job:app", "Buy compute: run, follow and cancel jobs."),
    "order": ("ask:order_app", "Cancel orders."),
    "wallet": ("wallet:app", "Keys, deposits and withdrawals."),
    "purse": ("purse:app", "Accounts from which somebody else may buy compute."),
    "key": ("profile:key_app", "Make, list and revoke API keys."),
    "receipt": ("job:receipt_app", "See what was measured, charged and paid."),
    "witness": ("witness:app", "Countersign what a job really used."),
    "profile": ("profile:app", "Choose the market and who you are on it."),
    "dev": ("dev:app", "A market on this machine."),
    "contract": ("contract:app", "The contracts."),
    "db": ("serve:db_app", "The server's database."),
    "settle": ("serve:settle_app", "Payments for countersigned usage."),
    "quote": ("book:quote", "Show which asks match a job now, best first."),
    "serve": ("serve:serve", "Run the market's server, or some of its roles."),
    "reconcile": ("serve:reconcile", "Compare chain, database and running jobs."),
}
VERBS = ("quote", "serve", "reconcile")


def program(*wanted: str) -> typer.Typer:
    """The whole program; of commands that are not wanted, only the name and the help."""
    app = typer.Typer(
        name="coulomb",
        help="A market for GPU compute, settled on chain by the measured second.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(options)
    for name, (place, text) in COMMANDS.items():
        found = resolve_name(f"marketplace.cli.{place}") if name in wanted else None
        if name in VERBS:
            app.command(name, help=None if found else text)(found or _not_imported)
        else:
            app.add_typer(found or typer.Typer(), name=name, help=text, no_args_is_help=True)
    return app


def _not_imported() -> None: ...


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(version("coulomb"))
        raise typer.Exit


def options(
    output: Annotated[
        Format, Option("--output", "-o", help="Format of the output.")
    ] = Format.TABLE,
    profile_name: Annotated[
        str | None, Option("--profile", help="Profile to use (default: the current one).")
    ] = None,
    account: Annotated[
        str | None,
        Option("--account", help="Name of the keystore that signs (default: the profile's)."),
    ] = None,
    keystore: Annotated[
        str | None, Option("--keystore", help="File of the keystore that signs.")
    ] = None,
    password_file: Annotated[
        str | None, Option("--password-file", help="File with the keystore's password.")
    ] = None,
    yes: Annotated[bool, Option("--yes", "-y", help="Do not ask for confirmation.")] = False,
    dry_run: Annotated[
        bool, Option("--dry-run", help="Show what would be done, and do nothing.")
    ] = False,
    version: Annotated[
        bool, Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    if account and keystore:
        raise typer.BadParameter("--account and --keystore exclude each other")
    from marketplace.cli.context import Cli, begin

    begin(Cli(output, profile_name, account or keystore, password_file, yes, dry_run))


def hoist(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """The global options, from wherever they stand before a `--`, and the other words."""
    front: list[str] = []
    rest: list[str] = []
    waiting = list(arguments)
    while waiting:
        word = waiting.pop(0)
        if word == "--":
            rest += [word, *waiting]
            break
        if word in FLAGS or ("=" in word and word.partition("=")[0] in WITH_VALUE):
            front.append(word)
        elif word in WITH_VALUE:
            front += [word, *waiting[:1]]
            del waiting[:1]
        else:
            rest.append(word)
    return front, rest


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    front, rest = hoist(sys.argv[1:] if arguments is None else arguments)
    wanted = COMMANDS if "_COULOMB_COMPLETE" in os.environ else rest[:1]  # shells complete any word
    try:
        command = get_command(program(*wanted))
        code = command.main([*front, *rest], prog_name="coulomb", standalone_mode=False)
        sys.stdout.flush()
    except typer.TyperException as error:
        show = getattr(error, "show", None)  # usage errors know how to show themselves
        show() if show else typer.echo(error.message, err=True)
        return error.exit_code
    except typer.Abort:
        typer.echo("not done", err=True)
        return ExitCode.ERROR
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has gone, as `head` does; Python must not complain at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.ERROR
    except ModuleNotFoundError as error:
        missing = _failures().missing_extra(error)
        if missing is None:
            raise
        return _fail(missing)
    except _failures().KNOWN as error:
        return _fail(error)
    return code if isinstance(code, int) else ExitCode.OK


def _failures() -> ModuleType:
    """Imported only on failure, because it imports every package whose errors it knows."""
    from marketplace.cli import failures

    return failures


def _fail(error: Exception) -> int:
    from marketplace.cli.output import printable, styled

    said = printable("\n".join(_failures().describe(error)), "\n")[:MESSAGE_CHARS_MAX]
    typer.echo(styled("error: ", "red") + said, err=True)
    return int(_failures().exit_code_of(error))


if __name__ == "__main__":
    raise SystemExit(main())
