"""A lease with real keys on every side, and a desk whose clocks a test turns."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from marketplace.domain.job import JobSpec, parse_job
from marketplace.witness.desk import Desk, WitnessClock
from marketplace.witness.journal import WitnessJournal
from marketplace.witness.policy import Papers, WitnessRefusal
from settlement.attestation import Close, Usage, UsageAttestation
from settlement.consent import AccountReads
from settlement.eip712 import Domain
from settlement.leases import Shows
from settlement.orders import Ask, Bid, OpenedFrom
from settlement.signing import LocalSigner, sign
from tests.factories import job_json, make_ask, make_bid

DOMAIN = Domain(31337, "0x" + "e" * 40)
OPENED = 1_800_000_000


def key(number: int) -> LocalSigner:
    return LocalSigner(number.to_bytes(32, "big"))


BUYER, WITNESS, PROVIDER, METER, STRANGER = (key(n) for n in range(1, 6))


@dataclass
class Time:
    """Both clocks of a desk, in ms."""

    monotonic: int = 0
    unix: int = OPENED * 1000

    def go(self, ms: int) -> None:
        self.monotonic += ms
        self.unix += ms

    def clock(self) -> WitnessClock:
        return WitnessClock(lambda: self.monotonic, lambda: self.unix)


@dataclass
class Lease:
    """The signed orders of one lease and what its meter signs."""

    spec: JobSpec = field(default_factory=lambda: parse_job(job_json(), packed=True))
    ask: Ask = field(
        default_factory=lambda: make_ask(provider=PROVIDER.address, meter=METER.address)
    )
    changes: dict[str, Any] = field(default_factory=dict)  # of the bid

    @property
    def bid(self) -> Bid:
        keys = {"buyer": BUYER.address, "witness": WITNESS.address}
        return make_bid(**{**keys, "job_hash": self.spec.hash(), **self.changes})

    @property
    def number(self) -> bytes:
        return OpenedFrom(self.ask, self.bid, self.ask.floor).lease_no

    def papers(self, **changes: Any) -> Papers:
        signed = (self.bid, sign(self.bid, DOMAIN, BUYER), self.ask, self.ask.floor, self.spec)
        return replace(Papers(self.number, *signed, 1_000, OPENED), **changes)

    def reading(
        self, sequence: int, ms: int, meter: LocalSigner = METER, **changes: Any
    ) -> tuple[UsageAttestation, bytes]:
        told = {"egress_mib": 0, "units": 0, "observed_at_ms": 0, **changes}
        statement = UsageAttestation(
            self.bid.buyer, self.ask.provider, self.number, sequence, told["observed_at_ms"],
            ms, ms, 0, 0, 0, told["egress_mib"], told["units"], bytes(32),
        )  # fmt: skip
        return statement, sign(statement, DOMAIN, meter)

    def voucher(
        self, ms: int, signer: LocalSigner = WITNESS, **changes: Any
    ) -> tuple[Usage, bytes]:
        usage = replace(Usage(self.bid.buyer, self.ask.provider, self.number, ms), **changes)
        return usage, sign(usage, DOMAIN, signer)

    def closing(
        self, ms: int, meter: LocalSigner = METER, again: bool = False
    ) -> tuple[Close, bytes]:
        close = Close(self.bid.buyer, self.ask.provider, self.number, ms, 0, 0, again)
        return close, sign(close, DOMAIN, meter)


def retried_on(*events: str) -> JobSpec:
    """A job that goes on elsewhere after these."""
    return parse_job(job_json(retry={"on_events": list(events), "duration": "1h"}), packed=True)


@dataclass
class Stage:
    """One lease, a clock, and the desks of a witness that may be restarted on one journal file."""

    folder: Path
    lease: Lease = field(default_factory=Lease)
    time: Time = field(default_factory=Time)
    _journals: list[WitnessJournal] = field(default_factory=list)

    def desk(
        self,
        name: str = "journal.db",
        reads: AccountReads | None = None,
        shows: Shows | None = None,
    ) -> Desk:
        """A desk that knows only what its journal knows."""
        journal = WitnessJournal(self.folder / name)
        self._journals.append(journal)
        return Desk(WITNESS, DOMAIN, journal, [BUYER.address], self.time.clock(), reads, shows)

    def admitted(self, name: str = "journal.db") -> Desk:
        """A desk that has admitted the lease."""
        desk = self.desk(name)
        assert desk.admit(self.lease.papers()) is None
        return desk

    def running(self) -> Desk:
        """A desk that has countersigned the lease's ready reading."""
        desk = self.admitted()
        answer = desk.countersign(*self.lease.reading(0, 0), 0)
        assert not isinstance(answer, WitnessRefusal), answer
        return desk

    def close(self) -> None:
        for journal in self._journals:
            journal.close()


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    made = Stage(tmp_path)
    yield made
    made.close()
