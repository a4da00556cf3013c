"""What jobs would see of this machine through the Python installation that is bound into them.

A virtual environment made from a link such as ~/.local/bin/python3.12 names ~/.local as its base,
and with it come other programs, their state and their keys.
"""

from __future__ import annotations

import os
import pwd
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from marketplace.agent.errors import FoldersExposed
from marketplace.sdk.profile import config_dir, state_dir


def refuse_exposed(prefix: Path, bases: Iterable[Path], private: Iterable[Path]) -> None:
    """Pass if no base is or contains a home folder, its .local, or a folder of the agent's.

    `private` are the agent's folders besides those in the usual places. Raises FoldersExposed.
    """
    kept = {path.resolve() for path in (*_usual(prefix), *private)}
    for base in sorted(bases):
        shown = next((path for path in sorted(kept) if path.is_relative_to(base.resolve())), None)
        if shown is not None:
            interpreter = (prefix / "bin" / "python").resolve()
            raise FoldersExposed(
                f"jobs would see {base}, and with it {shown}: {prefix} was made from a link; make"
                f" the environment from the interpreter's own path: {interpreter} -m venv {prefix}"
            )


def _usual(prefix: Path) -> list[Path]:
    """Home folders of who runs this and of who owns the environment, and the program's own."""
    homes = {Path.home()}
    for uid in (os.geteuid(), prefix.stat().st_uid):
        with suppress(KeyError):  # a user without an entry
            homes.add(Path(pwd.getpwuid(uid).pw_dir))
    return [*homes, *(home / ".local" for home in homes), config_dir(), state_dir()]
