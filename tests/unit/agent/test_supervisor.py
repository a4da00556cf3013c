"""The node's loop, tick by tick: no sandbox, no sockets, and jobs that end before they start."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from marketplace.agent import supervisor as supervising
from marketplace.agent.api import SdkApi
from marketplace.agent.errors import JournalError
from marketplace.agent.inventory import Inventory, simulated_gpus
from marketplace.agent.journal import Journal, LeaseEntry
from marketplace.agent.logs import JobLogs
from marketplace.agent.meters import Reading
from marketplace.agent.node import Node
from marketplace.agent.supervisor import Supervisor
from settlement.signing import LocalSigner
from settlement.usage import UsageVector
from tests.fakes_agent import DOMAIN, NODE_ID, FakeMarket

ONE_GPU = Inventory(simulated_gpus("1xH100", "o"), 8_000, 4_096, 4_096)
READING = Reading(at_ms=1, ms=0, cpu_ms=0, memory_mib=0, storage_mib=0, units=0, heartbeats=0)


class Box:
    """A node with one GPU whose runtime is one that no job asks for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.market = FakeMarket(LocalSigner(b"\3" * 32))
        self.start()

    def start(self) -> None:
        """A new agent on the same state."""
        self.journal = Journal(self.folder / "journal.db")
        api = SdkApi("http://market.test", "k", self.market.transport())
        runtime = SimpleNamespace(name="none")
        jobs = self.folder / "jobs"
        self.node = Node(api, self.journal, runtime, self.market.meter, jobs, poll_s=0.01)  # type: ignore[arg-type]
        self.supervisor = Supervisor(self.node, NODE_ID, DOMAIN, ONE_GPU, shared=False)

    def until(self, condition: Callable[[], bool]) -> None:
        """Tick until it holds."""
        deadline = time.monotonic() + 10
        while not condition():
            assert time.monotonic() < deadline, "it never came about"
            self.supervisor.tick()
            time.sleep(0.01)

    def reason(self, lease_id: str) -> str:
        self.until(lambda: lease_id in self.market.finished)
        return str(self.market.finished[lease_id]["reason"])


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Box]:
    box = Box(tmp_path)
    yield box
    box.until(lambda: not box.supervisor._held)
    box.journal.close()


def test_a_job_whose_folders_cannot_be_made_ends_alone(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    def prepare(node: Node, lease_id: str) -> JobLogs:
        monkeypatch.undo()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(supervising, "prepare", prepare)
    first, second = (box.market.open_lease(["true"]) for _ in range(2))
    assert box.reason(first) == "node_error"
    assert box.reason(second) == "wrong_runtime"  # it got the GPU that the first one gave back


@pytest.mark.parametrize("reason", ["node_error", "no_capacity"])
def test_an_end_that_the_journal_did_not_take_is_put_down_later(
    box: Box, monkeypatch: pytest.MonkeyPatch, reason: str
) -> None:
    def full(*_: object) -> None:
        raise JournalError("the journal cannot be written")

    def prepare(node: Node, lease_id: str) -> JobLogs:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(supervising, "prepare", prepare)
    if reason == "no_capacity":
        monkeypatch.setattr("marketplace.agent.capacity.Capacity.take", lambda *_: None)
    lease_id = box.market.open_lease(["true"])
    with monkeypatch.context() as broken:
        broken.setattr(Journal, "propose_close", full)
        for _ in range(2):
            with pytest.raises(JournalError):
                box.supervisor.tick()
    assert box.reason(lease_id) == reason


def test_what_is_countersigned_after_a_restart_is_kept(box: Box) -> None:
    box.market.closing = box.market.countersigning = False
    lease_id = box.market.open_lease(["true"])
    held = box.market.leases[lease_id]
    entry = LeaseEntry(
        lease_id, "job_1", held["buyer"], held["provider"], bytes.fromhex(held["lease_no"][2:]),
        DOMAIN, held["witness"], False,
    )  # fmt: skip
    box.journal.begin(entry)
    for ms in (0, 7):
        box.node.attestor(entry).attest(UsageVector(ms=ms), READING)
    box.journal.close()
    box.start()
    box.supervisor.recover()
    assert box.reason(lease_id) == "agent_restarted"
    box.market.countersign(lease_id, 1)
    held["state"] = "closed"
    box.until(lambda: not box.supervisor._held)
    kept = box.journal.voucher(lease_id)
    assert kept is not None
    assert kept[0]["ms"] == "7"
