"""``/api/models`` and what belongs to it: files, preview, sources, secrets."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from deck_app import DeckApp

TOKEN = "hf_qwertzuiop0123456789"
KEY = "sk-asdfghjkl9876543210"
MASK = "••••••"


@pytest.fixture(autouse=True)
def tidy(app: DeckApp) -> Iterator[None]:
    """Each test begins and ends without the files that tests make."""
    yield
    for path in app.place.models_dir.iterdir():
        if path.stem in ("mine", "copy", "defaults", "wrong", "Qwen3-8B"):
            path.unlink()


def form(app: DeckApp, **more: Any) -> dict[str, Any]:
    return {"model": str(app.place.weights), **more}


def file_of(app: DeckApp, name: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((app.place.models_dir / f"{name}.yaml").read_text(encoding="utf-8"))
    return found


def env_of(app: DeckApp, name: str) -> str:
    path = app.place.models_dir / f"{name}.env"
    return path.read_text(encoding="utf-8") if path.exists() else ""


def entry(app: DeckApp, name: str) -> dict[str, Any]:
    return next(found for found in app.get("/api/models")["models"] if found["name"] == name)


# Looking


def test_catalogue_has_own_and_shipped_models(app: DeckApp) -> None:
    names = [model["name"] for model in app.get("/api/models")["models"]]
    assert names.index("quick") < names.index("Qwen2-0.5B-Instruct")
    assert entry(app, "quick")["source"] == "local"
    assert entry(app, "quick")["status"]["state"] == "stopped"
    assert app.get("/api/models")["problems"] == []


def test_model_comes_with_command_sampling_and_context(app: DeckApp) -> None:
    found = app.get("/api/models/small")
    assert found["command"] == f"vllm serve {app.place.weights} --served-model-name small --max-model-len 600"
    assert found["context_length"] == 4096
    assert found["sampling"]["temperature"] >= 0
    assert found["fields"]["max-model-len"] == 600
    assert not found["shipped"]


def test_recommended_sampling_is_that_of_the_models_own_file(app: DeckApp) -> None:
    path = app.place.weights / "generation_config.json"
    path.write_text('{"temperature": 0.42, "top_p": 0.77, "repetition_penalty": 1.05}')
    try:
        sampling = app.get("/api/models/quick")["sampling"]
    finally:
        path.unlink()
    assert (sampling["temperature"], sampling["top_p"], sampling["repetition_penalty"]) == (0.42, 0.77, 1.05)


def test_abilities_stand_with_a_model_its_server_and_in_the_list(app: DeckApp) -> None:
    app.place.add_model("mine", "chat-template: '{% if enable_thinking %}{{ messages }}{% endif %}'\n")
    found = entry(app, "mine")["abilities"]
    assert found == {"thinking": {"switch": True, "recommended": {"on": {}, "off": {}}}, "vision": False}
    assert app.get("/api/models/mine")["abilities"] == found
    assert app.server("mine")["abilities"] == found
    assert entry(app, "Qwen3-8B")["abilities"] == {"thinking": None, "vision": None}, "its files are not here"


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/api/models/nosuch"),
        ("DELETE", "/api/models/nosuch"),
        ("GET", "/api/servers/nosuch"),
        ("GET", "/api/servers/nosuch/logs"),
        ("POST", "/api/servers/nosuch/start"),
        ("POST", "/api/servers/nosuch/stop"),
        ("POST", "/api/servers/nosuch/sleep"),
        ("POST", "/api/servers/nosuch/wake"),
    ],
)
def test_unknown_model_is_404_and_names_the_known_ones(app: DeckApp, method: str, path: str) -> None:
    response = app.http.request(method, path)
    error = response.json()["error"]
    assert (response.status_code, error["code"]) == (404, "unknown_model")
    assert "nosuch" in error["message"]
    assert "quick" in error["next_step"]


def test_file_that_cannot_be_read_is_told_with_file_and_line(app: DeckApp) -> None:
    (app.place.models_dir / "wrong.yaml").write_text("model: x\nmax-model-len: [1, 2\n")
    problems = app.get("/api/models")["problems"]
    assert len(problems) == 1
    assert "models/wrong.yaml line 3" in problems[0]
    assert app.get("/api/snapshot")["servers"]
    assert entry(app, "quick")


# Saving


def test_save_and_look_again(app: DeckApp) -> None:
    options = {"served-model-name": "my name", "max-model-len": 2048, "gpu-memory-utilization": 0.5}
    saved = app.put("/api/models/mine", form(app, options=options, other_flags="--seed 7 --no-enable-prefix-caching"))
    assert file_of(app, "mine") == {
        "model": str(app.place.weights),
        "seed": 7,
        "no-enable-prefix-caching": True,
        "served-model-name": "my name",
        "max-model-len": 2048,
        "gpu-memory-utilization": 0.5,
    }
    found = app.get("/api/models/mine")
    assert {key: found[key] for key in saved} == saved
    assert found["fields"]["other_flags"] == "--seed 7 --no-enable-prefix-caching"
    assert found["fields"]["served-model-name"] == "my name"
    assert found["path"] == str(app.place.models_dir / "mine.yaml")


def test_what_is_shown_can_be_saved_again_unchanged(app: DeckApp) -> None:
    line = """--hf-overrides '{"a": [1, "two"]}' --enable-auto-tool-choice --lora-modules a=b c=d"""
    line += " --middleware x --middleware y"
    app.put("/api/models/mine", form(app, other_flags=line, options={"dtype": "float16"}, source="modelscope"))
    first, text = file_of(app, "mine"), env_of(app, "mine")
    fields = app.get("/api/models/mine")["fields"]
    again = {key: fields.pop(key) for key in ("model", "other_flags", "source", "mirror")}
    fields.pop("name")
    app.put("/api/models/mine", again | {"options": fields})
    assert file_of(app, "mine") == first
    assert env_of(app, "mine") == text


def test_whole_numbers_of_a_browser_stay_whole(app: DeckApp) -> None:
    app.put("/api/models/mine", form(app, options={"max-model-len": 4096.0, "gpu-memory-utilization": 1.0}))
    assert "max-model-len: 4096\n" in (app.place.models_dir / "mine.yaml").read_text()
    assert "--max-model-len 4096 " in app.get("/api/models/mine")["command"]


def test_preview_shows_the_command_and_writes_nothing(app: DeckApp) -> None:
    found = app.post("/api/models/mine/preview", form(app, options={"dtype": "auto"}, other_flags="--no-such-flag 3"))
    assert found["command"] == f"vllm serve {app.place.weights} --no-such-flag 3 --dtype auto"
    assert any("no-such-flag" in warning for warning in found["warnings"])
    assert not (app.place.models_dir / "mine.yaml").exists()
    app.get("/api/models/mine", 404)


def test_delete_removes_the_file_and_its_variables(app: DeckApp) -> None:
    app.put("/api/models/mine", form(app, env={"HF_TOKEN": TOKEN}))
    app.delete("/api/models/mine")
    assert not (app.place.models_dir / "mine.yaml").exists()
    assert not (app.place.models_dir / "mine.env").exists()
    app.get("/api/models/mine", 404)


def test_shipped_model_cannot_be_deleted_but_a_changed_one_goes_back(app: DeckApp) -> None:
    assert app.delete("/api/models/Qwen3-8B", 409)["error"]["code"] == "not_allowed"
    before = app.get("/api/models/Qwen3-8B")
    app.put("/api/models/Qwen3-8B", {"model": before["model"], "options": {"max-model-len": 1024}})
    assert app.get("/api/models/Qwen3-8B")["fields"]["max-model-len"] == 1024
    app.delete("/api/models/Qwen3-8B")
    assert app.get("/api/models/Qwen3-8B") == before


@pytest.mark.parametrize(
    ("name", "change", "key"),
    [
        ("mine", {"model": ""}, "model"),
        ("mine", {"model": "--flag"}, "model"),
        ("defaults", {}, "name"),
        (".hidden", {}, "name"),
        ("mine", {"options": {"dtype": ["a", "b"]}}, "dtype"),
        ("mine", {"options": {"enforce-eager": "perhaps"}}, "enforce-eager"),
        ("mine", {"options": {"a b": 1}}, "a b"),
        ("mine", {"other_flags": "--port"}, "port"),
        ("mine", {"other_flags": "--config x.yaml"}, None),
        ("mine", {"source": "mirror", "mirror": "hf-mirror.com"}, "mirror"),
        ("mine", {"env": {"A B": "1"}}, "env"),
        ("mine", {"env": {"A": "\0"}}, "env"),
    ],
)
def test_wrong_model_is_422_and_names_the_key(app: DeckApp, name: str, change: dict[str, Any], key: str | None) -> None:
    for method, path in (("PUT", f"/api/models/{name}"), ("POST", f"/api/models/{name}/preview")):
        response = app.http.request(method, path, json=form(app) | change)
        assert response.status_code == 422, response.text
        error = response.json()["error"]
        assert (error["code"], error.get("key")) == ("invalid_model", key)
        assert error["message"]
    assert not (app.place.models_dir / "mine.yaml").exists()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b'"text"',
        b'{"model": 3}',
        b'{"model": "x", "options": [1]}',
        b'{"model": "x", "env": {"A": 1}}',
        b'{"model": "x", "source": "elsewhere"}',
        b'{"model": "x", "options": {"max-model-len": 1e999}}',
        b'{"model": "x", "options": {"max-model-len": NaN}}',
        b'{"model": "x", "options": {"": 1}}',
        b'{"model": "x", "other_flags": "\'"}',
        b'{"model": "x", "other_flags": "; rm -rf /"}',
        b'{"model": "x\\ud800"}',
        b'\xff\xfe{"model": "x"}',
    ],
)
def test_wrong_body_is_422_with_a_message(app: DeckApp, content: bytes) -> None:
    response = app.http.put("/api/models/mine", content=content, headers={"Content-Type": "application/json"})
    assert response.status_code == 422, response.text
    assert len(response.json()["error"]["message"]) > 5
    assert not (app.place.models_dir / "mine.yaml").exists()


def test_name_cannot_leave_the_folder(app: DeckApp) -> None:
    for name in ("..%2Fmine", "%2E%2E%2Fmine", "a%2Fb", "..", "%00"):
        assert app.http.put(f"/api/models/{name}", json=form(app)).status_code in (404, 405, 422)
    assert not (app.place.models_dir.parent / "mine.yaml").exists()


def test_models_folder_that_cannot_be_written_is_said(app: DeckApp) -> None:
    folder, aside = app.place.models_dir, app.place.models_dir.with_name("aside")
    folder.rename(aside)
    folder.write_text("a file where the folder was")
    try:
        error = app.put("/api/models/mine", form(app), 507)["error"]
    finally:
        folder.unlink()
        aside.rename(folder)
    assert error["code"] == "state_dir"
    assert str(folder) in error["message"]
    assert "--models-dir" in error["next_step"]


# Pasting


def test_pasted_line_fills_the_form(app: DeckApp) -> None:
    line = f"HF_TOKEN={TOKEN} VLLM_USE_MODELSCOPE=True A=b vllm serve Qwen/Qwen3-8B --max-model-len 8k --seed 3"
    found = app.post("/api/parse", {"command": line})
    assert found["name"] == "Qwen3-8B"
    assert found["fields"]["max-model-len"] == "8k"
    assert found["fields"]["other_flags"] == "--seed 3"
    assert found["fields"]["source"] == "modelscope"
    # Unmasked: it has just come from there, and only the page can send it back when the form is saved.
    assert found["env"] == {"HF_TOKEN": TOKEN, "VLLM_USE_MODELSCOPE": "True", "A": "b"}
    assert TOKEN not in found["command"]


@pytest.mark.parametrize("line", ["", "ls", "vllm serve", "vllm serve x; rm -rf /", "docker run vllm", "vllm serve 'x"])
def test_line_that_is_no_command_of_vllm_is_422(app: DeckApp, line: str) -> None:
    error = app.post("/api/parse", {"command": line}, 422)["error"]
    assert error["code"] == "invalid_model"
    assert error["message"]


# Sources


@pytest.mark.parametrize(
    ("source", "mirror", "content", "shown"),
    [
        ("modelscope", "", "VLLM_USE_MODELSCOPE='True'\n", "modelscope"),
        (
            "mirror",
            "https://mirror.example",
            "VLLM_USE_MODELSCOPE='False'\nHF_ENDPOINT='https://mirror.example'\n",
            "mirror",
        ),
        (
            "huggingface",
            "",
            "VLLM_USE_MODELSCOPE='False'\nHF_ENDPOINT='https://huggingface.co'\n",
            "huggingface",
        ),
        ("default", "", "", "huggingface"),
    ],
)
def test_source_of_one_model(app: DeckApp, source: str, mirror: str, content: str, shown: str) -> None:
    body = {"model": "Qwen/Qwen2-0.5B-Instruct", "source": source, "mirror": mirror}
    app.put("/api/models/mine", body)
    assert env_of(app, "mine") == content
    found = app.get("/api/models/mine")
    assert (found["source"], found["fields"]["source"], found["fields"]["mirror"]) == (shown, source, mirror)


def test_source_of_all_models_and_one_that_differs(app: DeckApp) -> None:
    app.put("/api/models/mine", {"model": "Qwen/Qwen2-0.5B-Instruct", "source": "huggingface"})
    app.put("/api/source", {"source": "modelscope"})
    assert env_of(app, "defaults") == "VLLM_USE_MODELSCOPE='True'\n"
    assert app.get("/api/source") == {"source": "modelscope", "mirror": ""}
    assert entry(app, "Qwen3-8B")["source"] == "modelscope"
    assert entry(app, "mine")["source"] == "huggingface"
    app.put("/api/models/mine", {"model": "Qwen/Qwen2-0.5B-Instruct", "source": "default"})
    assert entry(app, "mine")["source"] == "modelscope"
    assert env_of(app, "mine") == ""
    app.put("/api/source", {"source": "mirror", "mirror": "https://mirror.example/"})
    assert entry(app, "mine")["source"] == "mirror"
    app.put("/api/source", {"source": "default"})
    assert app.get("/api/source")["source"] == "default"
    assert entry(app, "Qwen3-8B")["source"] == "huggingface"


def test_source_keeps_the_other_variables_of_all_models(app: DeckApp) -> None:
    (app.place.models_dir / "defaults.env").write_text(f"HF_TOKEN={TOKEN}\nHF_ENDPOINT=https://old.example\n")
    app.put("/api/source", {"source": "modelscope"})
    assert env_of(app, "defaults") == f"HF_TOKEN='{TOKEN}'\nVLLM_USE_MODELSCOPE='True'\n"


def test_wrong_source_is_422(app: DeckApp) -> None:
    assert app.put("/api/source", {"source": "mirror", "mirror": ""}, 422)["error"]["key"] == "mirror"
    assert "source" in app.put("/api/source", {"source": "elsewhere"}, 422)["error"]["message"]
    assert not (app.place.models_dir / "defaults.env").exists()


# Secrets


def test_token_is_kept_but_never_shown(app: DeckApp) -> None:
    app.put("/api/models/mine", form(app, env={"HF_TOKEN": TOKEN, "PLAIN": "text"}, other_flags=f"--api-key {KEY}"))
    path = app.place.models_dir / "mine.env"
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    found = app.get("/api/models/mine")
    assert found["env"] == {"HF_TOKEN": MASK, "PLAIN": "text"}
    assert found["options"] == {"api-key": MASK}
    everything = str(found) + str(app.get("/api/models")) + str(app.get("/api/snapshot"))
    assert TOKEN not in everything
    assert KEY not in everything
    # What was shown masked is sent back masked, or not at all: it stays.
    for env in ({"HF_TOKEN": MASK}, {}):
        flags = found["fields"]["other_flags"]
        again = app.put("/api/models/mine", form(app, env=env, other_flags=f"{flags} --seed 1"))
        assert TOKEN not in str(again)
        assert KEY not in str(again)
        assert f"HF_TOKEN='{TOKEN}'" in env_of(app, "mine")
        assert file_of(app, "mine")["api-key"] == KEY
    app.put("/api/models/mine", form(app, env={"HF_TOKEN": "another-one"}))
    assert "HF_TOKEN='another-one'" in env_of(app, "mine")
    assert "api-key" not in file_of(app, "mine")


def test_mask_alone_is_never_taken_for_a_secret(app: DeckApp) -> None:
    app.put("/api/models/mine", form(app, env={"HF_TOKEN": MASK}, other_flags=f"--api-key {MASK}"))
    assert file_of(app, "mine") == {"model": str(app.place.weights)}
    assert env_of(app, "mine") == ""


def test_copy_under_another_name_takes_the_masked_secrets_along(app: DeckApp) -> None:
    app.put("/api/models/mine", form(app, env={"HF_TOKEN": TOKEN, "PLAIN": "text"}, other_flags=f"--api-key {KEY}"))
    shown = app.get("/api/models/mine")
    body = form(app, env=shown["env"], other_flags=shown["fields"]["other_flags"], based_on="mine")
    copy = app.put("/api/models/copy", body)
    assert TOKEN not in str(copy)
    assert KEY not in str(copy)
    assert copy["env"] == {"HF_TOKEN": MASK, "PLAIN": "text"}
    assert env_of(app, "copy") == env_of(app, "mine") != ""
    assert file_of(app, "copy") == file_of(app, "mine")


def test_file_that_could_not_be_read_is_replaced_and_its_variables_stay(app: DeckApp) -> None:
    app.put("/api/models/mine", form(app, env={"HF_TOKEN": TOKEN}))
    before = env_of(app, "mine")
    (app.place.models_dir / "mine.yaml").write_text("model: [\n")
    assert app.put("/api/models/mine", form(app))["env"] == {"HF_TOKEN": MASK}
    assert env_of(app, "mine") == before
    # Variables that cannot be read are not written over either.
    (app.place.models_dir / "mine.env").write_text(f"HF_TOKEN={TOKEN}\nthis is no line\n")
    assert "mine.env line 2" in app.put("/api/models/mine", form(app), 422)["error"]["message"]
    assert TOKEN in env_of(app, "mine")


def test_what_is_set_of_switching_becomes_variables_and_comes_back(app: DeckApp) -> None:
    chosen = {"switchable": "no", "sleep_after": 2.5, "stop_after": 0}
    fields = app.put("/api/models/mine", form(app, **chosen))["fields"]
    assert {key: fields[key] for key in chosen} == chosen
    for line in ("DECK_SWITCHABLE='no'", "DECK_SLEEP_AFTER='2.5'", "DECK_STOP_AFTER='0'"):
        assert line in env_of(app, "mine")
    fields = app.put("/api/models/mine", form(app))["fields"]
    assert {key: fields[key] for key in chosen} == {"switchable": "", "sleep_after": None, "stop_after": None}
    assert "DECK_" not in env_of(app, "mine")
    app.put("/api/models/mine", form(app, sleep_after=-1), status=422)
