"""What can go wrong on a node, as one tree; `code` is stable.

AgentError                 agent_error
├── AgentConfigError       agent_config         the agent's file is wrong, or a key file is unsafe
├── StateLocked            state_locked         another agent works on the same state folder
├── InventoryError         inventory            no GPU was found and none may be simulated
├── RuntimeUnavailable     runtime_unavailable  no sandbox here, and jobs may not run without one
│   └── FoldersExposed     folders_exposed      the sandbox would show jobs private folders
├── StartFailed            start_failed         a job could not be started; says why
├── JournalError           journal              the journal cannot be read or written
│   └── AgentJournalConflict    journal_conflict     a second value for one (lease, sequence)
└── ApiDown                api_down             the server cannot be reached for now
    (a refusal by the server is `marketplace.sdk.errors.ApiError`)
"""

from __future__ import annotations

from typing import ClassVar


class AgentError(Exception):
    """Root of everything the agent raises."""

    code: ClassVar[str] = "agent_error"


class AgentConfigError(AgentError):
    """The agent's configuration is wrong."""

    code = "agent_config"


class StateLocked(AgentError):
    """Another agent works on the same state folder."""

    code = "state_locked"


class InventoryError(AgentError):
    """The node's hardware does not match its configuration."""

    code = "inventory"


class RuntimeUnavailable(AgentError):
    """Jobs cannot run here in a sandbox, and may not run without one."""

    code = "runtime_unavailable"


class FoldersExposed(RuntimeUnavailable):
    """The Python installation bound into jobs holds private folders; running bare hides no more."""

    code = "folders_exposed"


class StartFailed(AgentError):
    """A job could not be started; `reason` is stable, the message is for people."""

    code = "start_failed"

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


class JournalError(AgentError):
    """The journal cannot be read or written: nothing may be signed."""

    code = "journal"


class AgentJournalConflict(JournalError):
    """A second, different value for something that is signed once."""

    code = "journal_conflict"


class ApiDown(AgentError):
    """The server cannot be reached, or asks to come again later."""

    code = "api_down"
