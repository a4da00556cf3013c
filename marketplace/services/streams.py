"""What people watch of a job: its events, and its output as a stream of log events."""

from __future__ import annotations

from dataclasses import dataclass, replace

from marketplace.services.common import Principal, emit
from marketplace.services.leases import provider_of
from marketplace.services.ports import Clock, Store
from marketplace.services.records import JobEvent, LeaseRecord
from marketplace.wire.events import LogPiece
from marketplace.wire.usage import LogChunk, LogPosition, OutputStream

LOG_BYTES_MAX = 16 * 1024 * 1024  # kept per stream; what comes after is counted, not kept


@dataclass(frozen=True, slots=True)
class Streams:
    """Job events in order."""

    clock: Clock

    def after(self, store: Store, job_id: str, seq: int, limit: int) -> list[JobEvent]:
        """Events of a job that come after a number, in order."""
        return store.events.find(job_id=job_id, after=seq, limit=limit)

    def logs(self, store: Store, job_id: str, seq: int, limit: int) -> list[JobEvent]:
        """Log events of a job that come after a number, in order."""
        return store.events.find(job_id=job_id, type="log", after=seq, limit=limit)

    def append_log(
        self, store: Store, caller: Principal, lease_id: str, chunk: LogChunk
    ) -> LogPosition:
        """Add output of a job. `offset`: UTF-8 bytes sent before; what is known is skipped.

        Returns the offset that comes next. Raises NotFound, InvalidInput.
        """
        lease = provider_of(store, caller, lease_id)
        stream, offset = chunk.stream, chunk.offset
        known = int(lease.log_next.get(stream, 0))
        data = chunk.text.encode()
        end = offset + len(data)
        if end > known:
            fresh = data[max(0, known - offset) :] if offset < known else data
            self._keep(store, lease, stream, max(offset, known), fresh)
            store.leases.put(replace(lease, log_next={**lease.log_next, stream: end}))
        return LogPosition(stream=stream, next_offset=max(end, known))

    def _keep(
        self, store: Store, lease: LeaseRecord, stream: OutputStream, offset: int, data: bytes
    ) -> None:
        if offset >= LOG_BYTES_MAX:
            return
        kept = data[: LOG_BYTES_MAX - offset].decode(errors="replace")
        full = offset + len(data) >= LOG_BYTES_MAX
        piece = LogPiece(stream=stream, offset=offset, text=kept, truncated=full)
        emit(store, lease.job_id, "log", piece, self.clock())
