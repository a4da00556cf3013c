"""The system calls a job may not make, as the BPF program bubblewrap loads.

Namespaces and dropped capabilities already refuse most of these; the filter is there for the kernel
code they would reach first, and for what namespaces do not cover: vsock, keyrings, io_uring, new
user namespaces. Source: seccomp(2), Linux `filter.rst`; numbers from asm/unistd.h.
"""

import errno
import platform
import struct

# name: (x86_64, aarch64); None if the architecture has no such call.
DENIED: dict[str, tuple[int, int | None]] = {
    "acct": (163, 89), "add_key": (248, 217), "adjtimex": (159, 171), "bpf": (321, 280),
    "clock_adjtime": (305, 266), "clock_settime": (227, 112), "delete_module": (176, 106),
    "fanotify_init": (300, 262), "finit_module": (313, 273), "fsconfig": (431, 431),
    "fsmount": (432, 432), "fsopen": (430, 430), "fspick": (433, 433), "init_module": (175, 105),
    "io_uring_enter": (426, 426), "io_uring_register": (427, 427), "io_uring_setup": (425, 425),
    "ioperm": (173, None), "iopl": (172, None), "kexec_file_load": (320, 294),
    "kexec_load": (246, 104), "keyctl": (250, 219), "mount": (165, 40), "mount_setattr": (442, 442),
    "move_mount": (429, 429), "name_to_handle_at": (303, 264), "open_by_handle_at": (304, 265),
    "open_tree": (428, 428), "perf_event_open": (298, 241), "pivot_root": (155, 41),
    "quotactl": (179, 60), "reboot": (169, 142), "request_key": (249, 218), "setns": (308, 268),
    "settimeofday": (164, 170), "swapoff": (168, 225), "swapon": (167, 224), "syslog": (103, 116),
    "umount2": (166, 39), "unshare": (272, 97), "userfaultfd": (323, 282), "vhangup": (153, 58),
}  # fmt: skip
_CLONE, _CLONE3, _SOCKET, _IOCTL = (56, 220), (435, 435), (41, 198), (16, 29)
_AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_COLUMN = {"x86_64": 0, "aarch64": 1}
_X32_BIT = 0x40000000
# CLONE_NEWTIME, NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET
_NEW_NAMESPACES = 0x00000080 | 0x00020000 | 0x02000000 | 0x04000000
_NEW_NAMESPACES |= 0x08000000 | 0x10000000 | 0x20000000 | 0x40000000
_FAMILIES = (1, 2, 10, 16)  # AF_UNIX, AF_INET, AF_INET6, AF_NETLINK
_TERMINAL_IOCTLS = (0x5412, 0x541C)  # TIOCSTI and TIOCLINUX type into someone's terminal

_LOAD, _JUMP_EQUAL, _JUMP_SET, _RETURN = 0x20, 0x15, 0x45, 0x06
_ALLOW, _KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_NUMBER, _ARCH, _ARGUMENT_0, _ARGUMENT_1 = 0, 4, 16, 24  # offsets in struct seccomp_data

Instruction = tuple[int, int, int, int]  # code, jump if true, jump if false, operand
_PASS: Instruction = (_RETURN, 0, 0, _ALLOW)


def program(machine: str | None = None) -> bytes | None:
    """The filter for an architecture (default: this one), or None if we know no numbers."""
    machine = machine or platform.machine()
    if machine not in _COLUMN:
        return None
    column = _COLUMN[machine]
    code: list[Instruction] = [
        (_LOAD, 0, 0, _ARCH),
        (_JUMP_EQUAL, 1, 0, _AUDIT_ARCH[machine]),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, _NUMBER),
    ]
    if machine == "x86_64":
        code += [(_JUMP_SET, 0, 1, _X32_BIT), _refuse(errno.ENOSYS)]
    for numbers in DENIED.values():
        number = numbers[column]
        if number is not None:
            code += [(_JUMP_EQUAL, 0, 1, number), _refuse(errno.EPERM)]
    # The flags of clone3 lie behind a pointer, so libc is sent back to clone.
    code += [(_JUMP_EQUAL, 0, 1, _CLONE3[column]), _refuse(errno.ENOSYS)]
    for call, argument, jump, values, found, other in (
        (_CLONE, _ARGUMENT_0, _JUMP_SET, (_NEW_NAMESPACES,), _refuse(errno.EPERM), _PASS),
        (_SOCKET, _ARGUMENT_0, _JUMP_EQUAL, _FAMILIES, _PASS, _refuse(errno.EAFNOSUPPORT)),
        (_IOCTL, _ARGUMENT_1, _JUMP_EQUAL, _TERMINAL_IOCTLS, _refuse(errno.EPERM), _PASS),
    ):
        body: list[Instruction] = [(_LOAD, 0, 0, argument)]
        for value in values:
            body += [(jump, 0, 1, value), found]
        code += [(_JUMP_EQUAL, 0, len(body) + 1, call[column]), *body, other]
    code.append(_PASS)
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in code)


def _refuse(code: int) -> Instruction:
    return (_RETURN, 0, 0, _ERRNO | code)
