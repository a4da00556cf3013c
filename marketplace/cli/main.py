"""`coulomb`: the entry point. Global options may stand anywhere on the line."""

import os
import sys
from collections.abc import Sequence
from typing import Annotated

import typer
from typer.main import get_command

from marketplace.cli import (
    ask,
    book,
    contract,
    db,
    dev,
    earnings,
    job,
    key,
    order,
    profile,
    provider,
    receipt,
    reconcile,
    serve,
    settle,
    tier,
    wallet,
    witness,
)
from marketplace.cli.context import Cli, Format, begin
from marketplace.cli.failures import describe, exit_code_of, known_errors, missing_extra
from marketplace.cli.output import styled
from marketplace.errors import ExitCode

WITH_VALUE = ("-o", "--output", "--profile", "--account", "--keystore", "--password-file")
FLAGS = ("-y", "--yes", "--dry-run")

app = typer.Typer(
    name="coulomb",
    help="A market for GPU compute, settled on chain by the measured second.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for noun in (
    provider, ask, earnings, tier, book, job, order, wallet, key, receipt, witness, profile, dev,
    contract, db, settle,
):  # fmt: skip
    app.add_typer(noun.app)
app.command(name="quote")(book.quote)
app.command(name="serve")(serve.serve)
app.command(name="reconcile")(reconcile.reconcile)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(version("coulomb"))
        raise typer.Exit


@app.callback()
def options(
    output: Annotated[
        Format, typer.Option("--output", "-o", help="How data is written to stdout.")
    ] = Format.TABLE,
    profile_name: Annotated[
        str | None, typer.Option("--profile", help="Which profile to act as.")
    ] = None,
    account: Annotated[
        str | None, typer.Option("--account", help="Name of the keystore to sign with.")
    ] = None,
    keystore: Annotated[
        str | None, typer.Option("--keystore", help="File of the keystore to sign with.")
    ] = None,
    password_file: Annotated[
        str | None, typer.Option("--password-file", help="File with the keystore's password.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before acting.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be done.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    if account and keystore:
        raise typer.BadParameter("--account and --keystore exclude each other")
    begin(
        Cli(
            output=output,
            profile_name=profile_name,
            keystore=account or keystore,
            password_file=password_file,
            yes=yes,
            dry_run=dry_run,
        )
    )


def hoist(arguments: Sequence[str]) -> list[str]:
    """Global options moved to the front, from wherever they stand before a `--`."""
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
    return front + rest


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    words = hoist(sys.argv[1:] if arguments is None else arguments)
    try:
        code = get_command(app).main(words, prog_name="coulomb", standalone_mode=False)
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
        missing = missing_extra(error)
        if missing is None:
            raise
        return _fail(missing)
    except known_errors() as error:  # evaluated only now, so that help needs none of its imports
        return _fail(error)
    return code if isinstance(code, int) else ExitCode.OK


def _fail(error: Exception) -> ExitCode:
    typer.echo(styled("error: ", "red") + "\n".join(describe(error)), err=True)
    return exit_code_of(error)


if __name__ == "__main__":
    raise SystemExit(main())
