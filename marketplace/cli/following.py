"""Following a job while waiting for it: its states and output on stderr as they come."""

import sys
import threading
import time
from typing import Self

from marketplace.cli.output import note, printable, warn, write_output
from marketplace.sdk import PASSING, Act, JobHandle
from marketplace.sdk.errors import CoulombError
from marketplace.wire.jobs import Job, JobStatus

GRACE_SECONDS = 2.0
AGAIN_SECONDS = 1.0


def why_text(reason: str | None, exit_code: int | None) -> str:
    """Why a job is in its state, unless that says no more; of an exit code, which."""
    if reason in ("completed", "cancelled"):
        return ""
    if reason == "exit_code" and exit_code is not None:
        return f"exit code {exit_code}"
    return printable(str(reason)) if reason else ""


class Follower:
    """Shows a job's events in a thread of its own while the caller waits and witnesses."""

    def __init__(self, job: JobHandle, quiet: bool) -> None:
        self._job = job
        self._quiet = quiet
        self._refusals: set[str] = set()
        self._shown = ""
        self._last_id = 0
        self._thread = threading.Thread(target=self._follow, name="job-events", daemon=True)

    def __enter__(self) -> Self:
        if not self._quiet:
            self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._thread.ident is not None and kind is None:
            self._thread.join(GRACE_SECONDS)
        if kind is KeyboardInterrupt and not self._job.job.is_final:
            name = self._job.id
            note(f"{name} goes on, but nobody countersigns it here any more:")
            note(f"  coulomb job wait {name}     or     coulomb job cancel {name}")

    def watch(self, job: Job, acts: tuple[Act, ...]) -> None:
        """Say what changed; each refusal of the witness is said once."""
        if self._quiet:
            self.tell(job)
        for act in acts:
            why = act.refusal or act.problem
            if why and f"{act.kind} {why}" not in self._refusals:
                self._refusals.add(f"{act.kind} {why}")
                warn(f"the witness did not {act.kind} {act.lease_id}: {why}")

    def tell(self, status: Job | JobStatus) -> None:
        """Say a job's state, once."""
        if status.state != self._shown:
            self._shown = status.state
            why = why_text(status.reason, status.exit_code)
            note(f"{self._job.id} {self._shown}{f' ({why})' if why else ''}")

    def _follow(self) -> None:
        while True:
            try:
                self._show()
                return
            except PASSING:  # a server that is away: the wait decides for how long
                time.sleep(AGAIN_SECONDS)
            except CoulombError as error:
                warn(f"the event stream ended: {error}")
                return

    def _show(self) -> None:
        """Show events until the stream ends, beginning after the last one shown."""
        for event in self._job.events(self._last_id):
            if event.type == "log":
                write_output(event.data.text, sys.stderr)
            # A job that is ending tells so without leaving its state: nothing new to show.
            elif event.type == "status":
                self.tell(event.data)
            self._last_id = event.id
