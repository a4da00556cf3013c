"""Programs forked from a process that has already imported their packages.

Each is a process with its own id, session, environment and signals, as if a shell had started it.
Importing takes seconds, which are spent once per worker instead of at every start. That the
installed `coulomb` command itself starts is for tests/e2e/test_demo.py to show.
"""

import multiprocessing
import os
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
IMPORTED = (
    "marketplace.server.roles",
    "marketplace.agent.run",
    "marketplace.cli.job",
    "marketplace.cli.dev",
)

_context = multiprocessing.get_context("forkserver")


def coulomb(*words: str) -> int:
    """The `coulomb` command."""
    from marketplace.cli.main import main

    return main(words)


def fork(
    run: Callable[..., int | None],
    args: Sequence[Any],
    env: Mapping[str, str],
    out: Path,
    err: Path,
) -> ForkServerProcess:
    """Start `run(*args)` as a program whose exit code is what it returns; its output is added to
    the files `out` and `err`, which may be the same. It ends with the tests at the latest."""
    for path in (out, err):
        path.touch()
    _context.set_forkserver_preload(list(IMPORTED))
    process = _context.Process(target=_run, args=(run, args, dict(env), out, err), daemon=True)
    process.start()
    return process


def _run(
    run: Callable[..., int | None], args: Sequence[Any], env: dict[str, str], out: Path, err: Path
) -> None:
    os.setsid()
    os.chdir(ROOT)
    for number, path in ((1, out), (2, err)):
        opened = os.open(path, os.O_WRONLY | os.O_APPEND)
        os.dup2(opened, number)
        os.close(opened)
    os.environ.clear()
    os.environ.update(env)
    raise SystemExit(run(*args))
