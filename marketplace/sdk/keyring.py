"""Finding and unlocking keys: Foundry-compatible keystores by name or file, never a raw key."""

import getpass
import os
import secrets
import sys
from collections.abc import Callable
from pathlib import Path

from marketplace.sdk.errors import ConfigError, InputError
from marketplace.sdk.profile import config_dir
from settlement import keystore, strict_json
from settlement.eip712 import ZERO_ADDRESS, checked_address, checksum
from settlement.errors import FieldError
from settlement.signing import LocalSigner


def find_keystore(name_or_file: str) -> Path:
    """The file of a keystore: in our own folder, then in Foundry's. Raises ConfigError."""
    direct = Path(name_or_file).expanduser()
    if "/" in name_or_file or direct.suffix == ".json":
        if direct.is_file():
            return direct
        raise ConfigError(f"no keystore at {direct}")
    ours, foundrys = config_dir() / "keystores", Path.home() / ".foundry" / "keystores"
    for folder in (ours, foundrys):
        if (folder / name_or_file).is_file():
            return folder / name_or_file
    raise ConfigError(
        f"no keystore named {name_or_file!r} (looked in {ours} and {foundrys})",
        fix=f"make one with `coulomb wallet new {name_or_file}` or `cast wallet new`",
    )


def address_of(path: Path) -> str:
    """The address that a keystore states, without unlocking it. Raises ConfigError if none."""
    try:
        return checksum(str(strict_json.load(path)["address"]))
    except (OSError, ValueError, KeyError, TypeError):
        raise ConfigError(
            f"{path} does not say its address", fix="put `account: 0x…` into the profile"
        ) from None


def parse_address(text: str) -> str:
    """An address that somebody typed. Raises InputError, also for a wrong checksum and for zero."""
    try:
        found = checked_address("", text)
    except FieldError as error:
        raise InputError(f"{text!r} {error.detail}") from None
    if found == ZERO_ADDRESS:
        raise InputError("nobody has the key of the zero address")
    return found


def ask_password(what: str) -> str:
    """Ask on the terminal. Raises ConfigError if there is none."""
    if not sys.stdin.isatty():
        raise ConfigError(
            f"the password of {what} is needed and there is no terminal to ask on",
            fix="name a file with --password-file or COULOMB_PASSWORD_FILE",
        )
    return getpass.getpass(f"Password of {what}: ")


def read_password(file: str) -> str:
    """A password file's first line. Raises ConfigError if it cannot be read."""
    try:
        return Path(file).expanduser().read_text(encoding="utf-8").splitlines()[0]
    except (OSError, IndexError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "it has no first line of text"
        raise ConfigError(f"no password in {file}: {why}") from error


def unlock(
    name_or_file: str,
    password_file: str | None = None,
    prompt: Callable[[str], str] = ask_password,
) -> LocalSigner:
    """The signer of a keystore, its password from a file or the terminal."""
    path = find_keystore(name_or_file)
    password = read_password(password_file) if password_file else prompt(f"{path.name} ({path})")
    return keystore.load(path, password)


def witness_key(folder: Path) -> LocalSigner:
    """The machine's own witness key, made on first use.

    It can sign usage of its own buyer's leases and move no funds beyond those leases' locks.
    """
    return hot_key(folder / "key.json", folder / "key.password")


def hot_key(path: Path, password_path: Path) -> LocalSigner:
    """A key that is used without asking, made on first use: a meter's or a witness's.

    Its random password lies in a file next to it, readable by its owner only, as the keystore is.
    """
    if path.is_file():
        return keystore.load(path, read_password(str(password_path)))
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    password = _write_password(password_path)
    # 256 random bits need no slow derivation, and the key must load within milliseconds.
    return keystore.create(path, password, kdf="pbkdf2", iterations=1_000)


def _write_password(path: Path) -> str:
    """Write a random password, or read the one that another process just wrote."""
    password = secrets.token_hex(32)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return read_password(str(path))
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(password + "\n")
        file.flush()
        os.fsync(file.fileno())
    return password
