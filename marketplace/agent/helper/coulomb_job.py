#!/usr/bin/env python3
"""Tells the agent how this job is doing. One file, standard library only, in every sandbox.

In Python:   import coulomb_job; coulomb_job.ready()
In a shell:  python3 "$COULOMB_HELPER" ready|heartbeat|progress TEXT|count N|checkpoint FILE

Each call sends a line of JSON to the Unix socket in COULOMB_SOCKET. Without that variable nothing
is sent, so a job also runs by hand, outside of any lease. If the agent is gone, nothing is raised.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

UNITS_PER_LINE = 1_000_000  # the agent ignores larger counts
TEXT_CHARS = 200  # the agent keeps no more of a progress text

_lock = threading.Lock()
_connection: socket.socket | None = None


def ready() -> None:
    """Say that the job is ready: billing starts here if the job file says `ready: socket`."""
    _send(ready=True, heartbeat=1)


def heartbeat() -> None:
    """Say that the job is alive."""
    _send(heartbeat=1)


def progress(text: str) -> None:
    """Print how far the job is, and put it into the lease's `agent` log."""
    print(text, flush=True)
    _send(heartbeat=1, progress=text[:TEXT_CHARS])


def count(units: int) -> None:
    """Add units served since the last call. Raises ValueError for a negative number."""
    if units < 0:
        raise ValueError(f"{units} units cannot be taken back")
    for start in range(0, units, UNITS_PER_LINE):
        _send(heartbeat=1, units=min(units - start, UNITS_PER_LINE))


def notice() -> float | None:
    """Seconds until the provider takes the node back; None: it has not said that it does.

    Save what you need before then: the job gets SIGTERM when they are over.
    """
    try:
        at_s = int(Path(os.environ["COULOMB_NOTICE"]).read_text(encoding="ascii"))
    except (KeyError, OSError, ValueError):
        return None
    return max(0.0, at_s - time.time())


def output(name: str) -> Path:
    """Where to write a file that the buyer gets back: in /out, or in ./out outside of a lease."""
    path = Path(os.environ.get("COULOMB_OUT", "out"), name)
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def write_result(name: str, document: object) -> None:
    """Write a JSON file that the buyer gets back."""
    output(name).write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


def checkpoint(file: str | Path) -> Path:
    """Copy a file into the outputs in one step: whenever the job is stopped, a whole copy is there.

    The agent uploads outputs when the job has ended; a node that breaks down takes them along. A
    job file that names `outputs` must name the copy or its folder. Returns the copy's path.
    """
    source = Path(file)
    target = output(Path(file).name)
    draft = target.with_name(target.name + ".part")
    shutil.copyfile(source, draft)
    with draft.open("rb") as written:
        os.fsync(written.fileno())
    draft.replace(target)
    progress(f"checkpoint: {target.name}")
    return target


def _send(**message: object) -> None:
    global _connection
    path = os.environ.get("COULOMB_SOCKET")
    if not path:
        return
    with _lock:
        try:
            _connection = _connection or _connected(Path(path))
            _connection.sendall(json.dumps(message).encode() + b"\n")
        except OSError:
            if _connection is not None:
                _connection.close()
            _connection = None


def _connected(path: Path) -> socket.socket:
    """A connection by way of the folder: the path of a socket is limited to 108 bytes."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        connection.connect(f"/proc/self/fd/{folder}/{path.name}")
    except OSError:
        connection.close()
        raise
    finally:
        os.close(folder)
    return connection


def main(words: list[str]) -> int:
    """Run one shell command; returns the exit code."""
    commands: dict[str, Callable[..., object]] = {
        "ready": ready, "heartbeat": heartbeat, "progress": progress, "checkpoint": checkpoint,
        "count": lambda units: count(int(units)),
    }  # fmt: skip
    try:
        commands[words[0]](*words[1:])
        return 0
    except (IndexError, KeyError, TypeError):
        code, wrong = 2, "usage: ready | heartbeat | progress TEXT | count N | checkpoint FILE"
    except (OSError, ValueError) as error:
        code = 1
        wrong = str(error)
    print(f"coulomb_job: {wrong}", file=sys.stderr)
    return code


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
