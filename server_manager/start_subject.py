"""What decides how long a start takes: the model, the flags and variables that matter, vLLM and the machine."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from server_manager.downloads import download_folders
from server_manager.secret_mask import is_secret
from server_manager.telemetry.base import DeviceSnapshot

_WITHOUT_INFLUENCE = frozenset(
    {
        "host", "port", "served-model-name", "api-key", "hf-token", "shutdown-timeout", "root-path",
        "disable-access-log-for-endpoints", "chat-template", "chat-template-content-format", "response-role",
        "default-chat-template-kwargs", "reasoning-parser", "enable-auto-tool-choice", "tool-call-parser",
        "generation-config", "override-generation-config", "stream-interval", "max-log-len", "log-level",
        "disable-log-stats", "enable-log-requests", "disable-log-requests", "uvicorn-log-level",
        "enable-per-request-metrics", "enable-prompt-tokens-details", "enable-force-include-usage",
        "allowed-origins", "allowed-methods", "allowed-headers", "allow-credentials", "enable-request-id-headers",
        "enable-server-load-tracking",
    }
)  # fmt: skip
_DECIDES_COMPILING = (
    "enforce-eager", "optimization-level", "O", "compilation-config", "load-format", "quantization",
    "tensor-parallel-size", "pipeline-parallel-size",
)  # fmt: skip
WEIGHTY: Mapping[str, int] = dict.fromkeys(_DECIDES_COMPILING, 1000) | {"vllm": 100, "dtype": 100, "max-model-len": 10}
"""How much a difference counts when the nearest earlier start is looked for; others count 1."""
_INHERITED = ("VLLM_", "TORCH", "NCCL_", "CUDA_", "OMP_NUM_THREADS", "SAFETENSORS_FAST_GPU")
"""Beginnings of the variables of the app's own environment that matter."""


@dataclass(frozen=True, slots=True)
class StartSubject:
    """Two starts with equal subjects take equally long, but for what lies in caches."""

    model: str
    device: str
    """The GPUs' names, or the processor."""
    features: Mapping[str, str]
    """Flags, variables and vLLM's version, their values hashed: a variable may hold a password."""
    downloads_to: tuple[Path, ...] = field(default=(), compare=False)
    """Where a hub's model is put when it is downloaded; empty for a local one."""


def start_subject(
    model: str,
    options: Mapping[str, object],
    env: Mapping[str, str],
    *,
    devices: Sequence[DeviceSnapshot],
    vllm_python: str,
) -> StartSubject:
    """``options`` and ``env`` are those of the plan, with what we add to the model's own."""
    chosen = {name: value for name, value in options.items() if name not in _WITHOUT_INFLUENCE}
    variables = {name: value for name, value in os.environ.items() if name.startswith(_INHERITED)} | dict(env)
    features = {name: _hash(value) for name, value in (*chosen.items(), *variables.items()) if not is_secret(name)}
    features["vllm"] = _hash(vllm_version(vllm_python))
    offline = {**os.environ, **env}.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}
    download_dir = str(options.get("download-dir") or "") or None
    folders = () if offline else download_folders(model, download_dir=download_dir, env=env)
    return StartSubject(model, device_name(devices), features, folders)


def device_name(devices: Sequence[DeviceSnapshot]) -> str:
    """ "2 x NVIDIA H100 80GB HBM3", or "CPU, 16 cores"."""
    names = sorted(device.name or "GPU" for device in devices)
    if not names:
        return f"CPU, {os.cpu_count()} cores"
    return ", ".join(f"{names.count(name)} x {name}" for name in dict.fromkeys(names))


def vllm_version(python: str) -> str:
    """The version of the vLLM that an interpreter's environment has, by its folder's name; empty where unknown.

    Asking vLLM itself takes 10 s.
    """
    program = shutil.which(python)
    if program is None:
        return ""
    # Not resolved: the interpreter of a virtual environment is a link to the system's.
    folders = Path(program).parent.parent.glob("lib/python3*/site-packages/vllm*.dist-info")
    found = sorted(match[1] for folder in folders if (match := re.match(r"vllm(?:_cpu)?-(.+)\.dist-info", folder.name)))
    return found[-1] if found else ""


def _hash(value: object) -> str:
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]
