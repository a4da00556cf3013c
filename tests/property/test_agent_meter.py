"""Metered time stays within the job, the lease and the clock (invariant 29)."""

from hypothesis import given
from hypothesis import strategies as st

from marketplace.agent.meters import CpuMemory, JobMeter

MS = 1_000_000
samples = st.lists(
    st.tuples(
        st.integers(0, 10**10),  # nanoseconds that pass
        st.none() | st.builds(CpuMemory, st.integers(0, 10**6), st.none() | st.integers(0, 2**40)),
        st.integers(0, 2**20),
        st.integers(-(2**10), 2**40),
    ),
    max_size=30,
)


@given(
    samples=samples, stop_after=st.integers(0, 30), ms_max=st.integers(0, 30_000),
    gpu_milli=st.integers(1, 8000), units_max=st.integers(0, 2**32 - 1),
)  # fmt: skip
def test_usage_never_falls_and_never_exceeds_the_job(
    samples: list[tuple[int, CpuMemory | None, int, int]],
    stop_after: int,
    ms_max: int,
    gpu_milli: int,
    units_max: int,
) -> None:
    now = [0]
    meter = JobMeter(gpu_milli, units_max, lambda: now[0])
    meter.start(None, ms_max)
    ran_ns = 0
    before = meter.take(None, 0, 0)
    for number, (passed_ns, seen, storage_mib, units) in enumerate(samples):
        now[0] += passed_ns
        if number < stop_after:
            ran_ns = now[0]
        elif number == stop_after:
            ran_ns = now[0]
            meter.stop()
        usage = meter.take(seen, storage_mib, units)
        assert usage.covers(before)
        assert usage.ms <= min(ran_ns // MS, ms_max)
        assert usage.gpu_ms == usage.ms * gpu_milli // 1000
        assert usage.units <= units_max
        before = usage


@given(shares=st.lists(st.integers(1, 1000), min_size=1).filter(lambda s: sum(s) <= 1000),
       passed_ns=st.integers(0, 10**13))  # fmt: skip
def test_leases_on_one_gpu_add_up_to_at_most_wall_time(shares: list[int], passed_ns: int) -> None:
    now = [0]
    meters = [JobMeter(share, 0, lambda: now[0]) for share in shares]
    for meter in meters:
        meter.start(None, 10**9)
    now[0] += passed_ns
    assert sum(meter.take(None, 0, 0).gpu_ms for meter in meters) <= passed_ns // MS
