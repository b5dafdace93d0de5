"""The endpoint ``/chat`` of Gradio's API, by Gradio's own client."""

from __future__ import annotations

import base64
import itertools
import re
from collections.abc import Iterator

import httpx
import pytest
from deck_app import LOCAL_HTTP, DeckApp, Place, eventually
from gradio_client import Client

ANSWER = "".join(f"word{i} " for i in range(8))

# The client leaves its connections to the garbage collector.
pytestmark = pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning", "ignore::DeprecationWarning"
)


@pytest.fixture(scope="module")
def client(app: DeckApp) -> Iterator[Client]:
    found = Client(app.url, verbose=False, analytics_enabled=False, ssl_verify=False)
    yield found
    found.close()


def requests_in(app: DeckApp, model: str) -> float:
    text = httpx.get(f"{app.server(model)['base_url']}/metrics", **LOCAL_HTTP).text
    found = re.search(r"^vllm:num_requests_running\{.*\} ([\d.]+)$", text, re.MULTILINE)
    assert found
    return float(found[1])


def test_only_the_chat_is_offered(app: DeckApp) -> None:
    """Events of the page are no interface."""
    found = app.get("/gradio_api/info")
    assert list(found["named_endpoints"]) == ["/chat"]
    assert found["unnamed_endpoints"] == {}
    names = [parameter["parameter_name"] for parameter in found["named_endpoints"]["/chat"]["parameters"]]
    assert names[:2] == ["message", "model"]


def test_answer_grows(stopped: DeckApp, client: Client) -> None:
    job = client.submit("Hello", "late", api_name="/chat")  # starts it first
    assert job.result(timeout=60) == ANSWER
    assert stopped.server("late")["state"] == "ready"
    outputs = job.outputs()
    assert all(later.startswith(earlier) for earlier, later in itertools.pairwise(outputs))


def test_parameters_reach_the_model(stopped: DeckApp, client: Client) -> None:
    stopped.place.add_model("echo", echo=1)
    stopped.start("echo")
    text = client.predict(
        message="Hello", model="echo", system_prompt="Be brief.", temperature=0.25, max_tokens=50, api_name="/chat"
    )
    assert '"temperature": 0.25' in text
    assert '"max_tokens": 50' in text
    assert '"content": "Be brief."' in text
    assert "top_p" not in text


@pytest.mark.parametrize(
    ("model", "said"),
    [("nosuch", "There is no model 'nosuch'"), ("broken", "vLLM ended before it served")],
)
def test_failure_is_readable(stopped: DeckApp, client: Client, model: str, said: str) -> None:
    with pytest.raises(Exception, match=said):
        client.predict("Hello", model, api_name="/chat")


def test_message_too_long_is_readable(stopped: DeckApp, client: Client) -> None:
    stopped.start("small")
    with pytest.raises(Exception, match="the model's context holds 600"):
        client.predict("word " * 700, "small", api_name="/chat")


def test_several_are_answered_at_once(stopped: DeckApp, client: Client) -> None:
    """Not one after the other, as Gradio's default would be."""
    stopped.start("slow")
    jobs = [client.submit("Hello", "slow", api_name="/chat") for _ in range(6)]
    eventually(lambda: requests_in(stopped, "slow") == 6, "all requests in vLLM at the same time")
    for job in jobs:
        job.cancel()
    eventually(lambda: requests_in(stopped, "slow") == 0, "the end of what was cancelled")


def test_nobody_fills_the_disk_with_files(app: DeckApp) -> None:
    response = app.http.post("/gradio_api/upload", files={"files": ("x.txt", b"x" * 1000)})
    assert response.status_code >= 400
    assert list(app.place.tmpdir.rglob("x.txt")) == []


def test_client_that_goes_away_ends_its_request(stopped: DeckApp) -> None:
    stopped.start("slow")
    event = next(event["id"] for event in stopped.get("/config")["dependencies"] if event["api_name"] == "chat")
    data = ["Hello", "slow", "", None, None, None, None, None]
    stopped.post("/gradio_api/queue/join", {"data": data, "fn_index": event, "session_hash": "goes-away"})
    with stopped.http.stream("GET", "/gradio_api/queue/data?session_hash=goes-away") as response:
        lines = response.iter_lines()
        eventually(lambda: "word0" in next(lines), "the first words")
        assert requests_in(stopped, "slow") == 1
    eventually(lambda: requests_in(stopped, "slow") == 0, "the end of the request in vLLM")


@pytest.mark.slow
def test_needs_a_login_and_keeps_to_the_role(tmp_path_factory: pytest.TempPathFactory) -> None:
    place = Place(tmp_path_factory.mktemp("guarded"))
    place.add_model("quick")
    place.add_model("slow", tokens_per_second=5, answer_tokens=500)
    users = place.home / "users"
    for name, role in (("olga", "operator"), ("ulf", "user")):
        place.command("add-user", name, "--role", role, "--auth", str(users), stdin="a password\n")
    app = DeckApp(place, "--auth", str(users), env={"DECK_CHATS_PER_USER": "1"}).wait_until_up()
    try:
        with pytest.raises(Exception, match=r"401|login|Log in"):
            Client(app.url, verbose=False, analytics_enabled=False, ssl_verify=False)

        def of(name: str) -> Client:
            basic = base64.b64encode(f"{name}:a password".encode()).decode()
            headers = {"Authorization": f"Basic {basic}"}
            return Client(app.url, headers=headers, verbose=False, analytics_enabled=False, ssl_verify=False)

        user, operator = of("ulf"), of("olga")
        with pytest.raises(Exception, match="operator"):
            user.predict("Hello", "quick", api_name="/chat")
        assert operator.predict("Hello", "quick", api_name="/chat") == ANSWER
        assert user.predict("Hello", "quick", api_name="/chat") == ANSWER

        job = operator.submit("Hello", "slow", api_name="/chat")
        eventually(lambda: job.outputs(), "the first words")
        with pytest.raises(Exception, match="being answered already"):
            operator.predict("Hello", "quick", api_name="/chat")
        assert user.predict("Hello", "quick", api_name="/chat") == ANSWER, "another user's answers do not count"
        job.cancel()
        user.close()
        operator.close()
    finally:
        app.close()
        place.close()
