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


NO, NO_FAMILY, NO_SUCH = (refusal(code) for code in (errno.EPERM, errno.EAFNOSUPPORT, errno.ENOSYS))
TIOCSTI, TIOCLINUX, TCGETS = 0x5412, 0x541C, 0x5401


@pytest.mark.parametrize(
    ("call", "arguments", "expected"),
    [
        (CLONE, (FORK_FLAGS,), ALLOW),
        (CLONE, (THREAD_FLAGS,), ALLOW),
        (CLONE, (NEW_USER | 17,), NO),
        (CLONE3, (), NO_SUCH),  # is sent back to clone
        *((SOCKET, (family,), ALLOW) for family in (1, 2, 10, 16)),  # unix, inet, inet6, netlink
        *((SOCKET, (family,), NO_FAMILY) for family in (17, 38, 40)),  # packet, alg, vsock
        (IOCTL, (0, TIOCSTI), NO),
        (IOCTL, (0, TIOCLINUX), NO),
        (IOCTL, (0, TCGETS), ALLOW),
    ],
)
def test_what_a_call_may_do_depends_on_its_arguments(
    program: bytes, machine: str, call: tuple[int, int], arguments: tuple[int, ...], expected: int
) -> None:
    assert run(program, call[COLUMN[machine]], ARCH[machine], *arguments) == expected


def test_another_architecture_is_the_end(program: bytes) -> None:
    assert run(program, 1, 0x40000003) == KILL


def test_the_x32_door_is_closed() -> None:
    program = seccomp.program("x86_64")
    assert program is not None
    assert run(program, 0x40000000 | 1, ARCH["x86_64"]) == refusal(errno.ENOSYS)


def test_unknown_machines_have_no_filter() -> None:
    assert seccomp.program("riscv64") is None
