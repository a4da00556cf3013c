"""Python programs forked from a process that has already imported the packages.

Each program is a process of its own, with its own id, session, environment and signals, as if its
command had started it; only the seconds of imports are spent once per worker instead of at every
start. That the commands themselves start is for tests/e2e/test_demo.py to show.
"""

import multiprocessing
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.context import ForkServerProcess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
IMPORTED = (
    "marketplace.server.roles",
    "marketplace.agent.run",
    "marketplace.cli.job",
    "marketplace.cli.dev",
)

Main = Callable[[], int | None]

_context = multiprocessing.get_context("forkserver")


def fork(
    main: Main, words: Sequence[str], env: Mapping[str, str], out: Path, err: Path | None = None
) -> ForkServerProcess:
    """Start `main` with `words` as `sys.argv`; what it says is added to `out`, or to `out` and
    `err`. It ends with the tests at the latest."""
    out.touch()
    _context.set_forkserver_preload(list(IMPORTED))
    process = _context.Process(target=_run, args=(main, words, dict(env), out, err), daemon=True)
    process.start()
    return process


def _run(
    main: Main, words: Sequence[str], env: dict[str, str], out: Path, err: Path | None
) -> None:
    os.setsid()
    os.chdir(ROOT)
    for number, path in ((1, out), (2, err or out)):
        opened = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.dup2(opened, number)
        os.close(opened)
    os.environ.clear()
    os.environ.update(env)
    sys.argv[1:] = words
    raise SystemExit(main())


def coulomb() -> int | None:
    """What the command `coulomb` runs."""
    from marketplace.cli.main import main

    return main()
