"""From a model file to the process: what is added, what is refused, and what is shown of it."""

from __future__ import annotations

import shlex
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from server_manager.errors import SpecError
from server_manager.launch_plan import LaunchPlan, make_plan
from server_manager.model_spec import ModelSpec
from server_manager.settings import Settings


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    found = tmp_path / "a model"
    found.mkdir()
    (found / "config.json").write_text("{}")
    return found


@pytest.fixture
def plain(tmp_path: Path) -> Settings:
    return Settings(tmp_path / "state", tmp_path / "models", ("/venv/bin/python", "-m", "vllm.entrypoints.cli.main"))


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield int(listener.getsockname()[1])


def plan_of(plain: Settings, model: object, *, cpu_only: bool = False, **options: object) -> LaunchPlan:
    written = {key.replace("_", "-"): value for key, value in options.items()}
    spec = ModelSpec("m", str(model), written)
    return make_plan(spec, plain, model=spec.model, cpu_only=cpu_only)


def arguments(plan: LaunchPlan) -> tuple[str, ...]:
    """What follows ``serve``."""
    return plan.request.argv[plan.request.argv.index("serve") + 1 :]


def value(plan: LaunchPlan, flag: str) -> str:
    return plan.request.argv[plan.request.argv.index(flag) + 1]


CPU_ONLY = ("--enforce-eager", "--kv-cache-memory-bytes", "--distributed-executor-backend")


def test_what_is_added_on_a_gpu(plain: Settings, folder: Path) -> None:
    plan = plan_of(plain, folder)
    assert plan.request.argv[:4] == (*plain.vllm_command, "serve")
    assert arguments(plan)[0] == str(folder)
    assert value(plan, "--host") == "127.0.0.1"
    assert value(plan, "--shutdown-timeout") == "10"
    assert "/health" in value(plan, "--disable-access-log-for-endpoints")
    assert not set(CPU_ONLY) & set(plan.request.argv)
    assert plan.shutdown_timeout == 10
    assert plan.request.log_path == plain.logs_dir / "m.log"


def test_what_is_added_on_a_cpu(plain: Settings, folder: Path) -> None:
    plan = plan_of(plain, folder, cpu_only=True)
    assert set(CPU_ONLY) <= set(plan.request.argv)
    assert value(plan, "--kv-cache-memory-bytes") == "512M"
    assert value(plan, "--distributed-executor-backend") == "uni"


def test_the_users_flags_win_on_a_cpu(plain: Settings, folder: Path) -> None:
    plan = plan_of(
        plain,
        folder,
        cpu_only=True,
        kv_cache_memory_bytes="2G",
        distributed_executor_backend="mp",
        enforce_eager=False,
        shutdown_timeout=33,
        disable_access_log_for_endpoints="/x",
        host="0.0.0.0",
    )
    assert value(plan, "--kv-cache-memory-bytes") == "2G"
    assert value(plan, "--distributed-executor-backend") == "mp"
    assert value(plan, "--disable-access-log-for-endpoints") == "/x"
    assert value(plan, "--host") == "127.0.0.1", "nobody reaches vLLM but through us"
    assert "--enforce-eager" not in plan.request.argv
    assert plan.shutdown_timeout == 33
    assert plan.request.argv.count("--shutdown-timeout") == plan.request.argv.count("--host") == 1


@pytest.mark.parametrize(
    ("options", "missing"),
    [
        ({"optimization_level": 1}, "--enforce-eager"),
        ({"compilation_config": {"level": 1}}, "--enforce-eager"),
        ({"gpu_memory_utilization": 0.3}, "--kv-cache-memory-bytes"),
        ({"tensor_parallel_size": 2}, "--distributed-executor-backend"),
        ({"pipeline_parallel_size": 2}, "--distributed-executor-backend"),
    ],
)
def test_nothing_is_added_on_a_cpu_that_contradicts(
    plain: Settings, folder: Path, options: dict[str, object], missing: str
) -> None:
    plan = plan_of(plain, folder, cpu_only=True, **options)
    assert set(CPU_ONLY) - set(plan.request.argv) == {missing}


def test_shutdown_timeout_that_is_no_number_is_left_to_vllms_parser(plain: Settings, folder: Path) -> None:
    plan = plan_of(plain, folder, shutdown_timeout="soon")
    assert value(plan, "--shutdown-timeout") == "soon"
    assert plan.shutdown_timeout == 10


def test_secrets_are_never_arguments(plain: Settings, folder: Path) -> None:
    spec = ModelSpec(
        "m",
        str(folder),
        {"api-key": "sk-mine", "hf-token": "hf_mine"},
        {"HF_TOKEN_PATH": "/x", "MY_SECRET": "s3cret", "OMP_NUM_THREADS": "2"},
    )
    plan = make_plan(spec, plain, model=spec.model, cpu_only=False)
    request = plan.request
    seen = " ".join((*request.argv, plan.command, *request.env, *request.env.values()))
    for secret in ("sk-mine", "hf_mine", "s3cret", "api-key", "hf-token"):
        assert secret not in seen
    assert request.secret_env["VLLM_API_KEY"] == "sk-mine"
    assert request.secret_env["HF_TOKEN"] == "hf_mine"
    assert request.secret_env["MY_SECRET"] == "s3cret"
    assert request.env["OMP_NUM_THREADS"] == "2"


def test_password_of_a_proxy_is_a_secret(plain: Settings, folder: Path) -> None:
    env = {"HTTPS_PROXY": "http://me:geheim@proxy:3128", "HTTP_PROXY": "http://proxy:3128"}
    spec = ModelSpec("m", str(folder), {"otlp-traces-endpoint": "http://me:geheim@trace:1"}, env)
    plan = make_plan(spec, plain, model=spec.model, cpu_only=False)
    assert plan.request.secret_env["HTTPS_PROXY"] == "http://me:geheim@proxy:3128"
    assert plan.request.env["HTTP_PROXY"] == "http://proxy:3128"
    assert "geheim" not in plan.command
    assert "http://me:geheim@trace:1" in plan.request.argv, "vLLM gets it as it is"


def test_the_login_token_is_a_flag_and_no_secret(plain: Settings, folder: Path) -> None:
    plan = plan_of(plain, folder, hf_token=True)
    assert "--hf-token" in plan.request.argv
    assert "HF_TOKEN" not in plan.request.secret_env


def test_each_start_has_another_key(plain: Settings, folder: Path) -> None:
    keys = {plan_of(plain, folder).request.secret_env["VLLM_API_KEY"] for _ in range(3)}
    assert len(keys) == 3
    assert min(map(len, keys)) >= 32


@pytest.mark.parametrize("cpu_only", [True, False])
def test_what_is_shown_is_what_is_started(plain: Settings, folder: Path, cpu_only: bool) -> None:
    spec = ModelSpec(
        "m",
        str(folder),
        {
            "served-model-name": ["a b", "ç"],
            "hf-overrides": {"x": "it's", "y": [1]},
            "enable-sleep-mode": True,
            "max-model-len": 2048,
        },
        {"OMP_NUM_THREADS": "2", "HF_TOKEN": "hf_mine"},
    )
    plan = make_plan(spec, plain, model=spec.model, cpu_only=cpu_only)
    words = shlex.split(plan.command)
    start = words.index("vllm")
    assert words[start : start + 2] == ["vllm", "serve"]
    assert tuple(words[start + 2 :]) == arguments(plan)
    shown = dict(word.split("=", 1) for word in words[:start])
    assert shown == plan.request.env
    assert plan.request.env["VLLM_SERVER_DEV_MODE"] == "1"


def test_model_from_another_place(plain: Settings, folder: Path) -> None:
    spec = ModelSpec("m", "org/model")
    plan = make_plan(spec, plain, model=str(folder), cpu_only=False)
    assert arguments(plan)[0] == str(folder)


def test_hub_id_is_not_looked_for_on_the_disk(plain: Settings) -> None:
    assert arguments(plan_of(plain, "org/model"))[0] == "org/model"


def test_missing_folder_is_named(plain: Settings, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=f"There is no folder {tmp_path}/nope"):
        plan_of(plain, tmp_path / "nope")


def test_folder_without_a_model_is_named(plain: Settings, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"has no config\.json") as caught:
        plan_of(plain, tmp_path)
    assert "*.safetensors" in caught.value.next_step


def test_mistral_folder_and_single_file_are_let_through(plain: Settings, tmp_path: Path) -> None:
    (tmp_path / "params.json").write_text("{}")
    plan_of(plain, tmp_path)
    (tmp_path / "model.gguf").write_text("")
    plan_of(plain, tmp_path / "model.gguf")


def test_taken_port_names_its_owner(plain: Settings, folder: Path, taken_port: int) -> None:
    with pytest.raises(SpecError, match=rf"Port {taken_port}.*is taken by .* \(pid \d+\)") as caught:
        plan_of(plain, folder, port=taken_port)
    assert "Remove `port`" in caught.value.next_step


def test_port_of_the_file_is_used(plain: Settings, folder: Path, taken_port: int) -> None:
    free = taken_port - 1 if taken_port > 1025 else taken_port + 1
    plan = plan_of(plain, folder, port=free)
    assert plan.request.port == free
    assert value(plan, "--port") == str(free)
    assert plan.request.argv.count("--port") == 1


def test_port_is_chosen_where_the_file_names_none(plain: Settings, folder: Path) -> None:
    ports = {plan_of(plain, folder).request.port for _ in range(5)}
    assert all(1024 < port < 65536 for port in ports)


@pytest.mark.parametrize("port", ["abc", 0, 70_000, -1, 1.5])
def test_bad_port(plain: Settings, folder: Path, port: object) -> None:
    with pytest.raises(SpecError, match="is not a port"):
        plan_of(plain, folder, port=port)


@pytest.mark.parametrize("flag", ["uds", "ssl-keyfile", "ssl-certfile", "root-path", "headless"])
def test_flags_behind_which_we_could_not_reach_it(plain: Settings, folder: Path, flag: str) -> None:
    spec = ModelSpec("m", str(folder), {flag: True if flag == "headless" else "/x"})
    with pytest.raises(SpecError, match=f"With --{flag} vLLM Deck could not reach m"):
        make_plan(spec, plain, model=spec.model, cpu_only=False)
