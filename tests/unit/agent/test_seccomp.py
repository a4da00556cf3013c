"""The filter is run here by a small machine for the instructions it uses."""

import errno
import struct

import pytest

from marketplace.agent.runtime import seccomp

ALLOW = 0x7FFF0000
KILL = 0x80000000
ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
COLUMN = {"x86_64": 0, "aarch64": 1}
SOCKET, CLONE, CLONE3, IOCTL = (41, 198), (56, 220), (435, 435), (16, 29)
NEW_USER, FORK_FLAGS, THREAD_FLAGS = 0x10000000, 0x01200011, 0x003D0F00


def run(program: bytes, number: int, arch: int, *arguments: int) -> int:
    padded = (*arguments, *(0,) * (6 - len(arguments)))
    data = struct.pack("=IIQ6Q", number, arch, 0, *padded)
    code = list(struct.iter_unpack("=HBBI", program))
    place, word = 0, 0
    while True:
        kind, if_true, if_false, operand = code[place]
        place += 1
        if kind == 0x20:
            (word,) = struct.unpack_from("=I", data, operand)
        elif kind == 0x15:
            place += if_true if word == operand else if_false
        elif kind == 0x45:
            place += if_true if word & operand else if_false
        else:
            assert kind == 0x06
            return operand


def refusal(code: int) -> int:
    return 0x00050000 | code


@pytest.fixture(params=["x86_64", "aarch64"])
def machine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def program(machine: str) -> bytes:
    found = seccomp.program(machine)
    assert found is not None
    return found


def test_every_denied_call_is_refused(program: bytes, machine: str) -> None:
    numbers = [row[COLUMN[machine]] for row in seccomp.DENIED.values()]
    present = [number for number in numbers if number is not None]
    assert len(present) == len(set(present)) > 30
    for number in present:
        assert run(program, number, ARCH[machine]) == refusal(errno.EPERM)


def test_ordinary_calls_pass(program: bytes, machine: str) -> None:
    special = {row[COLUMN[machine]] for row in seccomp.DENIED.values()}
    special |= {call[COLUMN[machine]] for call in (SOCKET, CLONE3)}
    for number in set(range(450)) - special:
        assert run(program, number, ARCH[machine]) == ALLOW


@pytest.mark.parametrize(
    ("flags", "expected"),
    [(FORK_FLAGS, ALLOW), (THREAD_FLAGS, ALLOW), (NEW_USER | 17, refusal(errno.EPERM))],
    ids=["fork", "thread", "user namespace"],
)
def test_clone_makes_no_namespaces(program: bytes, machine: str, flags: int, expected: int) -> None:
    assert run(program, CLONE[COLUMN[machine]], ARCH[machine], flags) == expected


def test_clone3_is_sent_back_to_clone(program: bytes, machine: str) -> None:
    assert run(program, 435, ARCH[machine]) == refusal(errno.ENOSYS)


@pytest.mark.parametrize(
    ("family", "allowed"),
    [(1, True), (2, True), (10, True), (16, True), (17, False), (38, False), (40, False)],
    ids=["unix", "inet", "inet6", "netlink", "packet", "alg", "vsock"],
)
def test_sockets_are_of_namespaced_families(
    program: bytes, machine: str, family: int, allowed: bool
) -> None:
    answer = run(program, SOCKET[COLUMN[machine]], ARCH[machine], family)
    assert answer == (ALLOW if allowed else refusal(errno.EAFNOSUPPORT))


@pytest.mark.parametrize(
    ("request_code", "allowed"), [(0x5412, False), (0x541C, False), (0x5401, True)]
)
def test_terminals_cannot_be_typed_into(
    program: bytes, machine: str, request_code: int, allowed: bool
) -> None:
    answer = run(program, IOCTL[COLUMN[machine]], ARCH[machine], 0, request_code)
    assert answer == (ALLOW if allowed else refusal(errno.EPERM))


def test_another_architecture_is_the_end(program: bytes) -> None:
    assert run(program, 1, 0x40000003) == KILL


def test_the_x32_door_is_closed() -> None:
    program = seccomp.program("x86_64")
    assert program is not None
    assert run(program, 0x40000000 | 1, ARCH["x86_64"]) == refusal(errno.ENOSYS)


def test_unknown_machines_have_no_filter() -> None:
    assert seccomp.program("riscv64") is None
