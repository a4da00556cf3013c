"""Our typed data equals eth-account's, and a signature is valid for one struct only."""

from dataclasses import fields, replace
from typing import Any

import pytest
from eth_account import Account
from eth_account.messages import _hash_eip191_message, encode_typed_data
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from settlement.eip712 import ZERO_ADDRESS, Domain, Struct
from settlement.errors import SignatureError
from settlement.signing import (
    CURVE_ORDER,
    LocalSigner,
    compact,
    expand,
    recover,
    recover_digest,
    sign,
    verify,
)
from tests.struct_strategies import STRUCTS, any_struct, domains, structs_of, values

keys = st.integers(1, CURVE_ORDER - 1).map(lambda k: LocalSigner(k.to_bytes(32, "big")))
digests = st.binary(min_size=32, max_size=32)
chain_ids = st.integers(1, 2**63 - 1)


@pytest.mark.parametrize("kind", STRUCTS, ids=lambda kind: kind.primary)
@settings(max_examples=30)
@given(data=st.data())
def test_digest_equals_eth_accounts_and_a_message_parses_to_its_struct(
    kind: type[Struct], data: st.DataObject
) -> None:
    struct, domain = data.draw(structs_of(kind)), data.draw(domains)
    document = struct.typed_data(domain)
    assert struct.digest(domain) == _hash_eip191_message(encode_typed_data(full_message=document))
    assert kind.from_message(struct.to_message()) == struct


@settings(max_examples=60)
@given(struct=any_struct(), domain=domains, signer=keys)
def test_signature_recovers_to_its_signer_here_and_in_eth_account(
    struct: Struct, domain: Domain, signer: LocalSigner
) -> None:
    signature = sign(struct, domain, signer)
    assert recover(struct, domain, signature) == signer.address
    verify(struct, domain, signature, signer.address)
    message = encode_typed_data(full_message=struct.typed_data(domain))
    assert Account.recover_message(message, signature=signature) == signer.address
    assert expand(compact(signature)) == signature


@settings(max_examples=100)
@given(data=st.data(), struct=any_struct(), domain=domains, signer=keys)
def test_a_signature_does_not_cover_a_changed_field(
    data: st.DataObject, struct: Struct, domain: Domain, signer: LocalSigner
) -> None:
    index = data.draw(st.integers(0, len(struct.schema) - 1))
    kind, name = struct.schema[index][0], fields(struct)[index].name  # type: ignore[arg-type]
    value = data.draw(values(kind, struct.members))
    assume(value != getattr(struct, name))
    changed: Any = replace(struct, **{name: value})  # type: ignore[type-var]
    signature = sign(struct, domain, signer)
    with pytest.raises(SignatureError):
        verify(changed, domain, signature, signer.address)


@settings(max_examples=50)
@given(struct=any_struct(), domain=domains, chain_id=chain_ids, other=domains, signer=keys)
def test_a_signature_does_not_cover_another_domain(
    struct: Struct, domain: Domain, chain_id: int, other: Domain, signer: LocalSigner
) -> None:
    signature = sign(struct, domain, signer)
    for changed in (replace(domain, chain_id=chain_id), other, replace(domain, version="2")):
        assume(changed != domain)
        with pytest.raises(SignatureError):
            verify(struct, changed, signature, signer.address)


@settings(max_examples=60)
@given(digest=digests, signer=keys)
def test_malleable_and_malformed_signatures_are_refused(digest: bytes, signer: LocalSigner) -> None:
    signature = signer.sign_digest(digest)
    s, v = int.from_bytes(signature[32:64], "big"), signature[64]
    twin = signature[:32] + (CURVE_ORDER - s).to_bytes(32, "big") + bytes((55 - v,))
    bad = [
        twin,  # valid on the curve, but the escrow refuses it
        signature[:64] + bytes((v - 27,)),
        signature[:64] + bytes((v + 2,)),
        signature[:64],
        signature + b"\0",
        b"",
        signature[:32] + bytes(32) + signature[64:],
        bytes(32) + signature[32:],
        CURVE_ORDER.to_bytes(32, "big") + signature[32:],
    ]
    for wrong in bad:
        with pytest.raises(SignatureError):
            recover_digest(digest, wrong)
    for wrong in (twin, signature[:64], signature[:64] + b"\x1d"):
        with pytest.raises(SignatureError):
            compact(wrong)


@settings(max_examples=60)
@given(struct=any_struct(), domain=domains, signature=st.binary(max_size=70))
def test_junk_is_never_a_valid_signature(struct: Struct, domain: Domain, signature: bytes) -> None:
    signer = LocalSigner(b"\1" * 32)
    for expected in (signer.address, ZERO_ADDRESS):
        with pytest.raises(SignatureError):
            verify(struct, domain, signature, expected)
