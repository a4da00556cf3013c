"""What can go wrong on a node, as one tree; `code` is stable.

AgentError                 agent_error
├── AgentConfigError       agent_config         the agent's file is wrong, or a key file is unsafe
├── StateLocked            state_locked         another agent works on the same state folder
├── InventoryError         inventory            no GPU was found and none may be simulated
├── RuntimeUnavailable     runtime_unavailable  no sandbox here, and jobs may not run without one
│   └── FoldersExposed     folders_exposed      the sandbox would show jobs private folders
├── StartFailed            start_failed         a job could not be started; says why
├── NotOurs                not_ours             a lease whose orders do not say what the server says
├── NotShown               not_shown            our own node does not show a lease as active, so far
└── JournalError           journal              the journal cannot be read or written
    └── AgentJournalConflict    journal_conflict     a second value for one (lease, sequence)

What the server says is one of `marketplace.sdk.errors`.
"""

from marketplace.sdk import errors as sdk

# Errors that may pass by themselves. AuthError: the provider may replace the key meanwhile.
SERVER_AWAY = (
    sdk.TransportError, sdk.ServerError, sdk.RateLimited, sdk.InFlight, sdk.ProtocolError,
    sdk.AuthError,
)  # fmt: skip


KEY_FIX = "`coulomb provider doctor` names the command that makes a new API key; then restart"


class AgentError(Exception):
    code = "agent_error"


class AgentConfigError(AgentError):
    code = "agent_config"


class StateLocked(AgentError):
    code = "state_locked"


class InventoryError(AgentError):
    code = "inventory"


class RuntimeUnavailable(AgentError):
    code = "runtime_unavailable"


class FoldersExposed(RuntimeUnavailable):
    code = "folders_exposed"


class StartFailed(AgentError):
    """`reason` is stable, the message is for people."""

    code = "start_failed"

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


class NotOurs(AgentError):
    code = "not_ours"


class NotShown(AgentError):
    code = "not_shown"


class JournalError(AgentError):
    code = "journal"


class AgentJournalConflict(JournalError):
    code = "journal_conflict"
