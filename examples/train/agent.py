"""Talks to the agent that runs this job: lines of JSON on the Unix socket in COULOMB_SOCKET.

Without a socket nothing is sent, so the job also runs by hand, outside of any lease. This file is
the same in every example: a job's folder is packed alone, so each carries its own copy.
"""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path
from typing import Any

_socket: socket.socket | None = None


def tell(**message: Any) -> None:
    """Send one line. An agent that has gone away is no reason for the job to fail."""
    global _socket
    path = os.environ.get("COULOMB_SOCKET")
    if path is None:
        return
    try:
        if _socket is None:
            _socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            _socket.connect(path)
        _socket.sendall(json.dumps(message).encode() + b"\n")
    except OSError:
        _socket = None


def ready() -> None:
    """Billing starts here where the job file says `ready: socket`."""
    tell(ready=True, heartbeat=1)


def progress(text: str, units: int = 0) -> None:
    """A sign of life with a word on how far the job is, and how many units it has served since."""
    print(text, flush=True)
    tell(heartbeat=1, progress=text, units=units)


def write_result(name: str, document: dict[str, Any]) -> None:
    """Put a result where the lease's outputs are packed from; by hand, into ./out."""
    folder = Path(os.environ.get("COULOMB_OUT", "out"))
    folder.mkdir(exist_ok=True)
    text = json.dumps(document, indent=2) + "\n"
    (folder / name).write_text(text, encoding="utf-8")
