from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from marketplace.agent.config import NodeConfig
from marketplace.agent.errors import InventoryError
from marketplace.agent.inventory import (
    GpuReading,
    InstalledGpu,
    Inventory,
    Nvml,
    simulated_gpus,
    take_inventory,
)

GIB = 1024**3


class NvmlFailed(Exception):
    pass


def fake_nvml(
    uuids: tuple[str, ...] = ("GPU-a", "GPU-b"), driver: bool = True, silent: str = ""
) -> Any:
    """The functions of `pynvml` that we call, over a list of UUIDs; `silent` answers nothing."""

    def sure(holds: bool, value: Any = None) -> Any:
        if not holds:
            raise NvmlFailed("GPU is lost")
        return value

    return SimpleNamespace(
        NVMLError=NvmlFailed,
        nvmlInit=lambda: sure(driver),
        nvmlDeviceGetCount=lambda: len(uuids),
        nvmlDeviceGetHandleByIndex=lambda index: uuids[index],
        nvmlDeviceGetHandleByUUID=lambda uuid: sure(uuid in uuids, uuid),
        nvmlDeviceGetUUID=lambda handle: handle,
        nvmlDeviceGetName=lambda handle: sure(handle != silent, "NVIDIA H100 80GB HBM3"),
        nvmlDeviceGetMemoryInfo=lambda _: SimpleNamespace(total=80 * GIB, used=3 * GIB),
        nvmlDeviceGetMinorNumber=uuids.index,
        nvmlDeviceGetUtilizationRates=lambda handle: sure(
            handle != silent, SimpleNamespace(gpu=97)
        ),
    )


def config(**changes: object) -> NodeConfig:
    fields = {"number": 1, "name": "box", "region": "eu", "tier": "H100-80GB-SXM", **changes}
    return NodeConfig(**fields)  # type: ignore[arg-type]


def test_nvml_gpus_carry_uuid_model_memory_and_device_number() -> None:
    assert Nvml(fake_nvml()).gpus() == (
        InstalledGpu("GPU-a", "NVIDIA H100 80GB HBM3", 81920, False, 0),
        InstalledGpu("GPU-b", "NVIDIA H100 80GB HBM3", 81920, False, 1),
    )


def test_nvml_without_a_driver_is_none() -> None:
    assert Nvml.open(fake_nvml(driver=False)) is None
    assert Nvml.open(fake_nvml()) is not None


def test_a_gpu_that_does_not_answer_stops_the_inventory() -> None:
    with pytest.raises(InventoryError, match="GPU is lost"):
        Nvml(fake_nvml(silent="GPU-b")).gpus()


def test_samples_leave_out_what_does_not_answer() -> None:
    nvml = Nvml(fake_nvml(silent="GPU-b"))
    assert nvml.sample(("GPU-a", "GPU-b", "GPU-c")) == (GpuReading("GPU-a", 97, 3072),)


def test_simulated_gpus_say_so_and_have_lasting_distinct_uuids() -> None:
    first, again = simulated_gpus("4×H100", "0xmeter/1"), simulated_gpus(" 4xH100", "0xmeter/1")  # noqa: RUF001
    assert first == again
    assert len({gpu.uuid for gpu in first}) == 4
    assert all(g.uuid.startswith("SIM-") and g.simulated and "simulated" in g.model for g in first)
    assert first[0].memory_mib == 80 * 1024
    assert {g.uuid for g in first}.isdisjoint({g.uuid for g in simulated_gpus("4xH100", "0xm/2")})


def test_real_gpus_can_be_chosen_by_uuid(tmp_path: Path) -> None:
    found = take_inventory(config(gpus=("GPU-b",)), tmp_path, "o", Nvml(fake_nvml()))
    assert [gpu.uuid for gpu in found.gpus] == ["GPU-b"]
    assert not found.simulated
    assert found.cpu_milli >= 1000
    assert found.memory_mib > 0
    assert found.storage_mib > 0


def test_sizes_of_the_configuration_win(tmp_path: Path) -> None:
    sizes = {"cpu_milli": 1, "memory_mib": 2, "storage_mib": 3}
    found = take_inventory(config(simulated="1xH100", **sizes), tmp_path, "o", None)
    assert found == Inventory(simulated_gpus("1xH100", "o/1"), 1, 2, 3)
    assert found.simulated


def test_a_node_of_the_tier_cpu_has_no_gpus_whatever_the_machine_has(tmp_path: Path) -> None:
    found = take_inventory(config(tier="CPU"), tmp_path, "o", Nvml(fake_nvml()))
    assert found.gpus == ()
    assert found.cpu_milli >= 1000


@pytest.mark.parametrize(
    ("asked", "nvml", "why"),
    [
        *(({"simulated": text}, None, "written as") for text in
          ("H100", "0xH100", "65xH100", "4 H100", "4xH100:2", "")),
        ({"simulated": "1xH1000"}, None, "did you mean H100"),
        ({"gpus": ("GPU-a", "GPU-z")}, Nvml(fake_nvml()), "GPU-z"),
        ({}, None, "simulated"),
        ({}, Nvml(fake_nvml(uuids=())), "simulated"),
    ],
)  # fmt: skip
def test_what_is_not_there_is_refused_and_never_simulated_unasked(
    tmp_path: Path, asked: dict[str, Any], nvml: Nvml | None, why: str
) -> None:
    with pytest.raises(InventoryError, match=why):
        take_inventory(config(**asked), tmp_path, "o", nvml)
