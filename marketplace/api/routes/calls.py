"""Calls that accounts signed, which the market's relayer sends for a fee."""

from fastapi import Response

from marketplace.api.edge import Anyone, Buyer, EdgeDep, Id, Routes, WritingDep
from marketplace.api.problems import ONCE, OWNED
from marketplace.db.store import Store
from marketplace.errors import NotFound
from marketplace.limits import NUMBER_DIGITS_MAX
from marketplace.wire.orders import CALL_ID, RelayedCall, SignedTopUp, SignedWithdrawal

routes = Routes()
REFUSED = (
    *OWNED, *ONCE, "chain_unavailable", "conflict", "not_relayed", "call_used", "call_refused",
    "invalid_signature", "relay_fee", "call_expired", "insufficient_balance",
)  # fmt: skip


@routes.on(
    "POST /calls/withdrawals",
    "relay_withdrawal",
    *REFUSED,
    status_code=202,
    response_model=RelayedCall,
)
def withdraw(edge: EdgeDep, caller: Anyone, body: SignedWithdrawal, write: WritingDep) -> Response:
    """Let the relayer send a signed withdrawal. The same one again tells how far it has come."""
    relays = edge.catalog.relays
    return write.run_checked(caller, lambda: relays.withdrawal(caller, body), relays.submit, 202)


@routes.on(
    "POST /calls/top-ups",
    "relay_top_up",
    *REFUSED,
    "purse_expired",
    status_code=202,
    response_model=RelayedCall,
)
def top_up(edge: EdgeDep, caller: Buyer, body: SignedTopUp, write: WritingDep) -> Response:
    """Let the relayer send a signed top-up. The same one again tells how far it has come."""
    relays = edge.catalog.relays
    return write.run_checked(caller, lambda: relays.top_up(caller, body), relays.submit, 202)


@routes.reads("GET /calls/{call_id}", "get_call", *OWNED)
def get(edge: EdgeDep, store: Store, caller: Anyone, call_id: Id) -> RelayedCall:
    """How far a signed call of the caller has come: `call_` and its number."""
    digits = call_id.removeprefix(CALL_ID.format(""))
    if not (digits.isascii() and digits.isdigit() and len(digits) <= NUMBER_DIGITS_MAX):
        raise NotFound("no such call: its id is `call_` and the call's number")
    return edge.catalog.relays.get(store, caller, int(digits))
