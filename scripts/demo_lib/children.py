"""The programs that the demonstration starts, each with its own log."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
COULOMB = str(Path(sys.executable).with_name("coulomb"))
STOP_SECONDS = 10.0


class DemoError(Exception):
    """The demonstration cannot go on."""


def environment(home: Path, **more: str) -> dict[str, str]:
    """An environment with its settings in `home`, so that the user's own profile is not touched."""
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "HOME") if name in os.environ}
    folders = {"XDG_CONFIG_HOME": str(home / "config"), "XDG_STATE_HOME": str(home / "state")}
    return {**kept, **folders, "NO_COLOR": "1", "PYTHONUNBUFFERED": "1", **more}


@dataclass(frozen=True, slots=True)
class Child:
    """One running program."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path

    def says(self, pattern: str, seconds: float = 60.0) -> str:
        """Wait for a line in its log; return the pattern's first group. Raises DemoError."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            found = re.search(pattern, self.log.read_text(errors="replace"))
            if found:
                return found.group(1)
            self.check()
            time.sleep(0.05)
        raise DemoError(f"{self.name} did not get ready within {seconds:g} s; see {self.log}")

    def check(self) -> None:
        """Raise DemoError if it has ended."""
        code = self.process.poll()
        if code is not None:
            lines = self.log.read_text(errors="replace").splitlines()
            last = lines[-1] if lines else "it said nothing"
            raise DemoError(f"{self.name} ended with exit code {code}: {last}")


@dataclass(slots=True)
class Children:
    """All programs of a run, their logs in one folder."""

    logs: Path
    running: list[Child] = field(default_factory=list)

    def start(self, name: str, words: Sequence[str], env: dict[str, str]) -> Child:
        """Start `coulomb WORDS…`. Ctrl-C at the prompt reaches only us; we then end it."""
        self.logs.mkdir(parents=True, exist_ok=True)
        log = self.logs / f"{name}.log"
        with log.open("wb") as out:
            process = subprocess.Popen(
                [COULOMB, *words],
                env=env,
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        child = Child(name, process, log)
        self.running.append(child)
        return child

    def check(self) -> None:
        """Raise DemoError if one of them has ended."""
        for child in self.running:
            child.check()

    def kill(self, child: Child) -> None:
        """End one without a word, as a power cut does; `check` no longer looks at it."""
        self.running.remove(child)
        child.process.kill()
        child.process.wait()

    def stop(self) -> None:
        """End them all, the last started first. Those that do not end are killed."""
        for child in reversed(self.running):
            if child.process.poll() is None:
                child.process.terminate()
        until = time.monotonic() + STOP_SECONDS
        for child in reversed(self.running):
            try:
                child.process.wait(max(0.1, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                child.process.kill()
                child.process.wait()
        self.running.clear()


def write_secret(path: Path, text: str) -> Path:
    """Write a file that only its owner can read."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text + "\n")
    return path
