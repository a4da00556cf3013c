"""`coulomb reconcile`: does the database say what the chain holds, and what runs?"""

import typer

from marketplace.cli.output import columns, note, show_rows
from marketplace.cli.serve import settings_of_env
from marketplace.errors import ExitCode

FINDINGS = columns("kind", "subject", "expected", "found")


def reconcile() -> None:
    """Compare chain, database and running jobs to the atom; ends with 1 where they differ."""
    from marketplace.server.operations import compare

    seen = compare(settings_of_env())
    show_rows(seen.findings, FINDINGS)
    note(
        f"block {seen.block_number}: {seen.leases} leases, {seen.accounts} accounts, "
        f"{len(seen.findings)} differences"
    )
    if seen.findings:
        raise typer.Exit(ExitCode.ERROR)
