"""What is said of a start in which nothing moves any more: where it stands, for how long, and what hangs there."""

from __future__ import annotations

from server_manager.download_watch import size
from server_manager.errors import StartStalled
from server_manager.progress_watch import ProgressWatch
from server_manager.start_meter import StartMeter
from server_manager.start_phase import StartPhase

_USUAL = {
    StartPhase.IMPORT: "Python still imports vLLM. Usually the disk with the environment hangs (a network disk), or a "
    "GPU driver: see whether `nvidia-smi` comes back.",
    StartPhase.CONFIG: "It fetches the model's configuration and tokenizer. Usually the hub does not answer: choose "
    "another source, or set HF_HUB_OFFLINE=1 where the files are on this disk.",
    StartPhase.ENGINE: "vLLM's processes look for each other. Usually it is a GPU driver, or NCCL where there are "
    "several GPUs: see whether `nvidia-smi` comes back; start it with NCCL_DEBUG=INFO or NCCL_P2P_DISABLE=1, and give "
    "a container more shared memory (--shm-size).",
    StartPhase.DOWNLOAD: "It downloads the weights. What has come stays: start it again to go on from there, or choose "
    "another source.",
    StartPhase.WEIGHTS: "It reads the weights. Usually a network disk does not answer, or a download stands still.",
    StartPhase.COMPILE: "It compiles the model. Usually it waits for the lock of a compiler that was killed: delete "
    "the folder torch_compile_cache in VLLM_CACHE_ROOT (by default ~/.cache/vllm), or start it with enforce-eager.",
    StartPhase.KV_CACHE: "It measures the GPU's memory. Usually a driver hangs: look at `dmesg` for lines with Xid.",
    StartPhase.CUDA_GRAPHS: "It captures CUDA graphs. Usually it is a driver, or NCCL where there are several GPUs: "
    "start it with enforce-eager, which captures none.",
    StartPhase.SERVING: "The model is loaded, and its port does not answer. Usually something on this machine filters "
    "connections to 127.0.0.1.",
    StartPhase.FIRST_SLEEP: "It moves the weights to the machine's memory and back. Usually that memory is full; set "
    "DECK_SWITCHABLE=no in its .env file to serve it without sleep mode.",
}


def stalled_start(meter: StartMeter, watch: ProgressWatch) -> StartStalled:
    """The error, with figures."""
    reached, idle_s = meter.reached, watch.idle_s
    where = f"“{reached.phase}” ({reached.detail})" if reached.detail else f"“{reached.phase}”"
    figures = f"its last line was logged {watch.log_idle_s:.0f} s ago, its processes use {watch.cpu_cores:.2f} cores"
    if download := meter.download:
        figures += f", and {size(download.bytes_there)} of the model are on the disk"
    return StartStalled(
        f"Nothing has moved for {idle_s:.0f} s, in the phase {where}: {figures}.",
        f"{_USUAL.get(reached.phase, '')} Its log may say more.".strip(),
        phase=reached.phase,
        idle_s=idle_s,
    )
