"""A provider without an agent: it signs and says whatever a test wants."""

import time
from dataclasses import dataclass
from typing import Any

from marketplace.sdk import Coulomb, Lease
from settlement.attestation import Close, UsageAttestation
from settlement.signing import LocalSigner, sign
from tests.e2e.world import TIER, World


def bare_node(world: World, name: str) -> dict[str, Any]:
    """A node of one simulated GPU, in a region of its own, that no agent stands behind."""
    gpu = {"uuid": f"SIM-{name}", "model": "H100", "memory_mib": 81_920, "simulated": True}
    return {
        "number": 1, "name": name, "region": name, "tier": TIER, "gpus": [gpu],
        "cpu_milli": 4_000, "memory_mib": 4_096, "storage_mib": 4_096, "runtime": "process",
        "shared": False, "interval_ms": world.interval_ms,
    }  # fmt: skip


@dataclass(slots=True)
class Liar:
    """A provider without an agent: it says whatever a test wants, signed with its meter key."""

    client: Coulomb
    meter: LocalSigner
    lease: Lease

    def says(
        self, sequence: int, ms: int, signer: LocalSigner | None = None, ahead_ms: int = 0
    ) -> Any:
        """Hand in an attestation; observed now, or so many ms ahead."""
        statement, signature = self.sign(sequence, ms, signer, ahead_ms)
        return self.client.leases.attest(self.lease.id, statement, signature)

    def sign(
        self, sequence: int, ms: int, signer: LocalSigner | None = None, ahead_ms: int = 0
    ) -> tuple[UsageAttestation, bytes]:
        """An attestation and its signature."""
        now_ms = time.time_ns() // 1_000_000 + ahead_ms
        statement = UsageAttestation(
            self.lease.buyer, self.lease.provider, self.lease.lease_no, sequence, now_ms, ms, ms,
            0, 0, 0, 0, 0, bytes(32),
        )  # fmt: skip
        return statement, sign(statement, self.client.session.domain(), signer or self.meter)

    def finish(self, sequence: int, ms: int, close_ms: int) -> Any:
        """Report the end, with a Close over `close_ms`."""
        statement, signature = self.sign(sequence, ms)
        close = Close(
            self.lease.buyer, self.lease.provider, statement.lease_no, close_ms, 0, 0, False
        )  # fmt: skip
        return self.client.leases.finish(
            self.lease.id, outcome="succeeded", exit_code=0, reason="completed", outputs=None,
            attestation=statement, signature=signature, close=close,
            close_signature=sign(close, self.client.session.domain(), self.meter),
            idempotency_key=f"finish-{self.lease.id}-{close_ms}",
        )  # fmt: skip
