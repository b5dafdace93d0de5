"""What every telemetry source keeps to, and how one is chosen. A new source is covered by its file's existence."""

from __future__ import annotations

import json
import subprocess
import sys
from types import ModuleType
from typing import Any

import pytest

from server_manager import telemetry
from server_manager.errors import TelemetryError
from server_manager.telemetry.base import DeviceSnapshot


@pytest.mark.parametrize("module", telemetry.probe_modules(), ids=lambda module: module.__name__)
def test_a_source_opens_or_says_why_not(module: ModuleType) -> None:
    assert isinstance(module.PRIORITY, int)
    assert module.__doc__
    try:
        probe = module.open_probe()
    except TelemetryError as error:
        reason = str(error)
        probe = None
    if probe is None:
        assert reason.endswith(".")
        return
    try:
        devices = probe.read()
        assert devices
        assert all(isinstance(device, DeviceSnapshot) for device in devices)
    finally:
        probe.close()
        probe.close()


def test_nvml_is_found_by_its_file_name() -> None:
    assert "server_manager.telemetry.nvml" in [module.__name__ for module in telemetry.probe_modules()]


def test_no_vendor_library_is_loaded_until_a_probe_is_opened() -> None:
    script = (
        "import json, sys; from server_manager import telemetry; telemetry.probe_modules(); "
        "print(json.dumps('pynvml' in sys.modules))"
    )
    loaded = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout
    assert json.loads(loaded) is False


class Source(ModuleType):
    """A probe module that opens, or fails with ``error``."""

    def __init__(self, name: str, error: TelemetryError | None = None) -> None:
        super().__init__(name)
        self.error = error

    def open_probe(self) -> Any:
        if self.error:
            raise self.error
        return self.__name__


ABSENT = TelemetryError("No X driver is installed.", absent=True)
BROKEN = TelemetryError("The Y driver is broken.", "Reboot.")


def test_the_first_source_that_opens_wins() -> None:
    assert telemetry.open_probe([Source("a", ABSENT), Source("b"), Source("c")]) == "b"


def test_a_broken_driver_is_reported_rather_than_an_absent_one() -> None:
    with pytest.raises(TelemetryError) as caught:
        telemetry.open_probe([Source("a", ABSENT), Source("b", BROKEN)])
    assert str(caught.value) == "The Y driver is broken. Reboot."


def test_a_machine_without_any_device_gets_every_reason() -> None:
    with pytest.raises(TelemetryError) as caught:
        telemetry.open_probe([Source("a", ABSENT), Source("b", TelemetryError("No Y driver.", absent=True))])
    assert str(caught.value) == "No X driver is installed. No Y driver."
    assert caught.value.facts["absent"] is True
