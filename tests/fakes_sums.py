"""What a store works out of an account's rows, on the rows in memory."""

from __future__ import annotations

from typing import Any

from marketplace.services.ports import BLOB_ROW_BYTES, CANCEL_KEY

Rows = dict[str, dict[Any, Any]]


def order_salts(rows: Rows, void: set[str], account: str, allowed: range) -> tuple[int, int] | None:
    """Least and greatest salt of an account's orders, but for those with a key in `void`."""
    asks = (row for row in rows["asks"].values() if row.provider == account)
    bids = (row for row in rows["bids"].values() if row.account == account)
    salts = {int(row.message["salt"]) for row in asks} | {int(row.salt) for row in bids}
    left = [
        salt
        for salt in salts
        if salt in allowed
        and CANCEL_KEY.format(account=account, salt=salt, and_older=0) not in void
    ]
    return (min(left), max(left)) if left else None


def blob_bytes(rows: Rows, owner: str, since_ms: int) -> int:
    """What an account has uploaded since, with what each blob costs beside."""
    blobs = rows["blobs"].values()
    mine = [row for row in blobs if row.owner == owner and row.created_ms >= since_ms]
    return sum(row.size + BLOB_ROW_BYTES for row in mine)
