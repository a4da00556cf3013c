"""The first thing that runs inside a job's sandbox: drops the last rights, then becomes the job.

Stands alone (standard library, no import of ours). Usage: launch.py SOCKET_FD. It says "up" and a
line feed at once. The agent then sends one JSON object {argv, env, uid, gid, rlimits: {name:
value}, alone} and closes its side, once accounting is in place: nothing of the job runs before. The
job's environment comes this way too: a variable such as LD_PRELOAD must not act on this file while
it has rights. The answer is "ok" just before the exec, and what went wrong if that or anything else
fails.
"""

import ctypes
import json
import os
import resource
import signal
import sys
import warnings  # noqa: F401 - execvpe imports it, when it may be out of reach

_NICE = 10  # if processors are short, the agent comes first: see processes.py
_PR_SET_PDEATHSIG = 1
_PR_CAPBSET_DROP = 24
_CAPABILITY_VERSION_3 = 0x20080522
_CAPABILITIES_MAX = 64


def _drop_rights(uid: int, gid: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    for capability in range(_CAPABILITIES_MAX):
        libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)
    os.setgroups([])
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    if libc.capset(header, (ctypes.c_uint32 * 6)()) != 0:
        raise OSError(ctypes.get_errno(), "capset")


def main() -> None:
    """Read the request, set up what it says, and exec the job."""
    line = int(sys.argv[1])
    os.set_inheritable(line, False)
    os.write(line, b"up\n")
    with os.fdopen(line, "rb", closefd=False) as file:
        raw = file.read()
    if not raw:
        os._exit(126)  # the agent died before it said anything
    wanted = json.loads(raw)
    try:
        for name, value in wanted["rlimits"].items():
            resource.setrlimit(getattr(resource, name), (value, value))
        with open("/proc/self/oom_score_adj", "w") as adjust:
            adjust.write("1000")  # short of memory, the kernel takes jobs before the agent
        os.umask(0o022)
        os.nice(_NICE)
        if wanted["alone"]:  # no sandbox that dies with the agent
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if wanted["uid"] is not None:
            _drop_rights(wanted["uid"], wanted["gid"])
        os.write(line, b"ok")
        os.execvpe(wanted["argv"][0], wanted["argv"], wanted["env"])  # noqa: S606
    except (OSError, ValueError) as error:
        os.write(line, f"{error}"[:500].encode(errors="replace"))
        os._exit(127)


if __name__ == "__main__":
    main()
