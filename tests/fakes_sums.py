"""What a store works out of an account's rows, on the rows in memory."""

from __future__ import annotations

import re
from typing import Any

from marketplace.services.ports import BLOB_ROW_BYTES, CANCEL_KEY
from settlement.ports import IntentState
from tests.fakes_settlement import MemoryOutbox

Rows = dict[str, dict[Any, Any]]


def order_salts(
    rows: Rows, outbox: MemoryOutbox, account: str, allowed: range
) -> tuple[int, int] | None:
    """Least and greatest salt of an account's orders that no Cancel of their own voids."""
    asks = (row for row in rows["asks"].values() if row.provider == account)
    bids = (row for row in rows["bids"].values() if row.account == account)
    salts = {int(row.message["salt"]) for row in asks} | {int(row.salt) for row in bids}
    live = (i for i in outbox.intents.values() if i.state is not IntentState.DEAD)
    void = {re.sub(r"/\d+$", "", intent.key) for intent in live}

    def left(salt: int) -> bool:
        key = CANCEL_KEY.format(account=account, salt=salt, and_older=0)
        return salt in allowed and key not in void

    found = [salt for salt in salts if left(salt)]
    return (min(found), max(found)) if found else None


def blob_bytes(rows: Rows, owner: str, since_ms: int) -> int:
    """What an account has uploaded since, with what each blob costs beside."""
    blobs = rows["blobs"].values()
    mine = [row for row in blobs if row.owner == owner and row.created_ms >= since_ms]
    return sum(row.size + BLOB_ROW_BYTES for row in mine)
