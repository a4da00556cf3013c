"""A local chain to develop and test on: Anvil, started here or already running.

Warning: the keys of `dev_account` are in every copy of Anvil. Anyone can take what they hold on
any other chain.
"""

import ctypes
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import IO, Self

from settlement.chain.client import ChainClient
from settlement.errors import ChainError, ChainUnavailable
from settlement.signing import LocalSigner

DEV_MNEMONIC = "test test test test test test test test test test test junk"
DEV_CHAIN_ID = 31337
_PATH = "m/44'/60'/0'/0/{}"
_LISTENING = re.compile(r"Listening on (?:[\d.]+|\[[\da-f:]+\]):(\d+)")
_ROOT = Path(__file__).resolve().parents[2]
_START_SECONDS = 20.0
_STOP_SECONDS = 5.0
_SAVE_SECONDS = 60.0  # enough for a chain that has run for days
_SAVE_EVERY_SECONDS = "60"
_PR_SET_PDEATHSIG = 1


@cache
def dev_account(index: int) -> LocalSigner:
    """Anvil's well-known account number `index`, from 0. Only for development chains."""
    from eth_account import Account

    Account.enable_unaudited_hdwallet_features()
    account = Account.from_mnemonic(DEV_MNEMONIC, account_path=_PATH.format(index))
    return LocalSigner(bytes(account.key))


def find_anvil() -> Path:
    """The native Anvil on PATH, else the one in a checkout's .setup/bin. Raises ChainError.

    It skips npm's wrapper of the same name in node_modules/.bin, which hides failures.
    """
    found = shutil.which("anvil")
    if found is not None and Path(found).parent.name != ".bin":
        return Path(found)
    if (own := _ROOT / ".setup/bin/anvil").exists():
        return own
    raise ChainError("no anvil on PATH: install Foundry, or run scripts/test once in a checkout")


@dataclass(slots=True)
class Devnet:
    """An Anvil that runs for the length of a `with` block, on a port that the system picks.

    With `block_seconds` 0 it mines each transaction at once. `state` is a file that keeps the chain
    between runs. With `held_fd` the node keeps that descriptor open, and ends when the thread that
    started it ends, even if that is killed.
    """

    block_seconds: int = 1
    port: int = 0
    state: Path | None = None
    held_fd: int | None = None
    hardfork: str = "prague"
    extra: tuple[str, ...] = ()
    rpc_url: str = ""
    _process: subprocess.Popen[bytes] | None = None
    _log: IO[bytes] = field(default_factory=tempfile.TemporaryFile)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """The running node. Raises ChainError if there is none."""
        if self._process is None:
            raise ChainError("the devnet is not running: call start()")
        return self._process

    def start(self) -> Self:
        """Start the node and wait until it answers. Raises ChainError with its last output."""
        held = self.held_fd is not None
        self._process = subprocess.Popen(  # noqa: S603 - our own arguments, no shell
            self._command(),
            stdout=self._log,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            start_new_session=True,  # so that Ctrl-C at the prompt reaches only us
            pass_fds=() if self.held_fd is None else (self.held_fd,),
            preexec_fn=_end_with_parent if held else None,
            env={**os.environ, "NO_COLOR": "1"},
        )
        try:
            self.rpc_url = f"http://127.0.0.1:{self._wait_for_port()}"
            self.client().check()
        except ChainError:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """End the node and wait for it. Safe to call twice."""
        process, self._process = self._process, None
        if process is not None:
            process.terminate()
            try:
                process.wait(_STOP_SECONDS if self.state is None else _SAVE_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._log.close()

    def client(self, timeout_seconds: float = 10.0) -> ChainClient:
        return ChainClient(self.rpc_url, DEV_CHAIN_ID, timeout_seconds)

    def _command(self) -> list[str]:
        command = [str(find_anvil()), "--port", str(self.port), "--hardfork", self.hardfork]
        command += ["--chain-id", str(DEV_CHAIN_ID), "--mnemonic", DEV_MNEMONIC]
        if self.block_seconds:
            command += ["--block-time", str(self.block_seconds)]
        if self.state is not None:
            command += ["--state", str(self.state), "--state-interval", _SAVE_EVERY_SECONDS]
        return [*command, *self.extra]

    def _wait_for_port(self) -> int:
        until = time.monotonic() + _START_SECONDS
        while time.monotonic() < until:
            self._log.seek(0)
            text = self._log.read().decode(errors="replace")
            if found := _LISTENING.search(text):
                return int(found.group(1))
            if self.process.poll() is not None:
                raise ChainError(f"anvil stopped while starting: {text.strip()[-400:]}")
            time.sleep(0.02)
        raise ChainUnavailable(f"anvil did not listen within {_START_SECONDS:g} s")


def _end_with_parent() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
