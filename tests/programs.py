"""Programs that tests start, kill and start again, each by its process id, its log in a file."""

import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any, Self, TypeVar

from tests.forked import coulomb, fork

STOP_SECONDS = 60.0
PATIENCE_S = 180.0
"""How long a test waits for what must come: only a machine that is far too busy takes so long."""
T = TypeVar("T")


def wait_for(
    what: str,
    ask: Callable[[], T | None],
    seconds: float = PATIENCE_S,
    every: float = 0.1,
    about: Callable[[], str] = lambda: "",
) -> T:
    """The first true answer of `ask`; fails with `what` and what `about` tells after `seconds`."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        answer = ask()
        if answer:
            return answer
        time.sleep(every)
    raise AssertionError(f"not within {seconds:g} s: {what}\n{about()}")


def clean_env(home: Path, **more: str) -> dict[str, str]:
    """An environment without anything of ours, whose XDG folders lie in `home`."""
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "TZ") if name in os.environ}
    xdg = {"XDG_CONFIG_HOME": str(home / "config"), "XDG_STATE_HOME": str(home / "state")}
    return {**kept, **xdg, "HOME": str(home), "NO_COLOR": "1", "PYTHONUNBUFFERED": "1", **more}


@dataclass(slots=True)
class Program:
    """One `coulomb` command, or another function: started, killed and started again alike."""

    name: str
    words: Sequence[Any]
    env: Mapping[str, str]
    log: Path
    run: Callable[..., int | None] = coulomb
    _process: ForkServerProcess | None = None
    _offset: int = 0

    def start(self) -> Self:
        """Start it; its output is added to its log."""
        self._offset = self.log.stat().st_size if self.log.exists() else 0
        self._process = fork(self.run, self.words, self.env, self.log, self.log)
        return self

    @property
    def pid(self) -> int:
        pid = self._process and self._process.pid
        assert pid is not None, f"{self.name} was not started"
        return pid

    @property
    def code(self) -> int | None:
        """How it ended; None while it runs."""
        assert self._process is not None, f"{self.name} was not started"
        return self._process.exitcode

    def output(self) -> str:
        """What it has said since it was last started."""
        return self.log.read_bytes()[self._offset :].decode(errors="replace")

    def says(self, pattern: str, seconds: float = PATIENCE_S) -> str:
        """Wait until its output has `pattern`; its first group. Fails if the program ends first."""

        def look() -> re.Match[str] | None:
            found = re.search(pattern, self.output())
            assert found or self.code is None, f"{self.name} ended ({self.code}):\n{self.tail()}"
            return found

        return wait_for(f"{self.name} says {pattern!r}", look, seconds, about=self.tail).group(1)

    def tail(self, lines: int = 40) -> str:
        return f"--- {self.name}\n" + "\n".join(self.output().splitlines()[-lines:])

    def ends(self, seconds: float = PATIENCE_S) -> int:
        """Wait for its end; its exit code."""
        assert self._process is not None
        self._process.join(seconds)
        assert self.code is not None, f"{self.name} runs on\n{self.tail()}"
        return self.code

    def kill(self) -> None:
        """SIGKILL, to it alone: whatever it started is its own to clean up."""
        assert self._process is not None
        assert self.code is None, f"{self.name} has ended by itself\n{self.tail()}"
        self._process.kill()
        self._process.join()

    def stop(self) -> None:
        """SIGTERM, then SIGKILL. Safe to call twice."""
        if self._process is None or self.code is not None:
            return
        self._process.terminate()
        self._process.join(STOP_SECONDS)
        self._process.kill()
        self._process.join()


@dataclass(slots=True)
class Programs:
    """All programs of one world; ended in the opposite order of their start."""

    folder: Path
    started: list[Program] = field(default_factory=list)

    def start(self, name: str, words: Sequence[str], env: Mapping[str, str]) -> Program:
        """Start a program that ends with the world."""
        self.folder.mkdir(parents=True, exist_ok=True)
        program = Program(name, words, env, self.folder / f"{name}.log")
        self.started.append(program)
        return program.start()

    def stop(self) -> None:
        for program in reversed(self.started):
            program.stop()

    def tails(self) -> str:
        return "\n".join(program.tail() for program in self.started)
