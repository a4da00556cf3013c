"""The node's loop, tick by tick: no sandbox, no sockets, and jobs that end before they start."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from marketplace.agent.errors import JournalError
from marketplace.agent.folders import JobFolders
from marketplace.agent.journal import AgentJournal
from marketplace.agent.meters import Reading
from marketplace.agent.node import HeldLease
from marketplace.agent.supervisor import Supervisor
from marketplace.sdk.errors import error_of, problem_of
from settlement.signing import LocalSigner
from settlement.usage import UsageVector
from tests.fakes_agent import FakeMarket, until

MAKE_FOLDERS = "marketplace.agent.supervisor.make_folders"


def no_space(_: JobFolders) -> None:
    raise OSError(28, "No space left on device")


class Box:
    """A node with one GPU whose runtime is one that no job asks for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.market = FakeMarket(LocalSigner(b"\3" * 32))
        self.start()

    def start(self) -> None:
        """A new agent on the same state."""
        self.journal = AgentJournal(self.folder / "journal.db")
        self.node = self.market.node(self.journal, self.folder, poll_s=0.01)
        self.supervisor = Supervisor(self.node)

    def until(self, condition: Callable[[], bool]) -> None:
        """Tick until it holds."""
        until(lambda: condition() or self.supervisor.tick())

    def reason(self, lease_id: str) -> str:
        self.until(lambda: lease_id in self.market.finished)
        return str(self.market.finished[lease_id]["reason"])


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Box]:
    box = Box(tmp_path)
    yield box
    box.until(lambda: not box.supervisor._work)
    box.journal.close()


def test_a_job_whose_folders_cannot_be_made_ends_alone(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    def undo(_: JobFolders) -> None:
        monkeypatch.undo()
        no_space(_)

    monkeypatch.setattr(MAKE_FOLDERS, undo)
    first, second = (box.market.open_lease(["true"]) for _ in range(2))
    assert box.reason(first) == "node_error"
    assert box.reason(second) == "wrong_runtime"  # it got the GPU that the first one gave back


@pytest.mark.parametrize("reason", ["node_error", "no_capacity"])
def test_an_end_that_the_journal_did_not_take_is_put_down_later(
    box: Box, monkeypatch: pytest.MonkeyPatch, reason: str
) -> None:
    def full(*_: object) -> None:
        raise JournalError("the journal cannot be written")

    monkeypatch.setattr(MAKE_FOLDERS, no_space)
    if reason == "no_capacity":
        monkeypatch.setattr("marketplace.agent.inventory.Capacity.take", lambda *_: None)
    lease_id = box.market.open_lease(["true"])
    with monkeypatch.context() as broken:
        broken.setattr(AgentJournal, "end", full)
        for _ in range(2):
            with pytest.raises(JournalError):
                box.supervisor.tick()
    assert box.reason(lease_id) == reason


def test_what_is_countersigned_after_a_restart_is_kept(box: Box) -> None:
    box.market.closing = box.market.countersigning = False
    lease_id = box.market.open_lease(["true"])
    lease = HeldLease(box.node, box.market.assignment(box.node, lease_id).entry)
    box.journal.begin(lease.entry)
    for ms in (0, 7):
        lease.attestor.attest(UsageVector(ms=ms), Reading(at_ms=1))
    box.journal.close()
    box.start()
    box.supervisor.recover()
    assert box.reason(lease_id) == "agent_restarted"
    box.market.countersign(lease_id, 1)
    box.market.leases[lease_id]["state"] = "closed"
    box.until(lambda: not box.supervisor._work)
    entry = box.journal.lease(lease_id)
    assert entry is not None
    assert entry.voucher is not None
    assert entry.voucher.voucher.ms == 7


def test_an_agent_whose_key_is_refused_says_what_to_do(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop = threading.Event()

    def refused() -> None:
        stop.set()
        raise error_of(problem_of(401, {"code": "unauthenticated"}))

    monkeypatch.setattr(box.supervisor, "tick", refused)
    with capture_logs() as logs:
        box.supervisor.run(stop)
    monkeypatch.undo()
    assert "coulomb provider doctor" in logs[0]["fix"]
