"""The witness's answers to attestations."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from marketplace.api.edge import OWNED, Buyer, EdgeDep, Reply, SoundRoute, WritingDep, problems
from marketplace.api.schemas.base import Id
from marketplace.api.schemas.work import Attestation, Countersignature
from marketplace.db.store import Store
from marketplace.services.common import from_hex

router = APIRouter(route_class=SoundRoute, prefix="/attestations", tags=["attestations"])


@router.post(
    "/{attestation_id}/countersign",
    operation_id="countersign_attestation",
    response_model=Attestation,
    responses=problems(*OWNED, "invalid_signature", "conflict"),
)
def countersign(
    edge: EdgeDep, caller: Buyer, attestation_id: Id, body: Countersignature, write: WritingDep
) -> Any:
    """Answer an attestation with the witness's voucher; it is durable when this answers."""
    service = edge.catalog.attestations
    signature = from_hex(body.signature, "/signature")

    def act(store: Store) -> Reply:
        row = service.countersign(store, caller, attestation_id, body.voucher, signature)
        return Reply(service.to_json(row))

    return write.run(caller, act)
