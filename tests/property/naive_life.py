"""A job and its leases told the long way: one method per event, plain words, no table.

Written apart from `marketplace.domain.advance`, to be compared with it step by step. What is done
is noted in `done`, as words.
"""

from dataclasses import dataclass, field
from typing import Any

FINAL = ("succeeded", "failed", "cancelled", "over_budget", "no_match", "lost")


class Refused(Exception):
    """Whoever came with this must be told no."""


@dataclass
class NaiveLease:
    """A lease. `report` is (outcome, reason, exit code, outputs)."""

    id: str
    ask: str
    lock: int
    budget_limited: bool
    state: str = "opening"
    reason: str | None = None
    ready_ms: int | None = None
    stop: str | None = None
    stop_ms: int | None = None
    stop_signed: bool = False
    marked: bool = False
    report: tuple[str, str | None, int | None, str | None] | None = None
    finished_ms: int | None = None
    notice_s: int | None = None
    notice_ms: int | None = None

    def is_broken(self) -> bool:
        """Whether its provider is to blame."""
        if self.reason in ("lost", "start_limit", "provider_stopped"):
            return True
        if self.stop in ("lost", "start_limit"):
            return True
        if self.report is None or self.report[0] not in ("lost", "failed"):
            return False
        if self.report[0] == "failed":
            return self.report[1] in ("no_capacity", "agent_stopped")  # of those that are tried
        assert self.notice_ms is not None
        assert self.notice_s is not None
        assert self.finished_ms is not None
        had_s = (self.finished_ms - self.notice_ms) / 1000
        if had_s > self.notice_s + 3600:
            return True
        return had_s < self.notice_s and self.report[1] != "exit_code"


@dataclass
class NaiveLife:
    """One job with all the leases it ever had."""

    retry_on: tuple[str, ...]
    retry_seconds: int
    rest_until_ms: int
    state: str = "queued"
    lease_id: str | None = None
    ending: str | None = None
    reason: str | None = None
    detail: str | None = None
    waits_for: str | None = None
    tried: list[str] = field(default_factory=list)
    exit_code: int | None = None
    outputs: str | None = None
    reserve: int = 0
    retry_until_ms: int | None = None
    matched_ms: int | None = None
    started_ms: int | None = None
    finished_ms: int | None = None
    void: bool = False
    leases: dict[str, NaiveLease] = field(default_factory=dict)
    now_ms: int = 0
    done: list[Any] = field(default_factory=list)

    # The book

    def filled(self, lease: NaiveLease) -> None:
        if self.state != "queued" or self.ending == "cancelled" or self.void:
            self.done.append("free the fill's capacity")
            if self.state == "queued":
                self._finish("cancelled", "cancelled")
            return
        self.leases[lease.id] = lease
        self.lease_id = lease.id
        self.tried.append(lease.ask)
        self.reserve = lease.lock
        self.matched_ms = self.now_ms
        self._become("matched")
        self.done.append("send the opening")

    def left_book(self, reason: str, cancelled: bool, detail: str | None) -> None:
        if self.state == "queued":
            if cancelled or self.ending == "cancelled":
                self._finish("cancelled", reason, detail)
            elif self.lease_id:
                self._finish("failed", reason, detail)
            else:
                self._finish("no_match", reason, detail)

    # The buyer

    def cancel(self) -> None:
        if self.state in FINAL:
            raise Refused
        if self.ending == "cancelled":
            return
        self.ending = "cancelled"
        if self.state == "queued":
            if self.waits_for:
                self._wait_no_more()
                self._finish("cancelled")
                return
            self.done.append("take the bid off the book")
        if self.lease_id:
            lease = self.leases[self.lease_id]
            if lease.state == "active" and not lease.stop and not lease.report:
                self._ask_stop(lease, "cancelled")
        self._tell()

    def make_void(self) -> None:
        if self.state not in FINAL:
            self.void = True
            if self.state in ("queued", "matched"):
                self.cancel()

    # The chain

    def open_failed(self, lease_id: str, error: str, fault: str, previous: str | None) -> None:
        lease = self.leases[lease_id]
        if lease.state != "opening":
            return
        lease.state, lease.reason = "failed_to_open", error
        if fault == "ask":
            self.done.append(("suspend", error))
        self.done.append("free the fill's capacity")
        if self.state == "queued":
            if self.lease_id == lease_id:
                self.lease_id = previous
            if self.waits_for == lease_id:
                self._resume()
            return
        if self.lease_id != lease_id or self.state in FINAL:
            return
        if self.ending == "cancelled":
            self._finish("cancelled", "cancelled")
        elif fault == "buyer" or self.state == "running":
            self._finish("failed", "open_failed", error)
        else:
            self.lease_id = previous
            self._become("queued", "open_failed", error)
            if self.void:
                self._finish("cancelled", "order_cancelled")
            elif self.retry_until_ms:
                self._on_book(self.retry_until_ms, True)
            else:
                self._on_book(self.rest_until_ms, "no-capacity" in self.retry_on)

    def chain_has(self, lease_id: str, state: str | None, marked: bool) -> None:
        """The chain has the lease like this; None: it has it no more."""
        self._chain_state(lease_id, state)
        lease = self.leases[lease_id]
        if marked and not lease.marked and self.waits_for == lease_id:
            self._resume()
        lease.marked = marked

    def _chain_state(self, lease_id: str, state: str | None) -> None:
        lease = self.leases[lease_id]
        mine = self.lease_id == lease_id
        before = lease.state
        signed = lease.stop_signed and state is not None
        goes_back = state in (None, "active") and before in ("stopped", "closed")
        if lease.reason == "provider_stopped" and (state is None or (goes_back and not signed)):
            lease.reason = None
        if state is None:
            lease.state = "opening"
            if mine and self.state == "starting":
                self.state, self.reserve = "matched", lease.lock
                self._tell()
            return
        if before in ("opening", "failed_to_open"):
            lease.state = "active"
            self._opened(lease)
            self.done.append("tell the cost")
            before = "active"
        if state == before:
            return
        lease.state = state
        self.done.append("tell the cost")
        order = ("active", "stopped", "closed")
        if order.index(state) < order.index(before):
            return
        if before == "active":
            self.done.append("free the fill's capacity")
        self.done.append("judge the provider")
        if self.lease_id == lease_id and self.state in ("matched", "starting", "running"):
            self._end(lease)
        elif self.state == "queued" and self.waits_for == lease_id:
            self._go_on_when_marked(lease)
        if state == "closed":
            self.done.append("write the receipt")
            if self.state in FINAL and "settle the key's charge" not in self.done:
                self.done.append("settle the key's charge")

    def _opened(self, lease: NaiveLease) -> None:
        if self.lease_id != lease.id or self.state in FINAL:
            self._ask_stop(lease, "cancelled")
            return
        self.reserve = 0
        if self.state == "matched":
            self._become("starting")
        if self.ending == "cancelled":
            self._ask_stop(lease, "cancelled")

    def retry_passed(self) -> None:
        if self.state == "queued" and self.waits_for:
            self._wait_no_more()
            self._finish("failed", "retry_passed")

    # The agent and the witness

    def attested(self, lease_id: str, observed_ms: int) -> None:
        lease = self._used(lease_id)
        if lease.ready_ms is None:
            lease.ready_ms = observed_ms
            if self.lease_id == lease_id and self.state == "starting":
                self.started_ms = self.started_ms or self.now_ms
                self._become("running")

    def reported(
        self, lease_id: str, report: tuple[str, str | None, int | None, str | None]
    ) -> None:
        lease = self._used(lease_id)
        if report[0] == "lost" and lease.notice_ms is None:
            raise Refused
        if report[0] == "over_budget" and not lease.budget_limited:
            raise Refused
        lease.report = report
        if lease.finished_ms is None:
            lease.finished_ms = self.now_ms
        if self.lease_id == lease_id and self.state in ("starting", "running"):
            if self.ending != "cancelled":
                self.ending = report[0]
            self._tell()

    def close_signed(self, lease_id: str) -> None:
        self._used(lease_id)
        self.done.append("send the Close")

    def stop_signed(self, lease_id: str, by_meter: bool) -> None:
        lease = self.leases[lease_id]
        if lease.state != "active":
            raise Refused
        lease.stop_signed = True
        if by_meter and not lease.stop and not lease.report:
            lease.reason = "provider_stopped"
            mine = self.lease_id == lease_id and self.state in ("starting", "running")
            if mine and not self.ending:
                self.ending, self.reason = "lost", "provider_stopped"
        self.done.append("send the Stop")

    def stopped_by_provider(self, lease_id: str) -> None:
        lease = self.leases[lease_id]
        if lease.state not in ("stopped", "closed"):
            return
        if lease.reason not in ("lost", "start_limit", "provider_stopped"):
            lease.reason = "provider_stopped"
            self.done.append("judge the provider")

    def notice_given(self, lease_id: str) -> None:
        lease = self.leases[lease_id]
        if lease.state not in ("opening", "active"):
            return
        if lease.notice_s is None:
            raise Refused
        if lease.notice_ms is None and lease.report is None:
            lease.notice_ms = self.now_ms
            if self.lease_id == lease_id and self.state in ("starting", "running"):
                self.detail = "the provider takes the node back in 1m"
                self._tell()

    def _used(self, lease_id: str) -> NaiveLease:
        lease = self.leases[lease_id]
        if lease.state not in ("active", "stopped"):
            raise Refused
        return lease

    # The watchdog

    def overdue(self, lease_id: str, verdict: str) -> None:
        """`verdict`: lost, start_limit, unwitnessed or gone."""
        lease = self.leases[lease_id]
        if lease.state != "active":
            return
        given_up = lease.stop in ("lost", "start_limit")
        if lease.report:
            if verdict == "unwitnessed" and lease.stop != "unwitnessed":
                self._ask_stop(lease, "unwitnessed")
            return
        mine = self.lease_id == lease_id and self.state in ("starting", "running")
        if verdict in ("lost", "start_limit") and not given_up:
            self._ask_stop(lease, verdict)
            lease.reason = verdict
            if mine and self.ending is None:
                self.ending = "lost"
                self.reason = "provider_lost" if verdict == "lost" else "start_limit_passed"
        elif verdict == "gone" and given_up and not lease.stop_signed and mine and self.ending:
            self._end(lease)

    # What they share

    def _end(self, lease: NaiveLease) -> None:
        outcome, reason, exit_code, outputs = lease.report or (None, None, None, None)
        if lease.report is None and self.ending is None:
            self.reason = "lease_stopped"
        else:
            self.reason = reason or self.reason or lease.stop
        self.exit_code, self.outputs = exit_code, outputs
        outcome = outcome or self.ending or "cancelled"
        event = {"lost": "interruption", "failed": "error"}.get(outcome, "")
        in_time = self.retry_until_ms is None or self.now_ms < self.retry_until_ms
        if event in self.retry_on and in_time and not self.void and self.ending != "cancelled":
            if self.state == "running":
                self.state, self.reason = "lost", self.reason or outcome
                self._tell()
            self.ending = None
            self.waits_for = lease.id
            self.retry_until_ms = self.retry_until_ms or self.now_ms + 1000 * self.retry_seconds
            self._become("queued", outcome, "looking for another ask")
            if lease.state in ("stopped", "closed"):
                self._go_on_when_marked(lease)
            return
        if outcome == "over_budget" and self.state == "starting":
            why = self.reason
            self._become("running")
            self.reason = why
        self._finish(outcome, self.reason)

    def _go_on_when_marked(self, lease: NaiveLease) -> None:
        if lease.marked or self.void:
            self._resume()
        else:
            self._ask_stop(lease, "retry")

    def _wait_no_more(self) -> None:
        lease = self.leases[self.waits_for or ""]
        self.waits_for = None
        if lease.stop == "retry" and lease.reason in ("lost", "start_limit"):
            lease.stop = lease.reason
        elif lease.stop == "retry":
            lease.stop = lease.stop_ms = None

    def _resume(self) -> None:
        self._wait_no_more()
        if self.void:
            self._finish("cancelled", "order_cancelled")
        else:
            self._on_book(self.retry_until_ms or self.now_ms, True)

    def _on_book(self, until_ms: int, rests: bool) -> None:
        self.done.append(("on book", until_ms, rests))
        self._tell()

    def _ask_stop(self, lease: NaiveLease, why: str) -> None:
        lease.stop, lease.stop_ms = why, self.now_ms

    def _finish(self, state: str, reason: str | None = None, detail: str | None = None) -> None:
        self.finished_ms, self.reserve = self.now_ms, 0
        self.done.append("settle the key's charge")
        self.state, self.reason, self.detail = state, reason, detail
        self._tell()

    def _become(self, state: str, reason: str | None = None, detail: str | None = None) -> None:
        self.finished_ms = None
        self.state, self.reason, self.detail = state, reason, detail
        self._tell()

    def _tell(self) -> None:
        said = (self.state, self.reason, self.detail, self.exit_code, self.ending, self.lease_id)
        self.done.append(("tell", *said))
