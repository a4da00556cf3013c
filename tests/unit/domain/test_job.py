"""Job files: reading, normalising, hashing, mistakes; states."""

import hashlib
from dataclasses import replace
from typing import Any

import pytest
import yaml

from marketplace.data import load_tiers
from marketplace.domain.drafts import bid_problems, bid_template
from marketplace.domain.job import parse_job
from marketplace.errors import InvalidJob
from marketplace.limits import PROBLEMS_MAX
from settlement.eip712 import text32
from settlement.orders import FLAG_INTERRUPTIBLE, FLAG_NO_GPU, FLAG_SHARED, terms_of
from settlement.units import counted_lock
from tests.factories import BUYER, NANO, NOW, WITNESS, address, job_json, make_ask, make_job

TIERS = load_tiers()
FULL = """
name: train
workdir: ./train
image: ghcr.io/lab/train@sha256:0123
command: [python, train.py]
env: {EPOCHS: "3"}
resources: {gpu: "A100,H100:80GB..:1", cpu: 8.., memory: 64GB.., disk: 100GB}
placement: {regions: [us, eu], min_reliability: 0.98, verified_only: true}
pricing: {max_gpu_hour: "2.50"}
budget: {max_total: "20", on_exceed: checkpoint_then_stop}
max_duration: 6h
start_deadline: 10m
retry: {on_events: [error, no-capacity], duration: 1h}
outputs: [{path: /out}, {path: /out/model}]
tags: {team: nlp}
units: {name: request, max: 1000, max_price: "0.0005"}
egress: {max: 1GiB, max_price: "0.02"}
ready: socket
"""


def mistakes(data: object, **options: Any) -> dict[str, str]:
    with pytest.raises(InvalidJob) as caught:
        parse_job(data, tiers=TIERS, **options)
    return {problem.pointer: problem.detail for problem in caught.value.problems}


def test_whole_job_file_is_read() -> None:
    spec = parse_job(yaml.safe_load(FULL), tiers=TIERS)
    assert (spec.cpu_milli, spec.memory_mib, spec.storage_mib) == (8000, 65_536, 102_400)
    assert spec.regions == ("eu", "us")
    assert spec.min_reliability_milli == 980
    assert spec.max_gpu_hour_nano == 2_500_000_000
    assert spec.max_total_atoms == 20 * 10**18
    assert (spec.max_seconds, spec.start_deadline_seconds, spec.retry_seconds) == (
        21_600,
        600,
        3600,
    )
    assert spec.retry_on == ("no-capacity", "error")
    assert spec.units is not None
    assert (spec.units.name, spec.units.maximum, spec.units.max_price_nano) == (
        "request", 1000, 500_000,
    )  # fmt: skip
    assert spec.egress is not None
    assert spec.egress.max_mib == 1024
    assert spec.runtime == "docker"
    assert spec.rests
    assert TIERS.select(spec.gpu) == (
        "A100-80GB-PCIE", "A100-80GB-SXM", "H100-80GB-PCIE", "H100-80GB-SXM", "H100-94GB-NVL",
    )  # fmt: skip


def test_normalised_form_reads_back_to_the_same_spec_and_hash() -> None:
    spec = parse_job(yaml.safe_load(FULL)).packed("ab" * 32, 17)
    again = parse_job(spec.to_json(), packed=True, tiers=TIERS)
    assert again == spec
    assert again.hash() == spec.hash()


def test_two_spellings_of_one_job_have_one_hash_and_any_other_value_another() -> None:
    spelled = job_json(max_duration="60m", pricing={"max_gpu_hour": "2.5000"})
    assert parse_job(spelled).hash() == make_job().hash()
    assert make_job(max_duration="61m").hash() != make_job().hash()
    assert make_job(env={"A": "1"}).hash() != make_job().hash()


def test_hash_is_sha256_of_the_canonical_json_as_other_programs_write_it() -> None:
    text = (
        '{"budget":{"max_total":"2.5","on_exceed":"stop"},'
        '"command":["python","train.py"],"max_duration":"1h","name":"train",'
        '"placement":{"min_reliability":"0","regions":[],"verified_only":false},'
        '"pricing":{"max_gpu_hour":"2.5"},"ready":"start",'
        '"resources":{"cpu":"1","disk":"0MB","gpu":"H100:1","memory":"1GB"},'
        '"start_deadline":"10m"}'
    )
    assert make_job().hash() == hashlib.sha256(text.encode()).digest()


def test_every_mistake_is_reported_at_its_pointer() -> None:
    found = mistakes(
        {
            "nmae": "x",
            "command": [],
            "env": {"COULOMB_X": "1", "A": 3, "1B": "x"},
            "resources": {"gpu": "H10", "mem": 3, "cpu": "a", "memory": "1..2", "disk": "5"},
            "placement": {"regions": ["Not A Region"], "min_reliability": 2},
            "pricing": {"max_gpu_hour": 2.5},
            "budget": {"max_total": "0", "on_exceed": "explode"},
            "outputs": [{"path": "/etc"}, {"path": "/out/.."}, {"paht": "/out"}],
            "retry": {"on_events": ["nocapacity"]},
            "tags": ["x"],
            "units": {"name": "request"},
            "start_deadline": "soon",
            "inputs": {"sha256": "zz", "size": 2**27},
            "workdir": "./x",
        },
        packed=True,
    )
    assert set(found) == {
        "/nmae", "/command", "/env/COULOMB_X", "/env/A", "/env/1B", "/resources/gpu",
        "/resources/mem", "/resources/cpu", "/resources/memory", "/resources/disk",
        "/placement/regions", "/placement/min_reliability", "/pricing/max_gpu_hour",
        "/budget/max_total", "/budget/on_exceed", "/outputs/0/path", "/outputs/1/path",
        "/outputs/2/paht", "/outputs/2/path", "/retry/on_events", "/tags", "/units/max",
        "/units/max_price", "/start_deadline", "/inputs/sha256", "/inputs/size", "/inputs",
        "/workdir", "/max_duration",
    }  # fmt: skip
    assert found["/nmae"] == "unknown key; did you mean name?"
    assert "did you mean H100?" in found["/resources/gpu"]
    assert "in quotes" in found["/pricing/max_gpu_hour"]
    assert "did you mean no-capacity?" in found["/retry/on_events"]


GROUPS = ("resources", "placement", "pricing", "budget", "retry", "units")


@pytest.mark.parametrize(
    ("data", "pointer", "said"),
    [
        *((data, "", "must be an object") for data in (None, [], "job", 3)),
        *((job_json(**{key: 7}), f"/{key}", "must be an object") for key in GROUPS),
        (job_json(**{"a/b~c": 1}), "/a~1b~0c", "unknown key"),
        (job_json(command=["\ud800"]), "/command", "item 0 must be Unicode text"),
        (job_json(command=["a\0b"]), "/command", "without NUL"),
        (job_json(env={"A": "\udfff"}), "/env/A", "must be Unicode text"),
        (job_json(env={False: "x"}), "/env/False", "a key must be text"),
        (job_json(tags={"\ud800": "x"}), "/tags/'\\ud800'", "a key must be text"),
        ({**job_json(), 7: "x"}, "/7", "a key must be text"),
        (job_json(resources={"gpu": "H100:..40GB"}), "/resources/gpu", "no tier"),
        (job_json(resources={"gpu": "H100:8"}, pricing={"max_gpu_hour": "18446744073"}),
         "/pricing/max_gpu_hour", "above the largest rate"),
    ],
)  # fmt: skip
def test_a_mistake_is_named_and_placed(data: object, pointer: str, said: str) -> None:
    assert said in mistakes(data)[pointer]


CPU_JOB = {
    "resources": {"gpu": 0, "cpu": 4, "memory": "8GB", "disk": "10GB"},
    "pricing": {"max_hour": "0.50"},
}


def test_a_job_without_a_gpu_says_what_it_takes_and_pays_at_most_an_hour_all_in() -> None:
    spec = make_job(**CPU_JOB)
    assert (spec.gpu.gpu_milli, spec.max_hour_nano, spec.max_gpu_hour_nano) == (0, NANO // 2, None)
    assert spec.limit_rate == 5 * 10**11
    assert spec.max_total_atoms == 5 * 10**17
    assert spec.to_json()["pricing"] == {"max_hour": "0.5"}
    assert parse_job(spec.to_json(), packed=True, tiers=TIERS) == spec
    bid = bid_template(
        spec, TIERS, buyer=BUYER, witness=WITNESS, max_fee_bps=100, expiry=NOW, salt=9
    )
    assert [limit.tier for limit in bid.limits] == [text32("CPU")]
    assert (bid.gpu_milli, bid.flags) == (0, FLAG_NO_GPU)
    assert bid_problems(bid, spec, TIERS) == []


def test_a_price_of_zero_is_a_price_and_no_price_is_a_mistake() -> None:
    assert make_job(pricing={"max_gpu_hour": "0"}).to_json()["pricing"] == {"max_gpu_hour": "0"}
    assert mistakes(job_json(pricing={})) == {"/pricing/max_gpu_hour": "missing"}
    assert mistakes(job_json(**{**CPU_JOB, "pricing": {}})) == {"/pricing/max_hour": "missing"}


@pytest.mark.parametrize(
    ("changes", "pointer", "said"),
    [
        ({"pricing": {"max_gpu_hour": "2"}}, "/pricing/max_gpu_hour", "say max_hour"),
        ({"pricing": {"max_gpu_hour": "2", "max_hour": "2"}}, "/pricing/max_gpu_hour",
         "say max_hour"),
        ({"resources": {"gpu": "H100"}}, "/pricing/max_hour", "say max_gpu_hour"),
        ({"resources": {"gpu": 0, "memory": "1GB", "disk": "1GB"}}, "/resources/cpu", "above 0"),
        ({"resources": {"gpu": 0, "cpu": 1, "disk": "1GB"}}, "/resources/memory", "above 0"),
        ({"resources": {"gpu": 0, "cpu": 1, "memory": "1GB"}}, "/resources/disk", "above 0"),
        ({"resources": {"gpu": "CPU"}}, "/resources/gpu", "write 0"),
        ({"pricing": {"max_hour": "18446744074"}}, "/pricing/max_hour", "largest"),
        ({"placement": {"min_notice": "5m"}}, "/placement/min_notice", "interruptible: true"),
        ({"placement": {"interruptible": True, "min_notice": "65536s"}}, "/placement/min_notice",
         "at most 65535s"),
        ({"placement": {"interruptible": "yes"}}, "/placement/interruptible", "true or false"),
    ],
)  # fmt: skip
def test_what_a_job_without_a_gpu_or_on_notice_cannot_say_is_named(
    changes: dict[str, Any], pointer: str, said: str
) -> None:
    assert said in mistakes(job_json(**{**CPU_JOB, **changes}))[pointer]


def test_a_job_that_may_be_interrupted_says_so_in_its_bid() -> None:
    spec = make_job(placement={"interruptible": True, "min_notice": "65535s"})
    bid = bid_template(
        spec, TIERS, buyer=BUYER, witness=WITNESS, max_fee_bps=100, expiry=NOW, salt=9
    )
    assert (bid.flags, bid.min_notice_seconds) == (FLAG_INTERRUPTIBLE, 65_535)
    assert parse_job(spec.to_json(), packed=True, tiers=TIERS) == spec
    assert "min_notice" not in make_job(placement={"interruptible": True}).to_json()["placement"]


def test_command_text_runs_in_a_shell() -> None:
    assert make_job(command="echo hi").command == ("/bin/sh", "-c", "echo hi")


def test_budget_not_given_pays_for_the_whole_duration_at_the_limits() -> None:
    spec = make_job(
        units={"name": "request", "max": 10, "max_price": "0.1"},
        egress={"max": "2GB", "max_price": "0.5"},
    )
    counted = counted_lock(500_000_000, 100_000_000, 2048, 10)
    assert counted == 2 * 10**18
    time = spec.max_total_atoms - counted
    assert time == 25 * 10**17  # an hour: the time to start in is not paid


def test_bid_of_a_job_that_may_start_late_allows_the_most_that_a_bid_can_say() -> None:
    fields = {"buyer": BUYER, "witness": WITNESS, "max_fee_bps": 100, "expiry": NOW, "salt": 9}
    for deadline, seconds in (("65535s", 65_535), ("65536s", 65_535), ("48h", 65_535)):
        bid = bid_template(make_job(start_deadline=deadline), TIERS, **fields)
        assert bid.max_start_seconds == seconds


def test_bid_of_a_job_signs_what_the_job_says() -> None:
    spec = make_job(
        resources={"gpu": "H100:80GB:0.5", "cpu": 2, "memory": "3GB", "disk": "4GB"},
        budget={"max_total": "7"},
    )
    bid = bid_template(
        spec, TIERS, buyer=BUYER, witness=WITNESS, max_fee_bps=100, expiry=NOW, salt=9
    )
    assert [limit.rate for limit in bid.limits] == [1_250_000_000_000] * 2
    assert (bid.gpu_milli, bid.cpu_milli, bid.memory_mib, bid.storage_mib) == (
        500,
        2000,
        3072,
        4096,
    )
    assert (bid.budget, bid.max_seconds, bid.flags) == (7 * 10**18, 3600, FLAG_SHARED)
    assert (bid.max_start_seconds, bid.min_notice_seconds) == (600, 0)
    assert bid.job_hash == spec.hash()
    assert bid_problems(bid, spec, TIERS) == []
    assert terms_of(make_ask(flags=FLAG_SHARED), bid, make_ask().floor).rate == 10**12


@pytest.mark.parametrize(
    ("field", "value", "pointer"),
    [
        ("budget", 1, "/bid/budget"),
        ("job_hash", bytes(32), "/bid/jobHash"),
        ("limits", (), "/bid/limits"),
        ("gpu_milli", 2000, "/bid/gpuMilli"),
        ("max_seconds", 1, "/bid/maxSeconds"),
        ("nodes", 2, "/bid/nodes"),
        ("flags", 1, "/bid/flags"),
        ("units", 1, "/bid/units"),
    ],
)
def test_bid_that_differs_from_its_job_is_named_member_by_member(
    field: str, value: object, pointer: str
) -> None:
    spec = make_job()
    bid = bid_template(
        spec, TIERS, buyer=BUYER, witness=WITNESS, max_fee_bps=100, expiry=NOW, salt=9
    )
    changed = replace(bid, **{field: value})
    assert [p.pointer for p in bid_problems(changed, spec, TIERS)] == [pointer]


def test_what_the_buyer_chooses_freely_is_no_difference() -> None:
    spec = make_job()
    bid = bid_template(
        spec, TIERS, buyer=address(5), witness=address(6), max_fee_bps=1, expiry=NOW, salt=77,
        opener=address(7),
    )  # fmt: skip
    assert bid_problems(bid, spec, TIERS) == []


def test_a_file_of_many_unknown_names_lists_a_few_of_them_and_costs_little() -> None:
    with pytest.raises(InvalidJob) as refusal:
        parse_job({f"unknown-{number}" * 9: 1 for number in range(50_000)}, tiers=TIERS)
    assert len(refusal.value.problems) == PROBLEMS_MAX + 1
    assert refusal.value.problems[-1].detail == "there are more mistakes than these"
