"""The witness's answers to attestations."""

from fastapi import APIRouter, Response

from marketplace.api.edge import Buyer, EdgeDep, Id, Reply, SoundRoute, WritingDep
from marketplace.api.problems import ONCE, OWNED, documented
from marketplace.db.store import Store
from marketplace.services.views import attestation_view
from marketplace.wire.leases import Attestation, Countersignature

router = APIRouter(route_class=SoundRoute, prefix="/attestations", tags=["attestations"])


@router.post(
    "/{attestation_id}/countersign",
    operation_id="countersign_attestation",
    response_model=Attestation,
    responses=documented(*OWNED, *ONCE, "invalid_signature", "conflict"),
)
def countersign(
    edge: EdgeDep, caller: Buyer, attestation_id: Id, body: Countersignature, write: WritingDep
) -> Response:
    """Answer an attestation with the witness's voucher; it is durable when this answers."""
    service = edge.catalog.attestations

    def act(store: Store) -> Reply:
        return Reply(attestation_view(service.countersign(store, caller, attestation_id, body)))

    return write.run(caller, act)
