"""How large models are on a hub: asked in the background of a hub on the loopback address, once, and kept."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from server_manager.hub_sizes import HubSize, HubSizes
from server_manager.model_spec import ModelSpec

GIB = 1 << 30
FILES = {
    "config.json": 600,
    "model-00001-of-00002.safetensors": 10 * GIB,
    "model-00002-of-00002.safetensors": 4 * GIB,
    "pytorch_model.bin": 14 * GIB,
    "original/model.safetensors": 14 * GIB,
}


class Hub(ThreadingHTTPServer):
    """Answers as Hugging Face and ModelScope do, and knows what it was asked."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.asked: list[str] = []
        self.status = 200

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: Hub

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if "org/" not in path:  # something that a package asks for besides
            self.send_error(404)
            return
        self.server.asked.append(path)
        status = self.server.status if "missing" not in path else 404
        files = [{"rfilename": name, "size": size} for name, size in FILES.items()]
        entries = [{"Path": name, "Size": size, "Type": "blob"} for name, size in FILES.items()]
        document = {"id": "org/name", "siblings": files, "Code": 200, "Success": True, "Data": {"Files": entries}}
        body = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None: ...


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)  # may have been read before
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("MODELSCOPE_HOME", str(tmp_path))
    found = Hub()
    thread = threading.Thread(target=found.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield found
    found.shutdown()
    thread.join()
    found.server_close()


def model(hub: Hub, name: str = "org/name", **env: str) -> ModelSpec:
    return ModelSpec("m", name, env={"HF_ENDPOINT": hub.url, **env})


async def asked(sizes: HubSizes, *specs: ModelSpec) -> None:
    sizes.want(specs)
    await sizes.until_asked()


async def test_size_is_asked_once_and_kept(hub: Hub, tmp_path: Path) -> None:
    sizes, spec = HubSizes(tmp_path / "sizes.json"), model(hub)
    assert sizes.known(spec) is None, "and no request was made for it"
    await asked(sizes, spec)
    assert sizes.known(spec) == HubSize(14 * GIB, 14 * GIB), "without what vLLM does not download"
    assert sizes.version == 1
    await asked(sizes, spec)
    later = HubSizes(tmp_path / "sizes.json")
    assert later.weights_bytes(spec) == 14 * GIB
    await asked(later, spec)
    assert hub.asked == ["/api/models/org/name"]


async def test_modelscope_downloads_everything(hub: Hub, tmp_path: Path) -> None:
    sizes = HubSizes(tmp_path / "sizes.json")
    spec = model(hub, VLLM_USE_MODELSCOPE="True", MODELSCOPE_DOMAIN=hub.url)
    await asked(sizes, spec)
    assert sizes.known(spec) == HubSize(14 * GIB, sum(FILES.values()))
    assert all(path.startswith("/api/v1/models/org/name/repo/files") for path in hub.asked)


async def test_unknown_model_is_asked_for_no_more(hub: Hub, tmp_path: Path) -> None:
    sizes, spec = HubSizes(tmp_path / "sizes.json"), model(hub, "org/missing")
    for _ in range(2):
        await asked(sizes, spec)
    assert sizes.known(spec) is None
    assert len(hub.asked) == 1
    await asked(sizes, model(hub))
    assert len(hub.asked) == 2, "the hub does answer"


async def test_hub_that_does_not_answer_is_left_alone(hub: Hub, tmp_path: Path) -> None:
    hub.status = 502
    sizes = HubSizes(tmp_path / "sizes.json")
    await asked(sizes, model(hub), model(hub, "org/other"))
    await asked(sizes, model(hub))
    assert len(hub.asked) == 1
    assert sizes.known(model(hub)) is None


async def test_nobody_is_asked_offline_or_for_a_folder(hub: Hub, tmp_path: Path) -> None:
    sizes = HubSizes(tmp_path / "sizes.json")
    await asked(sizes, model(hub, HF_HUB_OFFLINE="1"), model(hub, "/models/org/name"))
    assert hub.asked == []


@pytest.mark.parametrize("text", ["", "[]", '{"models": [{"key": 1}, null]}', '{"models": 5}'])
def test_damaged_file_is_as_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "sizes.json").write_text(text)
    assert HubSizes(tmp_path / "sizes.json").known(ModelSpec("m", "org/name")) is None
