"""Logs over HTTP and on the command line: search, following, downloads, and no secret in any of them."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from deck_app import ROOT, DeckApp, Place, eventually

TOKEN = "hf_" + "AbCdEfGhIj" * 3


def write_log(place: Place, name: str, text: str) -> Path:
    """A log as a server could have left it. The model need not have been started."""
    place.add_model(name)
    path = place.state_dir / "logs" / f"{name}.log"
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    return path


def test_plain_text_as_it_always_was(app: DeckApp) -> None:
    write_log(app.place, "plain", "one\ntwo\nthree")
    assert app.get("/api/servers/plain/logs") == "one\ntwo\nthree\n"
    assert app.get("/api/servers/plain/logs?tail=2") == "two\nthree\n"
    app.place.add_model("fresh")
    assert app.get("/api/servers/fresh/logs") == ""


def test_search_gives_numbered_lines(app: DeckApp) -> None:
    write_log(app.place, "searched", "".join(f"line {n}\n" for n in range(1, 201)))
    assert app.get("/api/servers/searched/logs?search=LINE%20199") == "199: line 199\n"
    found = app.get("/api/servers/searched/logs?search=line&tail=4")
    assert found == "1: line 1\n2: line 2\n… 196 more …\n199: line 199\n200: line 200\n"
    assert app.get("/api/servers/searched/logs?search=nothing") == ""


def test_only_warnings(app: DeckApp) -> None:
    write_log(app.place, "warned", "INFO 11-22 10:09:42 [a.py:1] x\nWARNING 11-22 10:09:42 [a.py:1] y\nINFO:     z\n")
    assert app.get("/api/servers/warned/logs?level=warnings") == "2: WARNING 11-22 10:09:42 [a.py:1] y\n"


def test_only_what_is_new_travels(app: DeckApp) -> None:
    path = write_log(app.place, "followed", "one\nERROR 11-22 10:09:42 [a.py:1] two\n")
    first = app.get("/api/servers/followed/logs?format=json")
    assert [line[2:] for line in first["lines"]] == [["info", "one"], ["error", "ERROR 11-22 10:09:42 [a.py:1] two"]]
    with path.open("a") as log:
        log.write("three\nunfinished")
    second = app.get(f"/api/servers/followed/logs?format=json&since={first['cursor']}")
    assert second["continues"] is True
    assert [line[3] for line in second["lines"]] == ["three"]
    assert second["rest"] == "unfinished"
    assert second["bytes"] == path.stat().st_size
    around = app.get(f"/api/servers/followed/logs?format=json&from={second['lines'][0][0]}&tail=1")
    assert [line[3] for line in around["lines"]] == ["three"]


def test_run_before_is_kept_and_can_be_read(app: DeckApp) -> None:
    app.place.add_model("twice")
    app.start("twice")
    first = app.get("/api/servers/twice/logs?format=json")
    app.post("/api/servers/twice/stop")
    app.start("twice")
    app.post("/api/servers/twice/stop")
    current, previous = (app.get(f"/api/servers/twice/logs?format=json&run={run}") for run in ("current", "previous"))
    assert previous["run"] == first["run"] != current["run"]
    assert previous["lines"][0][3].startswith("vLLM Deck ")
    assert previous["lines"][:5] == first["lines"][:5]
    assert app.get("/api/servers/twice/logs?run=other", 422)


def test_download_is_the_whole_log_with_its_older_parts(app: DeckApp) -> None:
    path = write_log(app.place, "loaded", f"newest {TOKEN}\nend without a line break")
    Path(f"{path}.2").write_text("oldest\r\n 10%\r 20%\r\n")
    Path(f"{path}.1").write_bytes(b"middle \xff\n")
    response = app.http.get("/api/servers/loaded/logs/download")
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/plain")
    assert re.fullmatch(r'attachment; filename="loaded-20\d{6}\.log"', response.headers["content-disposition"])
    assert response.content == (
        b"oldest\r\n 10%\r 20%\r\nmiddle \xff\nnewest hf_\xe2\x80\xa6(masked)\nend without a line break"
    )
    error = app.get("/api/servers/loaded/logs/download?run=previous", 409)["error"]
    assert "no log of this run" in error["message"]


def test_long_log_is_downloaded_and_searched_whole(app: DeckApp) -> None:
    lines = "".join(f"(EngineCore pid=1) INFO 11-22 10:09:42 [core.py:1] line {n} of many\n" for n in range(300_000))
    path = write_log(app.place, "many-lines", lines)
    assert app.http.get("/api/servers/many-lines/logs/download").text == lines
    assert app.get("/api/servers/many-lines/logs?search=line%20299999%20") == f"300000: {lines.splitlines()[-1]}\n"
    path.unlink()


def test_secrets_do_not_leave(app: DeckApp) -> None:
    app.place.add_model("secretive")
    (app.place.models_dir / "secretive.env").write_text(
        f"HF_TOKEN={TOKEN}\nMY_SECRET=open-sesame-42\nHTTPS_PROXY=http://me:gEheim99@proxy:3128\n"
    )
    text = f"token {TOKEN}\nit is open-sesame-42\nproxy http://me:gEheim99@proxy:3128\npassword gEheim99 wrong\n"
    write_log_only = app.place.state_dir / "logs" / "secretive.log"
    write_log_only.write_text(text)
    shown = "token hf_…(masked)\nit is …(masked)\nproxy http://me:…(masked)@proxy:3128\npassword …(masked) wrong\n"
    assert app.get("/api/servers/secretive/logs") == shown
    assert app.http.get("/api/servers/secretive/logs/download").text == shown
    assert app.get("/api/servers/secretive/logs?search=sesame") == ""


def test_secrets_do_not_leave_by_the_report_of_a_failure(stopped: DeckApp) -> None:
    replay = stopped.place.state_dir / "replay.log"
    replay.write_text(f"(EngineCore pid=1) ERROR 11-22 10:09:42 [core.py:1] OSError: no access with {TOKEN} at all\n")
    stopped.place.add_model("telltale", exit_code=1, replay=replay)
    stopped.post("/api/servers/telltale/start", status=202)
    status = stopped.wait_for("telltale", "failed")
    assert "OSError: no access with hf_…(masked) at all" in status["exit"]["message"]
    assert TOKEN not in stopped.http.get("/api/snapshot").text


def test_password_of_a_proxy_is_masked_and_survives_a_save(app: DeckApp) -> None:
    app.place.add_model("proxied", "otlp-traces-endpoint: http://me:geheim-1@trace:4317\n")
    env_file = app.place.models_dir / "proxied.env"
    env_file.write_text("HTTPS_PROXY='http://me:geheim-2@proxy:3128'\nNO_PROXY='localhost'\n")
    found = app.get("/api/models/proxied")
    assert "geheim" not in str(found)
    assert found["env"]["HTTPS_PROXY"] == "http://me:••••••@proxy:3128"
    assert 'HTTPS_PROXY="$HTTPS_PROXY"' in found["command"]
    body = {"model": found["model"], "options": found["options"], "env": found["env"]}
    saved = app.put("/api/models/proxied", body)
    assert "geheim" not in str(saved)
    assert "http://me:geheim-2@proxy:3128" in env_file.read_text()
    assert "http://me:geheim-1@trace:4317" in (app.place.models_dir / "proxied.yaml").read_text()
    form = {"model": found["model"], "other_flags": found["fields"]["other_flags"], "env": found["env"]}
    app.put("/api/models/proxied", form)
    assert "http://me:geheim-1@trace:4317" in (app.place.models_dir / "proxied.yaml").read_text()
    # A new password is taken, half of an old one is not.
    app.put("/api/models/proxied", {**body, "env": {"HTTPS_PROXY": "http://me:new@proxy:3128"}})
    assert "http://me:new@proxy:3128" in env_file.read_text()
    error = app.put("/api/models/proxied", {**body, "env": {"HTTPS_PROXY": "http://me:••••••@other:1"}}, 422)["error"]
    assert "HTTPS_PROXY" in error["message"]


def test_password_of_a_mirror_is_masked_and_survives_a_save(app: DeckApp) -> None:
    app.place.add_model("mirrored")
    app.put(
        "/api/models/mirrored", {"model": "a/b", "source": "mirror", "mirror": "https://me:geheim-3@mirror.example"}
    )
    found = app.get("/api/models/mirrored")
    assert found["fields"]["mirror"] == "https://me:••••••@mirror.example"
    assert "geheim" not in str(found)
    body = {"model": "a/b", "source": "mirror", "mirror": found["fields"]["mirror"], "env": found["env"]}
    app.put("/api/models/mirrored", body)
    assert "geheim-3" in (app.place.models_dir / "mirrored.env").read_text()


def test_log_of_the_app_itself(stopped: DeckApp) -> None:
    stopped.start("quick")
    assert "quick: starting -> ready" in stopped.get("/api/log?search=quick:%20starting")
    assert stopped.get("/api/log?format=json&tail=1")["lines"][0][2] in ("info", "warning")


@pytest.mark.parametrize("path", ["logs", "logs/download", "logs?search=x&format=json"])
def test_there_is_no_log_of_what_there_is_not(app: DeckApp, path: str) -> None:
    assert app.get(f"/api/servers/nosuch/{path}", 404)["error"]["code"] == "unknown_model"


def test_command_line_searches_and_reads_the_run_before(app: DeckApp) -> None:
    path = write_log(app.place, "listed", "one\ntwo\nthree\n")
    Path(f"{path}.prev").write_text("before\n")
    assert app.place.command("logs", "listed", "--tail", "2").stdout == "two\nthree\n"
    assert app.place.command("logs", "listed", "--search", "TW").stdout == "2: two\n"
    assert app.place.command("logs", "listed", "--previous").stdout == "before\n"


def test_command_line_follows(app: DeckApp) -> None:
    path = write_log(app.place, "tracked", "one\n")
    out = app.place.tmpdir / "follow.txt"
    with out.open("w") as stdout:
        command = subprocess.Popen(
            app.place.arguments("logs", "tracked", "--follow"), cwd=ROOT, env=app.place.env, stdout=stdout
        )
    try:
        eventually(lambda: out.read_text() == "one\n", "what is there")
        with path.open("a") as log:
            log.write("two\n")
        eventually(lambda: out.read_text() == "one\ntwo\n", "what comes")
        path.replace(f"{path}.prev")
        path.write_text("a new run\n")
        eventually(lambda: out.read_text() == "one\ntwo\na new run\n", "the next run")
    finally:
        command.terminate()
        command.wait()
