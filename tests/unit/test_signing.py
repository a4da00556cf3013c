"""Signers and their key files."""

import copy
import json
import pickle
import stat
import subprocess
import sys
import traceback
from pathlib import Path

import pytest
from eth_account import Account
from eth_typing import Hash32

from settlement import keystore
from settlement.attestation import Stop
from settlement.eip712 import ZERO_ADDRESS, Domain
from settlement.errors import KeystoreError, SignatureError
from settlement.signing import (
    CURVE_ORDER,
    HALF_ORDER,
    LocalSigner,
    expand,
    recover_digest,
    sign,
    verify,
)

KEY = bytes(range(1, 33))
CANARY = KEY.hex()
DOMAIN = Domain(1, "0x" + "11" * 20)
STOP = Stop("0x" + "22" * 20, "0x" + "33" * 20, b"\x44" * 16, True, 2**40 - 1)
PASSWORD = "correct horse"


def test_the_key_is_in_no_string_of_a_signer() -> None:
    signer = LocalSigner(KEY)
    texts = [repr(signer), str(signer), f"{signer}", repr([signer]), repr({"s": signer})]
    try:
        raise ValueError(signer)
    except ValueError as error:
        texts.append("".join(traceback.format_exception(error)))
    assert not any(CANARY in text.lower() for text in texts)
    assert signer.address in texts[0]


def test_a_signer_is_not_pickled_or_copied() -> None:
    signer = LocalSigner(KEY)
    with pytest.raises(TypeError):
        pickle.dumps(signer)
    with pytest.raises(TypeError):
        copy.copy(signer)


@pytest.mark.parametrize(
    "key",
    [b"", KEY[:31], KEY + b"\0", bytes(32), CURVE_ORDER.to_bytes(32, "big"), b"\xff" * 32],
    ids=["empty", "short", "long", "zero", "order", "above"],
)
def test_an_invalid_key_is_refused_without_being_shown(key: bytes) -> None:
    with pytest.raises(SignatureError) as caught:
        LocalSigner(key)
    assert key.hex() == "" or key.hex() not in str(caught.value)


def test_created_signers_differ() -> None:
    assert LocalSigner.create().address != LocalSigner.create().address


def test_signing_is_deterministic_with_low_s() -> None:
    signer = LocalSigner(KEY)
    for i in range(20):
        signature = signer.sign_digest(bytes((i,)) * 32)
        assert signature == signer.sign_digest(bytes((i,)) * 32)
        assert len(signature) == 65
        assert int.from_bytes(signature[32:64], "big") <= HALF_ORDER
        assert signature[64] in (27, 28)


def test_addresses_and_signatures_are_those_of_eth_account() -> None:
    keys = [KEY, (1).to_bytes(32, "big"), (CURVE_ORDER - 1).to_bytes(32, "big")]
    keys += [LocalSigner.create().secret() for _ in range(20)]
    for key in keys:
        signer, account = LocalSigner(key), Account.from_key(key)
        assert signer.address == account.address
        for digest in (bytes(32), b"\xff" * 32, key):
            theirs = account.unsafe_sign_hash(Hash32(digest)).signature
            assert signer.sign_digest(digest) == bytes(theirs)


def test_signing_a_digest_loads_nothing_heavy() -> None:
    code = (
        "import sys\nfrom settlement.signing import LocalSigner, recover_digest\n"
        "signer = LocalSigner.create()\n"
        "assert recover_digest(bytes(32), signer.sign_digest(bytes(32))) == signer.address\n"
        "print([name for name in ('eth_account', 'eth_keys') if name in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"


def test_verify_names_both_signers() -> None:
    signature = sign(STOP, DOMAIN, LocalSigner(KEY))
    other = LocalSigner.create().address
    with pytest.raises(SignatureError, match=f"Stop was signed by 0x.*, not by {other}"):
        verify(STOP, DOMAIN, signature, other)
    verify(STOP, DOMAIN, signature, LocalSigner(KEY).address.lower())


def test_zero_is_never_the_expected_signer() -> None:
    signature = sign(STOP, DOMAIN, LocalSigner(KEY))
    with pytest.raises(SignatureError, match="zero address"):
        verify(STOP, DOMAIN, signature, ZERO_ADDRESS)


def test_a_digest_has_32_bytes_and_a_compact_signature_64() -> None:
    for length in (0, 31, 33):
        with pytest.raises(SignatureError, match="32 bytes"):
            LocalSigner(KEY).sign_digest(bytes(length))
    for length in (0, 63, 65):
        with pytest.raises(SignatureError, match="64 bytes"):
            expand(bytes(length))


def test_a_compact_signature_with_high_s_is_refused() -> None:
    high = (HALF_ORDER + 1).to_bytes(32, "big")
    with pytest.raises(SignatureError, match="lower half"):
        expand(b"\1" * 32 + high)


def test_s_of_exactly_half_the_order_is_well_formed() -> None:
    edge = b"\1" * 32 + HALF_ORDER.to_bytes(32, "big") + b"\x1b"
    assert recover_digest(b"\5" * 32, edge).startswith("0x")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "k.json"


def new_keystore(path: Path, signer: LocalSigner | None = None) -> LocalSigner:
    return keystore.create(path, PASSWORD, signer, kdf="pbkdf2", iterations=2)


def test_only_the_owner_can_read_a_keystore_and_it_opens_again(tmp_path: Path) -> None:
    path = tmp_path / "keys" / "meter.json"
    signer = new_keystore(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert keystore.load(path, PASSWORD).address == signer.address
    assert signer.secret().hex() not in path.read_text()


def test_keystore_is_the_format_of_other_tools(path: Path) -> None:
    new_keystore(path, LocalSigner(KEY))
    document = json.loads(path.read_text())
    assert document["version"] == 3
    assert bytes(Account.decrypt(document, PASSWORD)) == KEY
    theirs = Account.encrypt(KEY, PASSWORD, kdf="scrypt", iterations=2)
    path.write_text(json.dumps(theirs))
    assert keystore.load(path, PASSWORD).address == LocalSigner(KEY).address


def test_keystore_is_never_overwritten(path: Path) -> None:
    new_keystore(path, LocalSigner(KEY))
    before = path.read_text()
    with pytest.raises(KeystoreError, match="never overwritten"):
        new_keystore(path)
    assert path.read_text() == before


def test_keystore_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(KeystoreError):
        new_keystore(tmp_path / "file" / "k.json")


def test_a_wrong_password_is_named_without_showing_secrets(path: Path) -> None:
    new_keystore(path, LocalSigner(KEY))
    with pytest.raises(KeystoreError, match="wrong password") as caught:
        keystore.load(path, "tr0ub4dor")
    assert "tr0ub4dor" not in str(caught.value)
    assert CANARY not in str(caught.value)


@pytest.mark.parametrize(
    "text", ["", "not json", "[]", "{}", '{"version": 3}', '{"version": 1, "crypto": {}}', '"text"']
)
def test_a_malformed_keystore_is_refused(path: Path, text: str) -> None:
    path.write_text(text)
    with pytest.raises(KeystoreError):
        keystore.load(path, PASSWORD)


@pytest.mark.parametrize(
    "changes",
    [
        {"prf": 5}, {"prf": "x"}, {"c": 2**31}, {"c": 2**70}, {"c": 1.5}, {"dklen": 2**31},
        {"salt": 5}, {"kdf": "scrypt"}, {"kdf": "scrypt", "n": 2**31, "r": 8, "p": 1},
    ],
    ids=str,
)  # fmt: skip
def test_a_keystore_that_would_fail_or_cost_too_much_is_refused_unopened(
    path: Path, changes: dict[str, object]
) -> None:
    new_keystore(path)
    document = json.loads(path.read_text())
    document["crypto"]["kdf"] = changes.get("kdf", "pbkdf2")
    document["crypto"]["kdfparams"].update(changes)
    path.write_text(json.dumps(document))
    with pytest.raises(KeystoreError, match="not a version 3 keystore, or costs too much"):
        keystore.load(path, PASSWORD)


def test_a_missing_or_binary_file_is_refused(path: Path) -> None:
    with pytest.raises(KeystoreError, match="cannot be read"):
        keystore.load(path, PASSWORD)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(KeystoreError, match="not a keystore: not UTF-8"):
        keystore.load(path, PASSWORD)
