"""Signatures over EIP-712 structs, made and checked by libsecp256k1.

A signature here is always 65 bytes r ‖ s ‖ v with v 27 or 28 and s in the lower half of the curve
order; anything else is refused although the curve would accept it, because the escrow refuses it.
Source: EIP-712, EIP-2 (low s), EIP-2098 (compact form).
"""

from __future__ import annotations

import secrets
from typing import Any, Protocol

from coincurve import PrivateKey, PublicKey

from settlement.eip712 import ZERO_ADDRESS, Domain, Struct, checksum
from settlement.errors import SignatureError
from settlement.hashing import keccak

CURVE_ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
HALF_ORDER = CURVE_ORDER // 2
SIGNATURE_BYTES = 65


class Signer(Protocol):
    """Whoever can sign a digest for one address, wherever its key lives."""

    @property
    def address(self) -> str:
        """The EIP-55 address its signatures recover to."""
        ...

    def sign_digest(self, digest: bytes) -> bytes:
        """Sign 32 bytes: 65 bytes r ‖ s ‖ v, v 27 or 28, low s."""
        ...


class TransactionSigner(Signer, Protocol):
    """A signer that also signs chain transactions."""

    def sign_transaction(self, fields: dict[str, Any]) -> tuple[bytes, str]:
        """Sign one transaction: its raw bytes and its hash as 0x hex."""
        ...


class LocalSigner:
    """A signer whose key is in this process. The key is in no string it gives of itself."""

    __slots__ = ("_key", "address")

    def __init__(self, private_key: bytes) -> None:
        if len(private_key) != 32 or not 0 < int.from_bytes(private_key, "big") < CURVE_ORDER:
            raise SignatureError("a private key is 32 bytes between 1 and the curve order")
        self._key = PrivateKey(private_key)
        self.address = _address(self._key.public_key)

    @classmethod
    def create(cls) -> LocalSigner:
        """A signer with a fresh random key."""
        return cls((secrets.randbelow(CURVE_ORDER - 1) + 1).to_bytes(32, "big"))

    def __repr__(self) -> str:
        return f"LocalSigner({self.address})"

    def __reduce__(self) -> str | tuple[Any, ...]:
        raise TypeError("a signer is not pickled: its key would leave the process")

    def sign_digest(self, digest: bytes) -> bytes:
        """Sign 32 bytes: 65 bytes r ‖ s ‖ v. Deterministic (RFC 6979)."""
        if len(digest) != 32:
            raise SignatureError(f"a digest is 32 bytes, not {len(digest)}")
        made = self._key.sign_recoverable(digest, hasher=None)
        return made[:64] + bytes((27 + made[64],))

    def sign_transaction(self, fields: dict[str, Any]) -> tuple[bytes, str]:
        """Sign one transaction: its raw bytes and its hash as 0x hex."""
        from eth_account import Account  # over a second: only those who send pay it

        signed = Account.sign_transaction(fields, self.secret())
        return bytes(signed.raw_transaction), "0x" + bytes(signed.hash).hex()

    def secret(self) -> bytes:
        """The private key itself, for writing a keystore and nothing else."""
        return bytes(self._key.secret)


def sign(struct: Struct, domain: Domain, signer: Signer) -> bytes:
    """Sign a struct for one contract on one chain: 65 bytes."""
    return signer.sign_digest(struct.digest(domain))


def recover(struct: Struct, domain: Domain, signature: bytes) -> str:
    """The EIP-55 address whose key signed. Raises SignatureError on a malformed signature."""
    return recover_digest(struct.digest(domain), signature)


def recover_digest(digest: bytes, signature: bytes) -> str:
    """The EIP-55 address that signed 32 bytes. Raises SignatureError: length, v, high s, r."""
    recovery_id = _checked(signature)
    try:
        key = PublicKey.from_signature_and_message(
            signature[:64] + bytes((recovery_id,)), digest, hasher=None
        )
    except ValueError as error:  # r is no point's x, or the point is at infinity
        raise SignatureError("the signature belongs to no key") from error
    return _address(key)


def verify(struct: Struct, domain: Domain, signature: bytes, expected: str) -> None:
    """Pass if `expected` signed the struct. Raises SignatureError otherwise; zero never signs."""
    if int(expected, 16) == int(ZERO_ADDRESS, 16):
        raise SignatureError("the zero address signs nothing")
    signer = recover(struct, domain, signature)
    if signer.lower() != expected.lower():
        raise SignatureError(f"{struct.primary} was signed by {signer}, not by {expected}")


def compact(signature: bytes) -> bytes:
    """The 64 bytes r ‖ vs that the escrow reads. Source: EIP-2098."""
    recovery_id = _checked(signature)
    vs = int.from_bytes(signature[32:64], "big") | recovery_id << 255
    return signature[:32] + vs.to_bytes(32, "big")


def expand(compact_signature: bytes) -> bytes:
    """The 65 bytes r ‖ s ‖ v of a compact signature; inverse of `compact`."""
    if len(compact_signature) != 64:
        raise SignatureError(f"a compact signature is 64 bytes, not {len(compact_signature)}")
    vs = int.from_bytes(compact_signature[32:], "big")
    s = vs & ((1 << 255) - 1)
    signature = compact_signature[:32] + s.to_bytes(32, "big") + bytes((27 + (vs >> 255),))
    _checked(signature)
    return signature


def _address(key: PublicKey) -> str:
    return checksum(keccak(key.format(compressed=False)[1:])[12:].hex())


def _checked(signature: bytes) -> int:
    """The recovery id, 0 or 1, of a well-formed signature."""
    if len(signature) != SIGNATURE_BYTES:
        raise SignatureError(f"a signature is 65 bytes, not {len(signature)}")
    if signature[64] not in (27, 28):
        raise SignatureError(f"v must be 27 or 28, not {signature[64]}")
    s = int.from_bytes(signature[32:64], "big")
    if not 0 < s <= HALF_ORDER:
        raise SignatureError("s must be in the lower half of the curve order")
    return signature[64] - 27
