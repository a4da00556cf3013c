"""What a job in the sandbox can see and do, and what is left of it."""

import gc
import json
import os
import socket
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from marketplace.agent.errors import RuntimeUnavailable, StartFailed
from marketplace.agent.runtime.process import ProcessRuntime
from marketplace.agent.runtime.processes import NICE
from tests.sandboxes import (
    LIMITS,
    Sandbox,
    as_ordinary_user,
    marked_seconds,
    mounts,
    processes_with,
    until,
)

ROOT = Path(__file__).resolve().parents[3]


RIGHTS = """
import os
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
print(*(int(status["Cap" + kind], 16) for kind in ("Inh", "Prm", "Eff", "Bnd", "Amb")))
print(int(status["NoNewPrivs"]), int(status["Seccomp"]), os.getuid() != 0)
"""
PROCESSES = """
import os
print([int(p) for p in os.listdir("/proc") if p.isdigit()] == [1, os.getpid()])
"""
FOLDERS = """
for folder in ("/", "/usr", "/usr/bin", "/etc", "/dev", "/opt", "/opt/python", "/run",
               "/run/coulomb", "/work", "/out", "/tmp", "/dev/shm"):
    try:
        open(folder + "/x", "w").close()
        print(folder)
    except OSError:
        pass
open("/dev/null", "w").write("x")
"""
LIMITS_SET = """
import resource as r
for name in ("CORE", "NPROC", "FSIZE", "CPU", "AS"):
    print(r.getrlimit(getattr(r, "RLIMIT_" + name))[1])
print(open("/proc/self/oom_score_adj").read())
"""


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (RIGHTS, "0 0 0 0 0 1 2 True"),
        (PROCESSES, "True"),
        (FOLDERS, "/work /out /tmp /dev/shm"),
        (LIMITS_SET, f"0 128 {64 << 20} 60 {(512 + 1024) << 20} 1000"),
        ("import numpy; print(int(numpy.arange(5).sum()))", "10"),
    ],
    ids=["no rights", "its own processes", "its own folders", "its limits", "numpy"],
)
def test_what_a_job_has(sandbox: Sandbox, code: str, expected: str) -> None:
    found = sandbox.python(code)
    assert (found.code, found.out.split(), found.err) == (0, expected.split(), "")


def test_a_job_sees_nothing_of_the_host(sandbox: Sandbox) -> None:
    secret = sandbox.root / "secret"
    secret.write_text("canary")
    host = "/etc/shadow /etc/hostname /home /sys /var /boot /dev/vda /dev/mem".split()
    hidden = [str(secret), str(ROOT), *host]
    found = sandbox.python(f"""
        import os, json
        print(json.dumps([p for p in {hidden} if os.path.exists(p)]))
        print(json.dumps(sorted(os.listdir("/"))))
        print(json.dumps([os.listdir("/work"), os.listdir("/out"), os.listdir("/tmp")]))
        print(open("/proc/1/cmdline").read().count("{sandbox.root}"))
        """)
    seen, top, folders, named = (json.loads(line) for line in found.out.splitlines())
    assert seen == []
    assert {"usr", "proc", "dev", "work", "out", "tmp", "etc"} <= set(top)
    assert folders == [[], [], []]
    assert named == 0


def test_a_job_has_no_network(sandbox: Sandbox) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        found = sandbox.python(f"""
            import socket
            def reach(host, port):
                try:
                    socket.create_connection((host, port), 2)
                    return "reached"
                except OSError as error:
                    return type(error).__name__
            print(sorted(name for _, name in socket.if_nameindex()))
            print(reach("127.0.0.1", {port}), reach("169.254.169.254", 80), reach("1.1.1.1", 53))
            try:
                socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
            except OSError as error:
                print(error.errno)
            """)
        server.setblocking(False)
        with pytest.raises(BlockingIOError):
            server.accept()
    lines = found.out.splitlines()
    assert lines[0] == "['lo']"
    assert "reached" not in lines[1]
    assert lines[2] == "97"  # EAFNOSUPPORT


def test_the_environment_is_the_jobs_alone(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COULOMB_API_KEY", "canary")
    found = sandbox.python("import os; print('\\n'.join(sorted(os.environ)))", EPOCHS="3")
    assert found.out.split() == ["EPOCHS", "HOME", "LANG", "LC_ALL", "PATH"]


def test_the_environment_does_not_act_on_what_still_has_rights(sandbox: Sandbox) -> None:
    found = sandbox.run(["/usr/bin/true"], {"LD_DEBUG": "files"})
    assert found.code == 0
    assert "calling init" in found.err  # the loader of the job itself obeys the variable
    assert "python" not in found.err


@pytest.mark.parametrize("attempt", ["unshare -U true", "unshare -r mount -t tmpfs none /mnt"])
def test_no_namespace_can_be_made_inside(sandbox: Sandbox, attempt: str) -> None:
    found = sandbox.run(["sh", "-c", attempt])
    assert found.code != 0
    assert "not permitted" in found.err


DAEMON = """
import os, sys, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        sys.stdout.write("up\\n"); sys.stdout.flush()
        time.sleep(1000)
time.sleep(float(sys.argv[1]))
"""
SESSIONS = """
import os, sys, time
if os.fork() == 0:
    os.setsid()
    sys.stdout.write("up\\n"); sys.stdout.flush()
    time.sleep(1000)
time.sleep(float(sys.argv[1]))
"""
AUTOGROUPS = Path("/proc/self/autogroup").exists()


def niceness(pid: int) -> int:
    """What the scheduler goes by between sessions or, where it ignores these, processes. A session
    that is as old as the kernel is in no autogroup: its file is empty."""
    grouped = Path(f"/proc/{pid}/autogroup").read_text() if AUTOGROUPS else ""
    return int(grouped.split()[-1]) if grouped else os.getpriority(os.PRIO_PROCESS, pid)


def test_every_session_of_a_job_has_a_low_priority(sandbox: Sandbox) -> None:
    marker = marked_seconds()
    ours = niceness(os.getpid())
    with sandbox.started(["python", "-c", SESSIONS, marker]) as running:
        assert niceness(running.pid) == (NICE if AUTOGROUPS else ours)
        assert os.read(running.stdout, 3) == b"up\n"
        mine = processes_with(marker)
        assert len({os.getsid(pid) for pid in mine}) == len(mine) == 2
        until(lambda: running.read() and {niceness(pid) for pid in mine} == {NICE})
    assert niceness(os.getpid()) == ours


def test_nothing_is_left_when_a_job_ends(sandbox: Sandbox) -> None:
    marker = marked_seconds()
    before = mounts()
    with sandbox.started(["python", "-c", DAEMON, marker]) as running:
        assert os.read(running.stdout, 3) == b"up\n"
        assert len(processes_with(marker)) == 3
        group = running.record["cgroup"]
    assert processes_with(marker) == []
    assert mounts() == before
    assert list(sandbox.root.iterdir()) == []
    assert group is None or not Path(group).exists()


def test_a_daemon_does_not_outlive_its_jobs_command(sandbox: Sandbox) -> None:
    marker = marked_seconds(0)
    with sandbox.started(["python", "-c", DAEMON, marker]) as running:
        assert running.wait(10) == 0
        until(lambda: processes_with(marker) == [])


def test_a_polite_job_gets_time_to_end(sandbox: Sandbox) -> None:
    code = "import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))"
    code += "; print('up', flush=True); time.sleep(100)"
    with sandbox.started(["python", "-c", code]) as running:
        os.read(running.stdout, 3)
        running.terminate()
        assert running.wait(5) == 7


def test_a_deaf_job_is_killed(sandbox: Sandbox) -> None:
    code = "trap '' TERM; echo up; while :; do sleep 0.01; done"
    with sandbox.started(["sh", "-c", code]) as running:
        os.read(running.stdout, 3)
        running.terminate()
        assert running.wait(0.2) is None
        began = time.monotonic()
        running.kill()
        assert running.wait(5) == 128 + 9
        assert time.monotonic() - began < 1


@pytest.mark.parametrize(
    ("argv", "text"), [(["no-such-program"], "No such file"), (["/etc/passwd"], "Permission")]
)
def test_a_command_that_cannot_be_run_is_said_and_leaves_nothing(
    sandbox: Sandbox, argv: list[str], text: str
) -> None:
    gc.collect()  # what earlier tests left to be closed some time is closed now
    descriptors = len(os.listdir("/proc/self/fd"))
    argv = [*argv, marker := marked_seconds()]
    with pytest.raises(StartFailed, match=text) as caught, sandbox.started(argv):
        pass
    assert caught.value.reason == "command_not_found"
    assert len(os.listdir("/proc/self/fd")) == descriptors
    assert processes_with(marker) == []


def test_a_large_environment_reaches_the_job(sandbox: Sandbox) -> None:
    env = {f"V{n}": "x" * 32_000 for n in range(30)}
    found = sandbox.python("import os; print(sum(map(len, os.environ.values())))", **env)
    assert int(found.out) > 30 * 32_000


LOAD = """
import os, sys, time
ballast = bytearray(os.urandom(1)) * (100 << 20)
def burn(seconds):
    end = time.process_time() + seconds
    while time.process_time() < end: pass
if os.fork() == 0:
    burn(0.5)
    os._exit(0)
os.wait()
burn(0.5)
print("burnt", flush=True)
time.sleep(100)
"""


def test_processor_time_and_memory_of_a_known_load_are_seen(sandbox: Sandbox) -> None:
    with sandbox.started(["python", "-c", LOAD]) as running:
        os.read(running.stdout, 6)
        seen = running.read()
    assert seen is not None
    assert 950 <= seen.cpu_ms <= 1600
    assert seen.memory_bytes is not None
    assert 100 << 20 <= seen.memory_bytes <= 200 << 20


ORDINARY = """
import json, os, sys, tempfile
from pathlib import Path
from marketplace.agent.runtime.processes import NICE
from marketplace.agent.runtime.process import ProcessRuntime
from tests.sandboxes import Sandbox
runtime = ProcessRuntime.open(allow_unsandboxed=False)
job = "import os, resource as r; open('/out/x', 'w');"
job += "print(os.getuid(), os.path.exists('/etc/shadow'), r.getrlimit(r.RLIMIT_NPROC)[0])"
with tempfile.TemporaryDirectory() as folder:
    found = Sandbox(runtime, Path(folder)).python(job)
print(json.dumps([os.getuid(), runtime.sandboxed, found.code, found.out, found.err]))
"""


def test_an_ordinary_users_sandbox_works_as_well() -> None:
    env = ["env", f"PYTHONPATH={ROOT}", "PYTHONDONTWRITEBYTECODE=1"]
    done = as_ordinary_user([*env, sys.executable, "-c", ORDINARY], Path(sys.base_prefix))
    assert done.returncode == 0, done.stderr
    uid, *found = json.loads(done.stdout)
    assert uid != 0
    assert found == [True, 0, "1000 False 128\n", ""]


def test_without_bubblewrap_there_is_no_runtime_unless_it_is_allowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RuntimeUnavailable, match="apt-get install bubblewrap"):
        ProcessRuntime.open(allow_unsandboxed=False)
    bare = ProcessRuntime.open(allow_unsandboxed=True)
    assert not bare.sandboxed


def test_a_sandbox_that_does_not_work_is_refused_with_its_complaint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = "--size --perms --json-status-fd --seccomp --args"
    fake = tmp_path / "bwrap"
    fake.write_text(
        f"#!/bin/sh\n[ $1 = --help ] && echo {options} && exit\necho no namespaces >&2; exit 1\n"
    )
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(RuntimeUnavailable, match="no namespaces"):
        ProcessRuntime.open(allow_unsandboxed=False)
    fake.write_text("#!/bin/sh\necho --size\n")
    with pytest.raises(RuntimeUnavailable, match="too old: no --args"):
        ProcessRuntime.open(allow_unsandboxed=False)


def test_a_bare_job_and_its_daemons_end_with_it(tmp_path: Path) -> None:
    bare = ProcessRuntime(None, Path(sys.prefix), None)
    marker = marked_seconds()
    limits = replace(LIMITS, memory_mib=4096)
    command = ["python", "-c", DAEMON, marker]
    with Sandbox(bare, tmp_path).started(command, limits=limits) as running:
        assert os.read(running.stdout, 3) == b"up\n"
        assert running.record["inner"] is None
        assert running.read() is not None
    until(lambda: processes_with(marker) == [])
