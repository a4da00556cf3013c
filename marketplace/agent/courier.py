"""Carries what the journal holds of one lease to the server, in order, for as long as it takes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import structlog

from marketplace.agent.errors import AgentJournalConflict, ApiDown, JournalError
from marketplace.agent.folders import files_below, remove_tree
from marketplace.agent.journal import ACCEPTED, Ending, Phase
from marketplace.agent.logs import LogFile
from marketplace.agent.node import HeldLease
from marketplace.agent.progress import LIVE, Halt
from marketplace.sdk.archive import ArchiveError, pack
from marketplace.sdk.errors import (
    ApiError,
    Conflict,
    CoulombError,
    IdempotencyMismatch,
    NotFound,
    Rejected,
)
from marketplace.wire.leases import Lease
from settlement.attestation import Close, UsageAttestation
from settlement.errors import SignatureError
from settlement.signing import verify

log = structlog.get_logger("coulomb.agent")
_WAIT_MIN_S = 0.25
_WAIT_MAX_S = 2.0  # well inside the grace: an outage costs little more than it lasts
_CHUNKS_PER_STEP = 16
# Refusals after which nothing that the job still does can be paid.
_HOPELESS = (
    "not_open",
    "outside_lease",
    "start_limit_passed",
    "wrong_parties",
    "invalid_signature",
)


class Courier:
    """One lease's way to the server, on a thread of its own. It outlives the job, and a restart.

    `recovered` says that an earlier agent was killed in the middle: the server is then first asked
    what it holds, in case this journal is an old copy, and the lease ends at the last signed usage.
    """

    def __init__(self, lease: HeldLease, recovered: bool = False) -> None:
        self.done = False  # nothing is left to do, or nothing that may be done
        self._lease = lease
        self._node = lease.node
        self._id = lease.id
        self._progress = lease.progress
        self._attestor = lease.attestor
        self._recovered = recovered
        self._offsets: dict[str, int] = {}
        self._beats_sent = 0
        self._packed = False
        self._reported = False
        self._stop_sent = False
        self._log = log.bind(lease=lease.id)

    def run(self, leave: Callable[[], bool]) -> None:
        """Work until the lease is over, or `leave` says that the agent goes."""
        failed = 0
        while not leave():
            try:
                self.done = self.step()
                failed = 0
            except NotFound as error:
                self._log.error("lease_unknown", detail=str(error))
                self._node.journal.set_phase(self._id, Phase.DONE)
                self.done = True
            except AgentJournalConflict as error:
                self._log.critical("will_not_sign", detail=str(error))
                self.done = True
            except (ApiDown, ApiError, JournalError) as error:
                failed += 1
                self._log.warning("will_try_again", error=str(error), failed=failed)
            if self.done:
                return
            self._progress.wait_for_news(self._pause_s(failed))

    def _pause_s(self, failed: int) -> float:
        if failed:
            return min(_WAIT_MAX_S, _WAIT_MIN_S * 2.0 ** min(failed, 10))
        return self._node.poll_s if self._reported else _WAIT_MIN_S

    def step(self) -> bool:
        """Send what there is to send; whether the lease needs nothing more.

        Raises ApiDown, JournalError, ApiError.
        """
        if self._recovered:
            self._settle_with_server()
            self._recovered = False
        entry = self._node.journal.lease(self._id)
        self._reported = entry is None or entry.phase in (Phase.REPORTED, Phase.DONE)
        if not self._reported:
            self._send_attestations()
            self._send_beats()
            self._send_logs()
            if self._node.journal.ending(self._id) is None or not self._report():
                return False
            self._reported = True
        return self._see_it_over()

    # -- while the job runs -----------------------------------------------------------------------

    def _send_attestations(self) -> None:
        for message, signature in self._node.journal.unsent(self._id):
            try:
                self._node.api.attest(self._id, message, signature)
            except ApiError as error:
                self._refused(message.sequence, error)
            else:
                self._node.journal.note_answer(self._id, message.sequence, ACCEPTED)

    def _refused(self, sequence: int, error: ApiError) -> None:
        code = error.problem.reason or error.code
        self._node.journal.note_answer(self._id, sequence, code)
        self._log.error("attestation_refused", sequence=sequence, code=code)
        self._lease.say(f"the server refused attestation {sequence}: {code}")
        if code in _HOPELESS:
            self._progress.stop(Halt("failed", f"attestation_refused_{code}"))

    def _send_beats(self) -> None:
        beats = self._progress.beats
        if beats.count > self._beats_sent:
            try:
                self._node.api.heartbeat(self._id, beats.count, beats.last_at)
            except ApiError as error:
                self._log.warning("heartbeat_refused", code=error.code)
            self._beats_sent = beats.count

    def _send_logs(self) -> None:
        for name, stream in self._streams():
            for _ in range(_CHUNKS_PER_STEP):
                offset = self._offsets.get(name, 0)
                text = stream.chunk(offset)
                if not text:
                    break
                try:
                    self._node.api.log(self._id, name, offset, text)
                except ApiError as error:
                    self._log.warning("log_refused", stream=name, code=error.code)
                self._offsets[name] = offset + len(text.encode())
            else:
                self._progress.tell()  # there is more: go on at once

    def _streams(self) -> tuple[tuple[str, LogFile], ...]:
        return self._lease.logs.streams() if self._lease.logs is not None else ()

    # -- once it has ended ------------------------------------------------------------------------

    def _report(self) -> bool:
        """Store the outputs, report the end; whether that is done.

        Raises ApiError if the report is to be sent again.
        """
        ending = self._node.journal.ending(self._id)
        if ending is None:
            return False
        if not self._packed and ending.outputs is None and self._lease.entry.outputs:
            ending = self._with_outputs(ending)
            self._node.journal.amend_ending(self._id, ending)
        self._packed = True
        if self._has_more():
            self._progress.tell()
            return False
        try:
            self._node.api.finish(self._id, ending, self._attestor.final(), self._attestor.close())
        except ApiError as error:
            if _may_pass(error) and self._takes_report():
                raise
            self._log.error("finish_refused", code=error.code, detail=str(error))
            if ending.outcome == "over_budget" and isinstance(error, Rejected):
                # The server's clock says that there was time left: then it is a plain failure.
                self._node.journal.amend_ending(self._id, replace(ending, outcome="failed"))
                self._progress.tell()
                return False
        else:
            self._log.info("job_reported", outcome=ending.outcome, reason=ending.reason)
        self._node.journal.set_phase(self._id, Phase.REPORTED)
        self._clean_up()
        return True

    def _takes_report(self) -> bool:
        """Whether the lease is at no end and has no final report: what kept ours off will pass."""
        lease = self._node.api.lease(self._id)
        return lease.state in (*LIVE, "stopped") and lease.final is None

    def _has_more(self) -> bool:
        """Whether usage or output came up since they were last sent: they go before the end."""
        if self._node.journal.unsent(self._id):
            return True
        return any(stream.chunk(self._offsets.get(name, 0)) for name, stream in self._streams())

    def _with_outputs(self, ending: Ending) -> Ending:
        """The ending, with the outputs stored; a job whose outputs cannot be kept has failed."""
        folders = self._lease.folders
        target = folders.root / "outputs.tar.gz"
        paths = tuple(path.removeprefix("/out").strip("/") for path in self._lease.entry.outputs)
        if not folders.out.is_dir():
            return ending
        try:
            files = files_below(folders.out, paths)
            if not files:
                return ending
            with target.open("wb") as archive:
                pack(files, archive)
            digest = self._node.api.put_blob(target.read_bytes())
        except (CoulombError, OSError) as error:
            self._lease.say(f"outputs: {error}")
            reason = error.reason if isinstance(error, ArchiveError) else "not_stored"
            if ending.outcome == "succeeded":
                return replace(ending, outcome="failed", reason=f"outputs_{reason}")
            return ending
        finally:
            target.unlink(missing_ok=True)
        return replace(ending, outputs=digest)

    def _see_it_over(self) -> bool:
        """Wait for the end on chain; sign a Stop if no witness is there for the Close."""
        lease = self._node.api.lease(self._id)
        ending = self._node.journal.ending(self._id)
        if lease.state not in LIVE:
            if not self._has_vouchers(lease):
                return False
            self._node.journal.set_phase(self._id, Phase.DONE)
            self._log.info("lease_over", state=lease.state)
            return True
        wanted = lease.stop_requested == "unwitnessed" or (ending is not None and ending.stop)
        if wanted and not self._stop_sent:
            stop, signature = self._attestor.stop()
            try:
                self._node.api.stop(self._id, stop, signature)
            except ApiError as error:
                if _may_pass(error):  # or the next look finds that the lease is over
                    raise
                self._log.error("stop_refused", code=error.code, detail=str(error))
            self._stop_sent = True
        return False

    def _has_vouchers(self, lease: Lease) -> bool:
        """Keep what was countersigned last; whether no better voucher is to be expected.

        On a stopped lease the witness may answer the last attestation yet, until its close.
        """
        self._lease.vouchers.learn(lease)
        last = self._node.journal.last(self._id)
        if lease.state != "stopped" or last is None or last.answer != ACCEPTED:
            return True
        return self._lease.vouchers.cover(last.message)

    def _clean_up(self) -> None:
        if self._lease.logs is not None:
            self._lease.logs.close()
        remove_tree(self._lease.folders.root)

    # -- after a restart --------------------------------------------------------------------------

    def _settle_with_server(self) -> None:
        """Learn what this node signed and its journal has forgotten, then end the lease there."""
        journal = self._node.journal
        for held in self._node.api.attestations(self._id):
            if self._is_ours(held.message, held.signature):
                journal.adopt(self._id, held.message, held.signature)
        final = self._node.api.lease(self._id).final
        if final is not None and self._is_ours(final.message, final.meter_signature):
            journal.adopt_close(self._id, final.message, final.meter_signature)
            journal.end(self._id, Ending("failed", "agent_restarted"))
            journal.set_phase(self._id, Phase.REPORTED)
        elif journal.ending(self._id) is None:
            self._attestor.conclude(Ending("failed", "agent_restarted"))
        self._log.info("lease_recovered", job=self._lease.entry.job_id)

    def _is_ours(self, message: UsageAttestation | Close, signature: bytes) -> bool:
        """Whether our key signed it for this very lease."""
        entry = self._lease.entry
        if (message.buyer, message.provider, message.lease_no) != entry.key:
            return False
        try:
            verify(message, entry.domain, signature, self._node.signer.address)
        except SignatureError:
            return False
        return True


def _may_pass(error: ApiError) -> bool:
    """Whether a refusal is about a state that may change by itself, as while a lease reopens."""
    return isinstance(error, Conflict) and not isinstance(error, IdempotencyMismatch)
