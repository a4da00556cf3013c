"""No GPU is ever promised beyond itself, whatever leases come and go (invariant 25)."""

from hypothesis import given
from hypothesis import strategies as st

from marketplace.agent.inventory import Capacity, Grant, InstalledGpu, Inventory
from marketplace.domain.placing import WHOLE_MILLI
from settlement.units import Sizes

GPUS = tuple(InstalledGpu(f"SIM-{n}", "H100 (simulated)", 81920, True) for n in range(3))
NODE = Inventory(GPUS, 8000, 1000, 1000)
sizes = st.one_of(st.integers(-1, 1000), st.sampled_from([1000, 1500, 2000, 3000, 4000]))
takes = st.tuples(
    st.integers(0, 9),
    sizes,
    st.integers(0, 600),
    st.lists(st.integers(0, 4), max_size=3),
    st.integers(0, 5000),
)
steps = st.lists(st.one_of(takes, st.integers(0, 9)), max_size=40)


@given(steps=steps, shared=st.booleans())
def test_no_gpu_is_promised_beyond_itself(
    steps: list[tuple[int, int, int, list[int], int] | int], shared: bool
) -> None:
    capacity = Capacity(NODE, shared)
    held: dict[str, tuple[Grant, Sizes]] = {}
    for step in steps:
        if isinstance(step, int):
            capacity.release(f"lease_{step}")
            held.pop(f"lease_{step}", None)
            continue
        number, gpu_milli, memory_mib, wanted, cpu_milli = step
        lease = f"lease_{number}"
        takes = Sizes(gpu_milli, cpu_milli, memory_mib)
        grant = capacity.take(lease, takes, tuple(wanted))
        if lease in held:
            assert grant == held[lease][0]
        elif grant is not None:
            assert len(grant.gpus) * grant.gpu_milli_each == gpu_milli
            held[lease] = (grant, takes)
        check(capacity, held, shared)


def check(capacity: Capacity, held: dict[str, tuple[Grant, Sizes]], shared: bool) -> None:
    grants = [grant for grant, _ in held.values()]
    on_gpu = [*capacity.use.on_gpu, *[0] * len(GPUS)]
    for gpu, counted in zip(GPUS, on_gpu, strict=False):
        owners = [grant for grant in grants if gpu in grant.gpus]
        assert sum(grant.gpu_milli_each for grant in owners) == counted <= WHOLE_MILLI
        assert shared or len(owners) <= 1
        assert len(owners) <= 1 or all(grant.gpu_milli_each < WHOLE_MILLI for grant in owners)
    assert sum(takes.memory_mib for _, takes in held.values()) <= NODE.memory_mib
    assert sum(takes.cpu_milli for _, takes in held.values()) <= NODE.cpu_milli
    slots = [grant.slot for grant in grants]
    assert len(slots) == len(set(slots))


def test_the_gpu_that_the_market_reserved_is_taken_if_it_is_free() -> None:
    capacity = Capacity(NODE, shared=True)
    grant = capacity.take("a", Sizes(1000), (2,))
    assert grant is not None
    assert grant.gpus == (GPUS[2],)
    other = capacity.take("b", Sizes(1000), (2,))
    assert other is not None
    assert other.gpus == (GPUS[0],)


def test_memory_that_is_not_there_is_not_promised() -> None:
    capacity = Capacity(NODE, shared=False)
    assert capacity.take("a", Sizes(1000, 0, 700, 0)) is not None
    assert capacity.take("b", Sizes(1000, 0, 301, 0)) is None
    assert capacity.take("c", Sizes(1000, 0, 300, 1001)) is None
    assert capacity.take("d", Sizes(1000, 0, 300, 1000)) is not None


def test_cores_that_are_not_there_are_not_promised() -> None:
    capacity = Capacity(NODE, shared=False)
    assert capacity.take("a", Sizes(1000, 8001, 1)) is None
    assert capacity.take("b", Sizes(0, 7000, 1)) is not None
    assert capacity.take("c", Sizes(1000, 1001, 1)) is None
    assert capacity.take("d", Sizes(1000, 1000, 1)) is not None


def test_a_node_without_gpus_runs_what_needs_none_and_nothing_else() -> None:
    capacity = Capacity(Inventory((), 8000, 1000, 1000), shared=False)
    assert capacity.take("a", Sizes(1000, 1, 1, 1)) is None
    grant = capacity.take("b", Sizes(0, 4000, 500, 500), (0,))
    assert grant is not None
    assert grant.gpus == ()
