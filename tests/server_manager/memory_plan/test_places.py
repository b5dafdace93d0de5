"""On which GPUs a model may go, by what the user and the app's environment say."""

from __future__ import annotations

import pytest
from plan_worlds import GIB, gpu

from server_manager.memory_plan.places import Places, places_for
from server_manager.memory_plan.world import Device, host_device
from server_manager.telemetry.base import HostSnapshot

FOUR = tuple(gpu(index) for index in range(4))
MIXED = (gpu(0), gpu(1, name="A100"))


@pytest.mark.parametrize(
    ("options", "env", "inherited", "expected", "is_fixed"),
    [
        ({}, {}, {}, (0, 1, 2, 3), False),
        ({}, {}, {"CUDA_VISIBLE_DEVICES": "2,3"}, (2, 3), False),
        ({}, {"CUDA_VISIBLE_DEVICES": "3, 1"}, {"CUDA_VISIBLE_DEVICES": "0"}, (3, 1), True),
        ({}, {"CUDA_VISIBLE_DEVICES": "GPU-2"}, {}, (2,), True),
        ({"device-ids": "1,0"}, {}, {}, (1, 0), True),
        ({"device-ids": [1, 0]}, {}, {}, (1, 0), True),
        ({"device-ids": 2}, {}, {}, (2,), True),
        ({"device-ids": ["GPU-3"]}, {}, {}, (3,), True),
        ({"device-ids": "1"}, {}, {"CUDA_VISIBLE_DEVICES": "2,3"}, (3,), True),
        ({"device-ids": "2"}, {}, {"CUDA_VISIBLE_DEVICES": "2,3"}, None, True),
        ({}, {"CUDA_VISIBLE_DEVICES": ""}, {}, None, True),
        ({}, {"CUDA_VISIBLE_DEVICES": "MIG-abc"}, {}, None, True),
        ({}, {"CUDA_VISIBLE_DEVICES": "0,0"}, {}, None, True),
        ({"device-ids": "7"}, {}, {}, None, True),
    ],
)
def test_choice(
    options: dict[str, object],
    env: dict[str, str],
    inherited: dict[str, str],
    expected: tuple[int, ...] | None,
    is_fixed: bool,
) -> None:
    found = places_for(FOUR, options, env, inherited)
    assert found == (None if expected is None else Places(tuple(FOUR[index] for index in expected), is_fixed))


def test_numbers_of_unlike_gpus_mean_something_only_in_the_order_of_the_bus() -> None:
    """CUDA counts the fastest first, and NVML by the bus."""
    assert places_for(MIXED, {}, {"CUDA_VISIBLE_DEVICES": "1"}, {}) is None
    ordered = {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    assert places_for(MIXED, {}, {"CUDA_VISIBLE_DEVICES": "1"}, ordered) == Places(MIXED[1:], is_fixed=True)


def test_the_beginning_of_a_uuid_is_enough_if_it_is_one_gpus() -> None:
    long = (Device("GPU-aa1", 0, GIB, GIB), Device("GPU-ab2", 1, GIB, GIB))
    assert places_for(long, {}, {"CUDA_VISIBLE_DEVICES": "GPU-ab"}, {}) == Places(long[1:], is_fixed=True)
    assert places_for(long, {}, {"CUDA_VISIBLE_DEVICES": "GPU-a"}, {}) is None


def test_on_the_cpu_there_is_one_place() -> None:
    host = (host_device(HostSnapshot(4 * GIB, GIB, 3 * GIB, 0.0, 2)),)
    assert places_for(host, {}, {"CUDA_VISIBLE_DEVICES": ""}, {}) == Places(host)
