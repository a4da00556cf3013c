"""Whole jobs on a whole node: the real sandbox, a market in memory, a clock that runs."""

import hashlib
import io
import json
import sys
import tarfile
import textwrap
import time
from pathlib import Path

import pytest

from marketplace.agent.runtime.process import ProcessRuntime
from settlement import silence
from settlement.attestation import Close
from settlement.signing import LocalSigner
from settlement.usage import UsageVector
from tests.fakes_agent import NODE_ID
from tests.sandboxes import INVENTORY, Bench, names_in, until
from tests.tars import member, zipped


def script(bench: Bench, code: str, **changes: object) -> str:
    code = "import coulomb_job, os, time\n" + textwrap.dedent(code)
    return bench.market.open_lease(["python", "-c", code], **changes)


def closed_at(bench: Bench, lease_id: str) -> UsageVector:
    report = bench.finished(lease_id)
    close = Close.from_message(report["close"]["message"])  # type: ignore[index]
    final = bench.market.last(lease_id)
    assert (close.ms, close.egress_mib, close.units) == (final.ms, final.egress_mib, final.units)
    return final.usage()


@pytest.fixture
def short_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(silence, "UNSEEN_MIN_MS", 700)


def test_a_job_runs_with_its_inputs_and_brings_outputs_back(bench: Bench) -> None:
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w:gz") as tar:
        info = tarfile.TarInfo("train.py")
        info.size = len(TRAIN)
        tar.addfile(info, io.BytesIO(TRAIN))
    digest = hashlib.sha256(raw.getvalue()).hexdigest()
    bench.market.blobs[digest] = raw.getvalue()
    lease_id = bench.market.open_lease(
        ["python", "train.py"],
        job={
            "inputs": {"sha256": digest, "size": len(raw.getvalue())},
            "outputs": [{"path": "/out/model"}],
            "env": {"EPOCHS": "3"},
        },
    )
    report = bench.finished(lease_id)
    assert (report["outcome"], report["exit_code"]) == ("succeeded", 0)
    assert names_in(bench.market.blobs[str(report["outputs"])]) == ["model/weights"]
    assert bench.market.text(lease_id, "stdout") == "trained 3 epochs\n"
    until(lambda: list((bench.root / "jobs").iterdir()) == [], what="folders left")


TRAIN = b"""
import os
os.mkdir("/out/model")
open("/out/model/weights", "w").write("w")
open("/out/other", "w").write("o")
print("trained", os.environ["EPOCHS"], "epochs")
"""


def test_usage_is_attested_from_ready_on_and_closed_at_the_end(bench: Bench) -> None:
    lease_id = script(
        bench,
        """
        time.sleep(0.4)
        coulomb_job.ready()
        ready = time.monotonic()
        end = time.process_time() + 0.5
        while time.process_time() < end: pass
        coulomb_job.progress("half")
        coulomb_job.count(3)
        time.sleep(0.1)
        coulomb_job.count(4)
        print(int((time.monotonic() - ready) * 1000))
        """,
        job={"ready": "socket", "units": {"name": "request", "max": 5, "max_price": "0.1"}},
        units=5,
    )
    usage = closed_at(bench, lease_id)
    taken = bench.market.taken(lease_id)
    assert [a.sequence for a in taken] == list(range(len(taken)))
    assert (taken[0].ms, len(taken) >= 3) == (0, True)
    ran_ms = int(bench.market.text(lease_id, "stdout").splitlines()[-1])
    assert ran_ms - 150 <= usage.ms <= ran_ms + 350  # not the 0.4 s before it was ready
    assert 400 <= usage.cpu_core_ms <= usage.ms + 100
    assert usage.gpu_ms == usage.ms
    assert (usage.units, usage.egress_mib) == (5, 0)
    assert usage.memory_mib_ms > 0
    assert bench.market.text(lease_id, "agent").splitlines()[0] == "progress: half"
    assert {len(values) for values in bench.market.signed.values()} == {1}


def test_a_shell_job_speaks_through_the_helper(bench: Bench) -> None:
    """By the interpreter of the system, which has nothing of ours installed."""
    code = """
    tell() { /usr/bin/env -u PYTHONPATH python3 "$COULOMB_HELPER" "$@"; }
    tell ready; tell count 2; tell progress "half way"; tell count 1
    echo weights > model; tell checkpoint model
    tell count -1 || echo refused
    """
    lease_id = bench.market.open_lease(
        ["sh", "-e", "-c", textwrap.dedent(code)],
        job={
            "ready": "socket",
            "units": {"name": "request", "max": 5, "max_price": "0.1"},
            "outputs": [{"path": "/out"}],
        },
        units=5,
    )
    report = bench.finished(lease_id)
    assert (report["outcome"], closed_at(bench, lease_id).units) == ("succeeded", 3)
    assert names_in(bench.market.blobs[str(report["outputs"])]) == ["model"]
    said = bench.market.text(lease_id, "agent").splitlines()
    assert said[:2] == ["progress: half way", "progress: checkpoint: model"]
    assert "refused" in bench.market.text(lease_id, "stdout")


def test_what_a_job_says_just_before_it_ends_counts(bench: Bench) -> None:
    """Its whole life is shorter than the time between two looks of the agent."""
    code = """
    import json, os, socket
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(os.environ["COULOMB_SOCKET"])
    connection.sendall(json.dumps({"ready": True, "units": 3}).encode() + b"\\n")
    os._exit(0)
    """
    lease_id = bench.market.open_lease(
        ["python3", "-S", "-c", textwrap.dedent(code)],
        job={"ready": "socket", "units": {"name": "request", "max": 5, "max_price": "0.1"}},
        units=5,
    )
    report = bench.finished(lease_id)
    assert (report["outcome"], closed_at(bench, lease_id).units) == ("succeeded", 3)


def test_a_bare_job_finds_the_helper_as_well(tmp_path: Path) -> None:
    with Bench(ProcessRuntime(None, Path(sys.prefix), None), tmp_path) as bench:
        code = """
        import subprocess
        coulomb_job.ready()
        coulomb_job.count(2)
        subprocess.run(["python3", os.environ["COULOMB_HELPER"], "count", "1"], check=True)
        """
        units = {"name": "request", "max": 5, "max_price": "0.1"}
        lease_id = script(bench, code, job={"ready": "socket", "units": units}, units=5)
        assert closed_at(bench, lease_id).units == 3


def test_a_job_keeps_its_own_pythonpath_before_the_helpers(bench: Bench) -> None:
    code = "import os, coulomb_job; print(os.environ['PYTHONPATH'], coulomb_job.__file__)"
    lease_id = bench.market.open_lease(
        ["python", "-c", code], job={"env": {"PYTHONPATH": "/work/lib"}}
    )
    assert bench.ended(lease_id)[0] == "succeeded"
    seen = bench.market.text(lease_id, "stdout")
    assert seen == "/work/lib:/opt/coulomb /opt/coulomb/coulomb_job.py\n"


def test_a_job_that_fails_says_how(bench: Bench) -> None:
    lease_id = bench.market.open_lease(["sh", "-c", "echo no >&2; exit 3"])
    report = bench.finished(lease_id)
    found = (report["outcome"], report["reason"], report["exit_code"])
    assert found == ("failed", "exit_code", 3)
    assert bench.market.text(lease_id, "stderr") == "no\n"


def test_a_command_that_is_not_there_costs_nothing(bench: Bench) -> None:
    lease_id = bench.market.open_lease(["no-such-program"])
    assert bench.ended(lease_id) == ("failed", "command_not_found")
    assert closed_at(bench, lease_id) == UsageVector()
    assert "no-such-program" in bench.market.text(lease_id, "agent")


def test_a_job_for_another_runtime_is_not_run(bench: Bench) -> None:
    lease_id = bench.market.open_lease(["true"], job={"image": "repo/img@sha256:" + "ab" * 32})
    assert bench.ended(lease_id) == ("failed", "wrong_runtime")


def test_a_cancelled_job_stops_and_the_time_it_takes_is_free(bench: Bench) -> None:
    lease_id = bench.market.open_lease(["sh", "-c", "trap '' TERM; while :; do sleep 0.01; done"])
    until(lambda: len(bench.market.taken(lease_id)) >= 2)
    bench.market.request_stop(lease_id)
    assert bench.ended(lease_id) == ("cancelled", "cancelled")
    usage = closed_at(bench, lease_id)
    taken = bench.market.taken(lease_id)
    passed_ms = taken[-1].observed_at_ms - taken[0].observed_at_ms
    assert passed_ms - usage.ms > 500  # it is deaf: of the grace of 1 s until it was killed


def test_a_job_cancelled_before_its_start_never_runs(bench: Bench) -> None:
    lease_id = bench.market.open_lease(["touch", "/out/ran"], stop_requested="cancelled")
    assert bench.ended(lease_id) == ("cancelled", "cancelled")
    assert closed_at(bench, lease_id) == UsageVector()


def test_a_job_ends_at_its_maximum_duration(bench: Bench) -> None:
    lease_id = bench.market.open_lease(["sleep", "100"], terms={"max_seconds": 1})
    assert bench.ended(lease_id) == ("failed", "max_duration")
    assert closed_at(bench, lease_id).ms == 1000


@pytest.mark.parametrize(
    ("limited", "expected"),
    [(True, ("over_budget", "budget")), (False, ("failed", "max_duration"))],
)
def test_a_job_ends_where_its_funds_end(
    bench: Bench, limited: bool, expected: tuple[str, str]
) -> None:
    lease_id = bench.market.open_lease(
        ["sleep", "100"], funded_seconds=2, terms={"budget_limited": limited}
    )
    assert bench.ended(lease_id) == expected
    assert closed_at(bench, lease_id).ms <= 2000


def test_a_job_that_does_not_get_ready_in_time_is_stopped_unpaid(bench: Bench) -> None:
    lease_id = bench.market.open_lease(
        ["sleep", "100"], job={"ready": "socket"}, terms={"start_limit_seconds": 1}
    )
    assert bench.ended(lease_id) == ("failed", "start_limit")
    assert closed_at(bench, lease_id) == UsageVector()


def test_missing_inputs_end_the_job(bench: Bench) -> None:
    inputs = {"sha256": "ab" * 32, "size": 10}
    lease_id = bench.market.open_lease(["true"], job={"inputs": inputs})
    assert bench.ended(lease_id) == ("failed", "inputs_missing")


def test_hostile_inputs_end_the_job(bench: Bench) -> None:
    archive = zipped((member("a", tarfile.SYMTYPE, linkname="/etc"), b""), (member("a/b"), b""))
    digest = hashlib.sha256(archive).hexdigest()
    bench.market.blobs[digest] = archive
    inputs = {"sha256": digest, "size": len(archive)}
    lease_id = bench.market.open_lease(["true"], job={"inputs": inputs})
    assert bench.ended(lease_id) == ("failed", "inputs_unsafe")


@pytest.mark.usefixtures("short_grace")
def test_without_countersignatures_work_stops_and_the_meter_signs_a_stop(bench: Bench) -> None:
    bench.market.countersigning = False
    bench.market.closing = False
    lease_id = bench.market.open_lease(["sleep", "100"])
    assert bench.ended(lease_id) == ("failed", "witness_silent")
    assert closed_at(bench, lease_id).ms < 1500
    until(lambda: lease_id in bench.market.stops)


@pytest.mark.usefixtures("short_grace")
def test_countersignatures_that_are_not_the_witnesss_own_are_none(bench: Bench) -> None:
    lease_id = bench.market.open_lease(["sleep", "100"])
    bench.market.witness = LocalSigner(b"\6" * 32)  # the server makes up what it says of it
    assert bench.ended(lease_id) == ("failed", "witness_silent")
    assert closed_at(bench, lease_id).ms < 1500


@pytest.mark.usefixtures("short_grace")
def test_a_server_that_is_away_for_long_stops_the_work(bench: Bench) -> None:
    lease_id = bench.market.open_lease(["sleep", "100"])
    until(lambda: bench.market.taken(lease_id))
    bench.market.down = True
    until(lambda: bench.ending(lease_id))
    bench.market.down = False
    assert bench.ended(lease_id) == ("failed", "witness_silent")


def test_a_server_that_is_away_for_short_stops_nothing(bench: Bench) -> None:
    lease_id = bench.market.open_lease(
        ["sh", "-c", "for i in 1 2 3 4 5 6; do echo $i; sleep 0.3; done"]
    )
    until(lambda: len(bench.market.taken(lease_id)) >= 2)
    bench.market.down = True
    time.sleep(1.0)
    bench.market.down = False
    assert bench.ended(lease_id) == ("succeeded", "completed")
    taken = bench.market.taken(lease_id)
    assert [a.sequence for a in taken] == list(range(len(taken)))
    assert len(taken) >= 6  # the ones signed meanwhile came later, unchanged
    assert {len(values) for values in bench.market.signed.values()} == {1}
    assert bench.market.text(lease_id, "stdout") == "1\n2\n3\n4\n5\n6\n"


def test_a_hopeless_refusal_stops_the_work(bench: Bench) -> None:
    bench.market.refuse_with = "outside_lease"
    lease_id = bench.market.open_lease(["sleep", "100"])
    until(lambda: bench.ending(lease_id))
    ending = bench.ending(lease_id)
    assert ending is not None
    assert ending.reason == "attestation_refused_outside_lease"


def test_a_lease_that_ends_elsewhere_ends_its_job(bench: Bench) -> None:
    lease_id = bench.market.open_lease(["sleep", "100"])
    until(lambda: bench.market.taken(lease_id))
    bench.market.leases[lease_id]["state"] = "stopped"
    assert bench.ended(lease_id) == ("failed", "lease_stopped")


def test_an_unwitnessed_end_is_stopped_by_the_meter_on_request(bench: Bench) -> None:
    bench.market.closing = False
    lease_id = bench.market.open_lease(["true"])
    assert bench.ended(lease_id) == ("succeeded", "completed")
    assert lease_id not in bench.market.stops
    bench.market.request_stop(lease_id, "unwitnessed")
    until(lambda: lease_id in bench.market.stops)


def test_jobs_share_the_node_but_no_gpu_beyond_itself(bench: Bench) -> None:
    code = "print(os.environ['COULOMB_GPUS']); time.sleep(1.2)"
    halves = [script(bench, code, gpu_milli=500) for _ in range(2)]
    whole = script(bench, code)
    for lease_id in (*halves, whole):
        until(lambda one=lease_id: bench.market.taken(one))
    late = script(bench, code)
    assert bench.ended(late) == ("failed", "no_capacity")
    assert all(bench.ended(lease_id)[0] == "succeeded" for lease_id in (*halves, whole))
    gpus = [json.loads(bench.market.text(lease_id, "stdout"))[0] for lease_id in (*halves, whole)]
    assert gpus[0]["uuid"] == gpus[1]["uuid"] != gpus[2]["uuid"]
    assert all(gpu["simulated"] and gpu["uuid"].startswith("SIM-") for gpu in gpus)
    again = script(bench, "pass")
    assert bench.ended(again)[0] == "succeeded"


def test_jobs_side_by_side_cannot_see_each_other(bench: Bench) -> None:
    first = script(bench, "open('/work/mine', 'w'); time.sleep(1)", gpu_milli=500)
    until(lambda: bench.market.taken(first))
    second = script(bench, "print(os.listdir('/work'), os.getuid())", gpu_milli=500)
    assert bench.ended(second)[0] == "succeeded"
    assert bench.market.text(second, "stdout").startswith("[] ")


def test_a_lease_that_is_not_ours_is_left_alone(bench: Bench) -> None:
    lease_id = bench.market.open_lease(["true"], lease_no="0x" + "ab" * 16)
    ours = bench.market.open_lease(["true"])
    assert bench.ended(ours)[0] == "succeeded"
    assert bench.journal.lease(lease_id) is None
    assert bench.market.taken(lease_id) == []


def test_told_to_stop_the_agent_ends_its_jobs_and_reports_them(bench: Bench) -> None:
    lease_id = bench.market.open_lease(["sleep", "100"])
    until(lambda: bench.market.taken(lease_id))
    bench.leave()
    assert bench.ended(lease_id, 0.1) == ("failed", "agent_stopped")
    assert bench.market.left == [NODE_ID]
    assert bench.supervisor.jobs == 0


def test_every_interval_brings_a_sign_of_life(bench: Bench) -> None:
    silent = bench.market.open_lease(["sleep", "0.9"], gpu_milli=500)
    talking = script(
        bench, "for _ in range(9): coulomb_job.heartbeat(); time.sleep(0.1)", gpu_milli=500
    )
    bench.finished(silent)
    bench.finished(talking)
    for lease_id in (silent, talking):
        beats = bench.market.beats[lease_id]
        assert beats == sorted(set(beats))
        assert len(beats) >= 3
    assert bench.market.node_beats >= 1
    assert bench.market.beats[talking][-1] >= 9


def test_the_inventory_of_these_tests_is_simulated() -> None:
    assert INVENTORY.simulated
