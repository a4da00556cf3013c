"""Jobs give way when processors are short: agent and server have to watch and to answer.

A kernel with autogroups weighs sessions, not processes: whatever its processes' nice values, every
session gets as much as any other. So it is the sessions of a job whose weight is lowered, those
that it makes later included.

Source: sched(7), "The autogroup feature".
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from marketplace.agent.meters import ProcessStat

# A tenth of the weight of others: at the lowest priority, a busy machine would silence jobs.
NICE = 10  # launch.py, which stands alone, says the same to kernels without autogroups


class LowPriority:
    """The sessions of one job; each is lowered once."""

    def __init__(self, root: Path = Path("/proc")) -> None:
        self._root = root
        self._lowered: set[int] = set()

    def apply(self, processes: Iterable[ProcessStat]) -> None:
        """Lower the sessions that these processes are in and that have not been lowered yet."""
        members = {process.session: process.pid for process in processes if not process.zombie}
        members.pop(os.getsid(0), None)
        self._lowered &= members.keys()
        for session in members.keys() - self._lowered:
            if self._lower(members[session]):
                self._lowered.add(session)

    def _lower(self, pid: int) -> bool:
        """Whether that is settled: without rights, the kernel takes ten such orders a second."""
        try:
            descriptor = os.open(self._root / str(pid) / "autogroup", os.O_WRONLY)
        except OSError:  # no autogroups here, or none that is ours to change
            return True
        try:
            os.write(descriptor, str(NICE).encode())
        except BlockingIOError:
            return False
        except OSError:  # the process is gone
            return True
        finally:
            os.close(descriptor)
        return True
