"""Signatures over EIP-712 structs, made and checked by libsecp256k1.

A signature here is always 65 bytes r ‖ s ‖ v, with v 27 or 28 and s in the lower half of the curve
order. The curve would accept other forms, but the escrow refuses them, so this module does too.
Source: EIP-712, EIP-2 (low s), EIP-2098 (compact form).
"""

import secrets
from typing import Any, Protocol, Self

from coincurve import PrivateKey, PublicKey

from settlement.eip712 import ZERO_ADDRESS, Domain, Struct, checksum
from settlement.errors import SignatureError
from settlement.hashing import keccak

CURVE_ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
HALF_ORDER = CURVE_ORDER // 2
SIGNATURE_BYTES = 65


class Signer(Protocol):
    """Signs digests for one address, wherever its key is."""

    @property
    def address(self) -> str:
        """The EIP-55 address that its signatures recover to."""

    def sign_digest(self, digest: bytes) -> bytes:
        """Sign 32 bytes: 65 bytes r ‖ s ‖ v, v 27 or 28, low s."""


class TransactionSigner(Signer, Protocol):
    """A signer that also signs chain transactions."""

    def sign_transaction(self, fields: dict[str, Any]) -> tuple[bytes, str]:
        """Sign one transaction; return its raw bytes and its hash as 0x hex."""


class LocalSigner:
    """A signer whose key is in this process. `repr` and `str` never show the key."""

    __slots__ = ("_key", "address")

    def __init__(self, private_key: bytes) -> None:
        if len(private_key) != 32 or not 0 < int.from_bytes(private_key, "big") < CURVE_ORDER:
            raise SignatureError("a private key must be 32 bytes between 1 and the curve order")
        self._key = PrivateKey(private_key)
        self.address = _address(self._key.public_key)

    @classmethod
    def create(cls) -> Self:
        return cls((secrets.randbelow(CURVE_ORDER - 1) + 1).to_bytes(32, "big"))

    def __repr__(self) -> str:
        return f"LocalSigner({self.address})"

    def __reduce__(self) -> str | tuple[Any, ...]:
        raise TypeError("a signer cannot be pickled: its key must not leave the process")

    def sign_digest(self, digest: bytes) -> bytes:
        """Sign 32 bytes: 65 bytes r ‖ s ‖ v. Deterministic (RFC 6979)."""
        if len(digest) != 32:
            raise SignatureError(f"a digest must be 32 bytes, not {len(digest)}")
        made = self._key.sign_recoverable(digest, hasher=None)
        return made[:64] + bytes((27 + made[64],))

    def sign_transaction(self, fields: dict[str, Any]) -> tuple[bytes, str]:
        from eth_account import Account  # imported here because it takes over a second

        signed = Account.sign_transaction(fields, self.secret())
        return bytes(signed.raw_transaction), "0x" + bytes(signed.hash).hex()

    def secret(self) -> bytes:
        """The private key, only for writing a keystore."""
        return bytes(self._key.secret)


def sign(struct: Struct, domain: Domain, signer: Signer) -> bytes:
    """Sign a struct for one contract on one chain: 65 bytes."""
    return signer.sign_digest(struct.digest(domain))


def recover(struct: Struct, domain: Domain, signature: bytes) -> str:
    """The EIP-55 address that signed. Raises SignatureError if the signature is malformed."""
    return recover_digest(struct.digest(domain), signature)


def recover_digest(digest: bytes, signature: bytes) -> str:
    """The EIP-55 address that signed 32 bytes. Raises SignatureError on a bad length, v, s or r."""
    recovery_id = _checked(signature)
    try:
        key = PublicKey.from_signature_and_message(
            signature[:64] + bytes((recovery_id,)), digest, hasher=None
        )
    except ValueError as error:  # r is not on the curve, or the point is at infinity
        raise SignatureError("the signature belongs to no key") from error
    return _address(key)


def verify(struct: Struct, domain: Domain, signature: bytes, expected: str) -> None:
    """Check that `expected` signed the struct. Raises SignatureError."""
    if int(expected, 16) == int(ZERO_ADDRESS, 16):
        raise SignatureError("the zero address cannot sign")
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
        raise SignatureError(f"a compact signature must be 64 bytes, not {len(compact_signature)}")
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
        raise SignatureError(f"a signature must be 65 bytes, not {len(signature)}")
    if signature[64] not in (27, 28):
        raise SignatureError(f"v must be 27 or 28, not {signature[64]}")
    s = int.from_bytes(signature[32:64], "big")
    if not 0 < s <= HALF_ORDER:
        raise SignatureError("s must be in the lower half of the curve order")
    return signature[64] - 27
