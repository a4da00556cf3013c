"""Carries what the journal holds of one lease to the server, in order, for as long as it takes."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import structlog

from marketplace.agent.channel import LogFile
from marketplace.agent.errors import SERVER_AWAY, AgentJournalConflict, JournalError
from marketplace.agent.folders import files_below, remove_tree
from marketplace.agent.journal import ACCEPTED, Ending, Phase
from marketplace.agent.node import LIVE, Halt, HeldLease
from marketplace.domain.life import LeaseState, Outcome, StopReason
from marketplace.sdk import errors as sdk
from marketplace.sdk.archive import ArchiveError, pack

log = structlog.get_logger("coulomb.agent")
_WAIT_MIN_S = 0.25
_WAIT_MAX_S = 2.0  # well inside the grace: an outage costs little more than it lasts
_CHUNKS_PER_STEP = 16
# Refusals after which nothing that the job still does can be paid.
_HOPELESS = (
    "not_open", "outside_lease", "start_limit_passed", "wrong_parties", "invalid_signature",
)  # fmt: skip


class Courier:
    """One lease's way to the server, on a thread of its own. It outlives the job, and a restart.

    `recovered` says that an earlier agent was killed in the middle: the server is then first asked
    what it holds, in case this journal is an old copy, and the lease ends at the last signed usage.
    """

    def __init__(self, lease: HeldLease, recovered: bool = False) -> None:
        self.done = False  # nothing is left to do, or nothing more is allowed
        self._lease = lease
        self._id = lease.id
        self._journal = lease.node.journal
        self._leases = lease.node.api.leases
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
            except sdk.NotFound as error:
                self._log.error("lease_unknown", detail=str(error))
                self._journal.set_phase(self._id, Phase.DONE)
                self.done = True
            except AgentJournalConflict as error:
                self._log.critical("will_not_sign", detail=str(error))
                self.done = True
            except (sdk.CoulombError, JournalError) as error:
                failed += 1
                self._log.warning("will_try_again", error=str(error), failed=failed)
            if self.done:
                return
            pause_s = self._lease.node.poll_s if self._reported else _WAIT_MIN_S
            if failed:
                pause_s = min(_WAIT_MAX_S, _WAIT_MIN_S * 2.0 ** min(failed, 10))
            self._lease.wait_for_news(pause_s)

    def step(self) -> bool:
        """Send what there is to send; return whether the lease needs nothing more."""
        if self._recovered:
            self._settle_with_server()
            self._recovered = False
        self._reported = self._lease.now.is_reported
        if not self._reported:
            self._send_attestations()
            self._send_beats()
            self._send_logs()
            ending = self._lease.now.ending
            if ending is None or not self._report(ending):
                return False
            self._reported = True
        return self._see_it_over()

    def _send_attestations(self) -> None:
        for message, signature in self._journal.unsent(self._id):
            refusal = _refusal_of(self._leases.attest, self._id, message, signature)
            code = (refusal.problem.reason or refusal.code) if refusal is not None else ACCEPTED
            self._journal.note_answer(self._id, message.sequence, code)
            if refusal is not None:
                self._log.error("attestation_refused", sequence=message.sequence, code=code)
                self._say(f"the server refused attestation {message.sequence}: {code}")
            if code in _HOPELESS:
                self._lease.stop(Halt(Outcome.FAILED, f"attestation_refused_{code}"))

    def _send_beats(self) -> None:
        count, last_at = self._lease.beats
        if count > self._beats_sent:
            last = None if last_at is None else datetime.fromtimestamp(last_at, UTC).isoformat()
            refusal = _refusal_of(self._leases.heartbeat, self._id, count, last)
            if refusal is not None:
                self._log.warning("heartbeat_refused", code=refusal.code)
            self._beats_sent = count

    def _send_logs(self) -> None:
        for name, stream in self._streams():
            for _ in range(_CHUNKS_PER_STEP):
                offset = self._offsets.get(name, 0)
                text = stream.chunk(offset)
                if not text:
                    break
                refusal = _refusal_of(self._leases.log, self._id, name, offset, text)
                if refusal is not None:
                    self._log.warning("log_refused", stream=name, code=refusal.code)
                self._offsets[name] = offset + len(text.encode())
            else:
                self._lease.tell()  # there is more: go on at once

    def _say(self, text: str) -> None:
        if self._lease.logs is not None:
            self._lease.logs.say(text)

    def _streams(self) -> tuple[tuple[str, LogFile], ...]:
        return self._lease.logs.streams if self._lease.logs is not None else ()

    def _report(self, ending: Ending) -> bool:
        """Store the outputs and report the end; return whether that is done."""
        if not self._packed and ending.outputs is None and self._lease.entry.outputs:
            ending = self._with_outputs(ending)
            self._lease.attestor.amend(ending)
        self._packed = True
        if self._has_more():
            self._lease.tell()
            return False
        refusal = _refusal_of(self._finish, ending)
        if refusal is None:
            self._log.info("job_reported", outcome=ending.outcome, reason=ending.reason)
        elif _may_pass(refusal) and self._takes_report():
            raise refusal
        else:
            self._log.error("finish_refused", code=refusal.code, detail=str(refusal))
            if ending.outcome is Outcome.OVER_BUDGET and isinstance(refusal, sdk.Rejected):
                # The server's clock says that there was time left: then it is a plain failure.
                self._lease.attestor.amend(replace(ending, outcome=Outcome.FAILED))
                self._lease.tell()
                return False
        self._journal.set_phase(self._id, Phase.REPORTED)
        if self._lease.logs is not None:
            self._lease.logs.close()
        remove_tree(self._lease.folders.root)
        return True

    def _finish(self, ending: Ending) -> None:
        names = ("outcome", "exit_code", "reason", "outputs")
        told: dict[str, Any] = {name: getattr(ending, name) for name in names}
        told["attestation"], told["signature"] = self._lease.attestor.final()
        told["close"], told["close_signature"] = self._lease.attestor.close()
        key = f"finish-{self._id}-{ending.outcome}"
        self._leases.finish(self._id, **told, idempotency_key=key)

    def _takes_report(self) -> bool:
        """Whether the report may still be taken later: the lease is not closed and has none."""
        lease = self._leases.get(self._id)
        return lease.state in (*LIVE, LeaseState.STOPPED) and lease.final is None

    def _has_more(self) -> bool:
        return bool(self._journal.unsent(self._id)) or any(
            stream.chunk(self._offsets.get(name, 0)) for name, stream in self._streams()
        )

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
            blob = self._lease.node.api.blobs.put(target.read_bytes())
        except SERVER_AWAY:
            raise
        except (sdk.CoulombError, OSError) as error:
            self._say(f"outputs: {error}")
            reason = error.reason if isinstance(error, ArchiveError) else "not_stored"
            if ending.outcome is Outcome.SUCCEEDED:
                return replace(ending, outcome=Outcome.FAILED, reason=f"outputs_{reason}")
            return ending
        finally:
            target.unlink(missing_ok=True)
        return replace(ending, outputs=blob.sha256)

    def _see_it_over(self) -> bool:
        """Wait for the end on chain; sign a Stop if no witness is there for the Close."""
        lease = self._leases.get(self._id)
        if lease.state not in LIVE:
            self._lease.learn(lease)
            # On a stopped lease the witness may still answer the last attestation, until its close.
            last = self._journal.last(self._id)
            if lease.state == LeaseState.STOPPED and last is not None and last.answer == ACCEPTED:
                if not self._lease.is_covered(last.message):
                    return False
            self._journal.set_phase(self._id, Phase.DONE)
            self._log.info("lease_over", state=lease.state)
            return True
        ending = self._lease.now.ending
        wanted = lease.stop_requested == StopReason.UNWITNESSED or (ending and ending.signs_stop)
        if wanted and not self._stop_sent:
            refusal = _refusal_of(self._leases.stop, self._id, *self._lease.attestor.stop())
            if refusal is not None:
                if _may_pass(refusal):  # or the next look finds that the lease is over
                    raise refusal
                self._log.error("stop_refused", code=refusal.code, detail=str(refusal))
            self._stop_sent = True
        return False

    def _settle_with_server(self) -> None:
        """Learn what this node signed and its journal has forgotten, then end the lease there."""
        entry = self._lease.entry
        meter = self._lease.node.signer.address
        for held in self._leases.attestations(self._id):
            if entry.is_signed(held.message, held.signature, meter):
                self._journal.adopt(self._id, held.message, held.signature)
        final = self._leases.get(self._id).final
        restarted = Ending(Outcome.FAILED, "agent_restarted")
        if final is not None and entry.is_signed(final.message, final.meter_signature, meter):
            self._journal.adopt_close(self._id, final.message, final.meter_signature)
            self._journal.end(self._id, restarted)
            self._journal.set_phase(self._id, Phase.REPORTED)
        elif self._lease.now.ending is None:
            self._lease.attestor.conclude(restarted)
        self._log.info("lease_recovered", job=entry.job_id)


def _refusal_of(send: Callable[..., object], *values: object) -> sdk.ApiError | None:
    """Send something; return how the server refused it, if it did. Raises one of SERVER_AWAY."""
    try:
        send(*values)
    except SERVER_AWAY:
        raise
    except sdk.ApiError as error:
        return error
    return None


def _may_pass(refusal: sdk.ApiError) -> bool:
    """Whether the refusal is about a state that may change by itself, as while a lease reopens."""
    return isinstance(refusal, sdk.Conflict) and not isinstance(refusal, sdk.IdempotencyMismatch)
