"""Encrypted key files in the version 3 format that Foundry, geth and eth-account read."""

import json
import os
from pathlib import Path
from typing import Any, Literal

from settlement import strict_json
from settlement.errors import KeystoreError, SignatureError
from settlement.signing import LocalSigner

Kdf = Literal["scrypt", "pbkdf2"]
# The most that opening a file may cost. Scrypt takes 128 * n * r bytes (RFC 7914): a gibibyte at
# most here, a quarter of it with the n of 2**18 that wallets write.
_COSTS = {
    "scrypt": {"n": 2**20, "r": 8, "p": 16, "dklen": 32},
    "pbkdf2": {"c": 10_000_000, "dklen": 32},
}


def create(
    path: Path,
    password: str,
    signer: LocalSigner | None = None,
    kdf: Kdf = "scrypt",
    iterations: int | None = None,
) -> LocalSigner:
    """Write a key (a new one unless given) to a new file that only its owner can read (0600).

    `iterations` is scrypt's work factor n or PBKDF2's count; by default the library's choice.
    Raises KeystoreError if the file exists, because a key is never overwritten.
    """
    from eth_account import Account  # imported here because it takes over a second

    key = signer or LocalSigner.create()
    document = Account.encrypt(key.secret(), password, kdf=kdf, iterations=iterations)
    text = json.dumps(document).encode()
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise KeystoreError(
            f"{path} exists, and a key file is never overwritten: choose another name"
        ) from None
    except OSError as error:
        raise KeystoreError(f"{path} cannot be written: {error.strerror}") from error
    with os.fdopen(descriptor, "wb") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    return key


def load(path: Path, password: str) -> LocalSigner:
    """Unlock a key file. Raises KeystoreError if it is unreadable or the password is wrong."""
    from eth_account import Account

    try:
        document = strict_json.load(path)
        if not _is_openable(document):
            raise KeystoreError(f"{path} is not a version 3 keystore, or costs too much to open")
        return LocalSigner(bytes(Account.decrypt(document, password)))
    except OSError as error:
        raise KeystoreError(f"{path} cannot be read: {error.strerror}") from error
    except strict_json.JsonError as error:
        raise KeystoreError(f"{path} is not a keystore: {error}") from error
    except SignatureError as error:
        raise KeystoreError(f"{path} holds no valid key") from error
    except ValueError as error:  # eth-keyfile raises this if the MAC does not match
        raise KeystoreError(f"{path}: wrong password or damaged file") from error


def _is_openable(document: Any) -> bool:
    """Whether eth-keyfile can open the document, at no more than `_COSTS`.

    eth-keyfile checks neither: it fails in many ways, or computes for days.
    """
    if not isinstance(document, dict):
        return False
    match {name.lower(): value for name, value in document.items()}:  # some wallets write Crypto
        case {
            "version": 3,
            "crypto": {
                "cipher": "aes-128-ctr",
                "cipherparams": {"iv": str()},
                "ciphertext": str(),
                "kdf": str(kdf),
                "kdfparams": {"salt": str(), **params},
                "mac": str(),
            },
        } if kdf in _COSTS and (kdf != "pbkdf2" or params.get("prf") == "hmac-sha256"):
            costs = ((params.get(name), most) for name, most in _COSTS[kdf].items())
            return all(type(cost) is int and 1 <= cost <= most for cost, most in costs)
    return False
