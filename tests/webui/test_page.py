"""The page as it is built: its tabs, its words, and what it asks of other hosts (nothing)."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from deck_app import DeckApp

from server_manager import SAMPLING_PARAMS, ServerState, StartPhase
from webui import tabs
from webui.locales import LOCALES, messages

WEBUI = Path(tabs.__file__).resolve().parents[1]
SCRIPTS = sorted((WEBUI / "static").glob("*.js"))
MADE_KEYS = re.compile(r"""\bt\(\s*[`f]["']?(?P<start>[a-z_]*)(?:\$)?\{""")
"""A key that is put together: ``t(`state_${x}`)``, ``t(f"source_{x}")``."""


# Tabs


def test_tabs_are_found_in_order() -> None:
    found = tabs.discover()
    assert [tab.ID for tab in found][:4] == ["chat", "compare", "servers", "gpus"]
    assert [tab.ORDER for tab in found] == sorted({tab.ORDER for tab in found})
    assert len({tab.ID for tab in found}) == len(found)


@pytest.mark.parametrize("tab", tabs.discover(), ids=lambda tab: tab.ID)
def test_tab_keeps_the_contract(tab: tabs.TabModule) -> None:
    assert re.fullmatch(r"[a-z][a-z0-9-]*", tab.ID)
    assert all(tab.TITLE in messages()[locale] for locale in LOCALES)
    assert isinstance(tab.ORDER, int)
    assert callable(tab.build)


def test_every_tab_is_on_the_page(app: DeckApp) -> None:
    components = app.get("/config")["components"]
    shown = [item["props"]["id"] for item in components if item["type"] == "tabitem"]
    assert set(shown) >= {tab.ID for tab in tabs.discover()}


# Words


def test_languages_have_the_same_keys() -> None:
    found = messages()
    assert set(found["en"]) == set(found["zh-CN"])
    for key in found["en"]:
        placeholders = [set(re.findall(r"\{\w+\}", found[locale][key])) for locale in LOCALES]
        assert placeholders[0] == placeholders[1], key
        assert all(found[locale][key].strip() for locale in LOCALES), key


@pytest.mark.parametrize("locale", LOCALES)
def test_every_word_is_a_text_and_stands_once(locale: str) -> None:
    text = (WEBUI / "locales" / f"{locale}.yaml").read_text(encoding="utf-8")
    keys = [line.partition(":")[0] for line in text.splitlines() if line and not line.startswith(("#", " "))]
    assert len(keys) == len(set(keys))
    assert all(isinstance(value, str) for value in yaml.safe_load(text).values())  # `on: no` would be a switch


def used_keys() -> Iterator[tuple[str, str]]:
    """Every key that is asked for by its full name, with where that is."""
    for path in (*SCRIPTS, *WEBUI.rglob("*.py"), WEBUI / "static" / "login.html"):
        text = path.read_text(encoding="utf-8")
        for found in re.finditer(r"""\bt\(\s*(["'`])([a-z_0-9]+)\1|data-t=\\?["']([a-z_0-9]+)""", text):
            yield path.name, found[2] or found[3]
    for tab in tabs.discover():
        yield tab.ID, tab.TITLE


def test_every_key_that_is_used_is_there() -> None:
    missing = {(where, key) for where, key in used_keys() if key not in messages()["en"]}
    assert not missing
    assert len(set(used_keys())) > 50


def test_keys_that_are_put_together_are_there() -> None:
    known = set(messages()["en"])
    starts = {
        found["start"] for path in (*SCRIPTS, *WEBUI.rglob("*.py")) for found in MADE_KEYS.finditer(path.read_text())
    }
    assert {"state_", "cause_", "source_"} <= starts
    assert all(any(key.startswith(start) for key in known) for start in starts), starts
    assert {f"state_{state}" for state in ServerState} <= known
    assert {f"phase_{phase}" for phase in StartPhase} <= known
    assert {f"sampling_{row.name}" for row in SAMPLING_PARAMS} <= known
    assert {f"cause_{cause}" for cause in causes()} <= known


def causes() -> set[str]:
    tree = ast.parse((WEBUI.parent / "server_manager" / "server_state.py").read_text(encoding="utf-8"))
    enum = next(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "ExitCause")
    return {
        str(node.value.value)
        for node in enum.body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
    }


def test_no_word_is_left_over() -> None:
    used = {key for _, key in used_keys()}
    everything = "".join(path.read_text(encoding="utf-8") for path in (*SCRIPTS, *WEBUI.rglob("*.py")))
    starts = ("sampling_", *({found["start"] for found in MADE_KEYS.finditer(everything)} - {""}))
    quoted = set(re.findall(r"""["'`]([a-z_0-9]+)["'`]""", everything))
    left = {key for key in messages()["en"] if key not in used | quoted and not key.startswith(starts)}
    assert not left


def test_both_languages_reach_the_page(app: DeckApp) -> None:
    page = app.get("/")
    for locale in LOCALES:
        assert messages()[locale]["chat_placeholder"] in page


# Other hosts


def urls_in(text: str) -> set[str]:
    """What a browser would fetch: addresses in src, href of link, url(), import, fetch."""
    found = re.findall(
        r"""(?:src=|<link[^>]*href=|url\(|from(?=\s*["'])|import\(?(?=\s*["'])|fetch\(|xlink:href=)\s*["'(]?\s*((?:https?:)?//[^"'\s)>]+)""",
        text,
    )
    return {url for url in found if not re.match(r"(?:https?:)?//(?:127\.0\.0\.1|localhost)\b", url)}


@pytest.mark.parametrize("path", ["/", "/docs", "/login"])
def test_page_asks_no_other_host(app: DeckApp, path: str) -> None:
    assert urls_in(app.http.get(path, follow_redirects=True).text) == set()


def test_documentation_brings_its_own_files(app: DeckApp) -> None:
    page = app.get("/docs")
    assert re.findall(r"https?://", page) == []
    files = re.findall(r"""(?:src|href)=["']([^"']+)["']""", page)
    assert len(files) >= 3
    for file in (*files, "/openapi.json"):
        assert app.http.get(file).status_code == 200


def test_every_route_is_documented(app: DeckApp) -> None:
    paths: dict[str, dict[str, Any]] = app.get("/openapi.json")["paths"]
    assert {"/healthz", "/api/chat", "/api/snapshot", "/api/servers/{name}/start", "/api/models/{name}"} <= set(paths)
    for path, methods in paths.items():
        for method in methods.values():
            assert method.get("description"), path


@pytest.mark.parametrize("path", sorted((WEBUI / "static").rglob("*.*")), ids=lambda path: path.name)
def test_own_files_ask_no_other_host_and_are_served(app: DeckApp, path: Path) -> None:
    assert urls_in(path.read_text(encoding="utf-8", errors="replace")) == set()
    response = app.http.get(f"/deck/{path.relative_to(WEBUI / 'static').as_posix()}")
    assert response.status_code == 200
    assert response.headers["cache-control"] == "no-cache"
    again = app.http.get(str(response.url), headers={"If-None-Match": response.headers["etag"]})
    assert again.status_code == 304


def test_scripts_import_only_what_is_there() -> None:
    for path in SCRIPTS:
        for name in re.findall(r"""from ["'](\.[^"']+)["']""", path.read_text(encoding="utf-8")):
            assert (path.parent / name).is_file(), f"{path.name} imports {name}"


def test_form_of_a_model_is_the_same_in_script_and_page() -> None:
    """The script carries the fields by their order."""
    script = (WEBUI / "static" / "form.js").read_text(encoding="utf-8")
    in_script = re.findall(r'"([\w-]+)"', script.partition("const FIELDS = [")[2].partition("]")[0])
    page = (WEBUI / "tabs" / "servers.py").read_text(encoding="utf-8")
    names = re.search(r"fields = \[([^\]]+)\]", page)
    assert names
    on_page = re.findall(r"\w+", names[1])
    assert len(in_script) == len(on_page)
    labels = dict(re.findall(r"(\w+) = gr\.\w+\([^=]*?label=\"([\w-]+)\"", page))
    for field, variable in zip(in_script, on_page, strict=True):
        assert labels.get(variable, field) in (field, "HF_ENDPOINT"), (field, variable)


def test_browsers_are_told_to_ask_no_other_host_and_to_show_it_in_no_frame(app: DeckApp) -> None:
    """A model's answer may hold the address of an image; another site may put the page into a frame."""
    for path in ("/", "/api/snapshot", "/deck/main.js"):
        policy = app.http.get(path).headers["content-security-policy"]
        assert "img-src 'self'" in policy
        assert "frame-ancestors 'self'" in policy
