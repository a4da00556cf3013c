"""The GPU grammar: what it reads, what it refuses and why."""

import pytest

from marketplace.domain.tier import GpuWish, parse_gpu

GIB = 1024


@pytest.mark.parametrize(
    ("text", "wish"),
    [
        ("A100,H100:80GB..:1", GpuWish(("A100", "H100"), 80 * GIB, None, 1000)),
        ("24GB", GpuWish((), 24 * GIB, 24 * GIB, 1000)),
        ("24GB..48GB:2", GpuWish((), 24 * GIB, 48 * GIB, 2000)),
        ("..48GB", GpuWish((), None, 48 * GIB, 1000)),
        ("8:H100", GpuWish(("H100",), None, None, 8000)),
        ("H100:0.5", GpuWish(("H100",), None, None, 500)),
        ("H100, H100", GpuWish(("H100",), None, None, 1000)),
        (2, GpuWish((), None, None, 2000)),
        (0.25, GpuWish((), None, None, 250)),
    ],
)
def test_gpu_text_is_read(text: object, wish: GpuWish) -> None:
    assert parse_gpu(text) == wish
    assert parse_gpu(wish.to_text()) == wish


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "must be text"),
        (True, "must be text"),
        (["H100"], "must be text"),
        ("1..8", "a range of counts"),
        ("..", "a bound on at least one side"),
        ("80GB:40GB", "gives the memory twice"),
        ("1:2", "gives the count twice"),
        ("1.5", "only whole GPUs"),
        ("0", "must be from 0.001 to 64"),
        ("65", "must be from 0.001 to 64"),
        ("48GB..24GB", "wrong way round"),
        ("H100:fast!", "is not a GPU name"),
        ("H100:", "is neither"),
        ("80XB", "must be a size"),
    ],
)
def test_gpu_text_that_cannot_be_bought_is_refused_with_the_reason(text: object, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        parse_gpu(text)


def test_only_less_than_one_gpu_is_shared() -> None:
    assert GpuWish(gpu_milli=999).shared
    assert not GpuWish(gpu_milli=1000).shared
