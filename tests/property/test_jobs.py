"""Job files: any valid spec survives its normalised form; any input gets an answer, not a crash."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from marketplace.data import load_tiers
from marketplace.domain.job import KEYS, parse_job
from marketplace.domain.reader import (
    duration_text,
    mib_of,
    milli_text,
    seconds_of,
    size_text,
    thousandths_of,
)
from marketplace.errors import InvalidJob

letters = "abcdefghijklmnopqrstuvwxyz"
word = st.builds(str.__add__, st.sampled_from(letters), st.text(letters + "0123456789", max_size=8))
text = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=200)
money = st.decimals("0.001", "99999", places=3).map(str)
duration = st.sampled_from(("1s", "90s", "10m", "6h", "2d"))
gpu = st.sampled_from(("H100", "A100,H100:80GB..", "24GB..48GB:2", "H100:0.5", "RTX4090:8", "1"))
optional: dict[str, st.SearchStrategy[Any]] = {
    "name": word,
    "inputs": st.fixed_dictionaries(
        {"sha256": st.binary(min_size=32, max_size=32).map(bytes.hex), "size": st.just(5)}
    ),
    "image": st.just("ghcr.io/lab/train@sha256:01"),
    "env": st.dictionaries(word.map(str.upper), text, max_size=128),
    "placement": st.fixed_dictionaries(
        {}, optional={"regions": st.lists(word, max_size=32), "verified_only": st.booleans(),
                      "min_reliability": st.sampled_from((0.98, "0.5", 1)),
                      "interruptible": st.just(True)}
    ) | st.just({"interruptible": True, "min_notice": "5m"}),
    "budget": st.fixed_dictionaries({"max_total": money}),
    "start_deadline": duration,
    "retry": st.fixed_dictionaries({"on_events": st.just(["no-capacity"]), "duration": duration}),
    "outputs": st.just([{"path": "/out/a"}]),
    "tags": st.dictionaries(word, text, max_size=128),
    "units": st.fixed_dictionaries({"name": word, "max": st.integers(1, 99), "max_price": money}),
    "egress": st.fixed_dictionaries({"max": st.just("3GB"), "max_price": money}),
    "ready": st.sampled_from(("start", "socket")),
}  # fmt: skip
commands = {
    "command": st.one_of(st.lists(word, min_size=1, max_size=256), word),
    "max_duration": duration,
}
with_gpus = {
    "resources": st.fixed_dictionaries(
        {"gpu": gpu}, optional={"cpu": st.integers(0, 64), "memory": st.just("1.5GB..")}
    ),
    "pricing": st.fixed_dictionaries({"max_gpu_hour": money}),
}
without = {
    "resources": st.fixed_dictionaries(
        {"gpu": st.just(0), "cpu": st.integers(1, 64), "memory": st.just("1.5GB.."),
         "disk": st.just("1GB")}
    ),
    "pricing": st.fixed_dictionaries({"max_hour": money}),
}  # fmt: skip
jobs = st.fixed_dictionaries({**commands, **with_gpus}, optional=optional) | st.fixed_dictionaries(
    {**commands, **without}, optional=optional
)
any_text = st.text(st.characters())  # with the lone surrogates that JSON can carry
junk = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | any_text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(any_text, inner, max_size=3),
    max_leaves=8,
)


@given(jobs)
def test_normalised_form_reads_back_to_an_equal_spec(job: dict[str, Any]) -> None:
    spec = parse_job(job, packed=True, tiers=load_tiers())
    again = parse_job(spec.to_json(), packed=True, tiers=load_tiers())
    assert again == spec
    assert again.to_json() == spec.to_json()
    assert again.hash() == spec.hash()


@given(jobs, st.dictionaries(st.sampled_from(KEYS), junk, min_size=1, max_size=3) | junk)
def test_any_input_is_read_or_refused_with_pointers(job: dict[str, Any], noise: Any) -> None:
    data = {**job, **noise} if isinstance(noise, dict) else noise
    try:
        spec = parse_job(data, tiers=load_tiers())
    except InvalidJob as error:
        pointers = [problem.pointer for problem in error.problems]
    else:
        assert len(spec.hash()) == 32
        return
    assert pointers
    assert all(pointer == "" or pointer.startswith("/") for pointer in pointers)


@given(st.integers(0, 10**8))
def test_texts_of_numbers_read_back(number: int) -> None:
    assert seconds_of(duration_text(number)) == number
    assert mib_of(size_text(number)) == number
    assert thousandths_of(0, 10**10)(milli_text(number)) == number
