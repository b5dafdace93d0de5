"""How far a download is, seen in the folders into which it goes."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from server_manager.download_watch import Download, DownloadWatch, bytes_in, size, weights_bytes
from server_manager.downloads import download_folders

MB = 1_000_000


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    """A model's folder in Hugging Face's cache, with a configuration that was there before."""
    repo = tmp_path / "models--org--name"
    (repo / "blobs").mkdir(parents=True)
    (repo / "snapshots" / "abc").mkdir(parents=True)
    (repo / "blobs" / "c0ffee").write_bytes(b"x" * MB)
    (repo / "snapshots" / "abc" / "config.json").symlink_to("../../blobs/c0ffee")
    return repo


def test_a_download_grows_and_comes_to_rest(repo: Path) -> None:
    clock = Clock()
    watch = DownloadWatch([repo], clock)
    assert watch.read() is None, "what is there at the start is no download"
    with (repo / "blobs" / "beef.incomplete").open("wb") as blob:
        for second in range(1, 11):
            clock.now = second
            blob.write(b"y" * 2 * MB)
            blob.flush()
            found = watch.read()
            assert found is not None
            assert found.bytes_there == MB + second * 2 * MB
            assert found.bytes_fetched == second * 2 * MB
            assert found.bytes_per_s == pytest.approx(2 * MB)
    (repo / "blobs" / "beef.incomplete").rename(repo / "blobs" / "beef")
    (repo / "snapshots" / "abc" / "model.safetensors").symlink_to("../../blobs/beef")
    for second in range(11, 20):
        clock.now = second
        found = watch.read()
    assert found is not None
    assert found.bytes_there == 21 * MB, "links are not counted"
    assert found.bytes_per_s == 0


def test_a_file_made_in_full_size_and_filled_later_counts_as_far_as_it_is_filled(repo: Path) -> None:
    blob = repo / "blobs" / "beef.incomplete"
    with blob.open("wb") as file:
        file.truncate(100 * MB)
        file.write(b"z" * 4 * MB)
        file.flush()
        os.fsync(file.fileno())
    assert 5 * MB <= bytes_in([repo]) < 6 * MB


def test_folders_that_are_not_there(tmp_path: Path) -> None:
    watch = DownloadWatch([tmp_path / "none"], Clock())
    assert watch.read() is None
    assert watch.read() is None


def test_the_whole_size_comes_from_the_index(repo: Path) -> None:
    assert weights_bytes([repo]) is None
    index = repo / "snapshots" / "abc" / "model.safetensors.index.json"
    index.write_text('{"metadata": {"total_size": 15')
    assert weights_bytes([repo]) is None, "half written"
    index.write_text(json.dumps({"metadata": {"total_size": 15_200 * MB}}))
    assert weights_bytes([repo]) == 15_200 * MB


@pytest.mark.parametrize(
    ("download", "text", "eta_s"),
    [
        (Download(3_200 * MB, 3_200 * MB, 45 * MB, None), "3.2 GB, 45 MB/s", None),
        (Download(3_200 * MB, 3_200 * MB, 50 * MB, 15_200 * MB), "3.2 GB / 15.2 GB, 50 MB/s", 240.0),
        (Download(3_200 * MB, 200 * MB, 0, 15_200 * MB), "3.2 GB / 15.2 GB, 0 kB/s", None),
        (Download(900 * MB, 900 * MB, MB, 800 * MB), "900 MB, 1 MB/s", 0.0),
    ],
)
def test_what_is_said_of_it(download: Download, text: str, eta_s: float | None) -> None:
    assert str(download) == text
    assert download.eta_s == eta_s


def test_sizes_are_decimal_as_on_the_hubs() -> None:
    assert [size(n) for n in (0, 999_000, 1_000_000, 15_200_000_000)] == ["0 kB", "999 kB", "1 MB", "15.2 GB"]


@pytest.mark.parametrize(
    ("model", "download_dir", "env", "expected"),
    [
        ("org/na.me", None, {"HF_HUB_CACHE": "/hub"}, "/hub/models--org--na.me"),
        ("org/name", None, {"HF_HUB_CACHE": "", "HF_HOME": "/hf"}, "/hf/hub/models--org--name"),
        ("gpt2", "/data", {}, "/data/models--gpt2"),
        ("org/na.me", None, {"VLLM_USE_MODELSCOPE": "True", "MODELSCOPE_CACHE": "/ms"}, "/ms/models/org/na___me"),
        ("org/name", "/data", {"VLLM_USE_MODELSCOPE": "1"}, "/data/org/name"),
        ("/models/x", None, {}, None),
        ("../x/y", None, {}, None),
        ("a/b/c", None, {}, None),
    ],
)
def test_where_a_model_is_downloaded_to(
    model: str, download_dir: str | None, env: dict[str, str], expected: str | None
) -> None:
    folders = download_folders(model, download_dir=download_dir, env=env)
    assert (Path(expected) in folders) if expected else (folders == ())
