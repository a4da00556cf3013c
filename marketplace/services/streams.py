"""The output of a job, as log events in its stream."""

from dataclasses import dataclass

from marketplace.db.store import Store
from marketplace.db.tables import LeaseRow
from marketplace.limits import LOG_BYTES_MAX
from marketplace.services.common import Principal, emit
from marketplace.services.leases import provider_of
from marketplace.services.ports import Clock
from marketplace.wire.jobs import LogPiece
from marketplace.wire.leases import LogChunk, LogPosition, OutputStream


@dataclass(frozen=True, slots=True)
class Streams:
    """The output of jobs."""

    clock: Clock

    def append_log(
        self, store: Store, caller: Principal, lease_id: str, chunk: LogChunk
    ) -> LogPosition:
        """Add output of a job. `offset`: UTF-8 bytes sent before; what is known is skipped.

        Returns the offset that comes next. Raises NotFound.
        """
        lease = provider_of(store, caller, lease_id)
        stream, offset = chunk.stream, chunk.offset
        known = int(lease.log_next.get(stream, 0))
        data = chunk.text.encode()
        end = offset + len(data)
        if end > known:
            fresh = data[max(0, known - offset) :] if offset < known else data
            self._keep(store, lease, stream, max(offset, known), fresh)
            lease.log_next = {**lease.log_next, stream: end}
        return LogPosition(stream=stream, next_offset=max(end, known))

    def _keep(
        self, store: Store, lease: LeaseRow, stream: OutputStream, offset: int, data: bytes
    ) -> None:
        if offset >= LOG_BYTES_MAX:
            return
        kept = data[: LOG_BYTES_MAX - offset].decode(errors="replace")
        full = offset + len(data) >= LOG_BYTES_MAX
        piece = LogPiece(stream=stream, offset=offset, text=kept, truncated=full)
        emit(store, lease.job_id, "log", piece, self.clock())
