"""Specs, the arguments made from them, and shell lines there and back. ``test_vllm_parser.py`` asks vLLM itself."""

from __future__ import annotations

import random
import shlex
from pathlib import Path

import pytest

from server_manager import flags
from server_manager.catalogue import Catalogue
from server_manager.errors import SpecError
from server_manager.model_spec import ModelSpec, name_for
from server_manager.secret_mask import is_secret
from server_manager.shell_line import parse_shell_line, shell_line


@pytest.mark.parametrize("name", ["Qwen3-0.6B", "a", "A_b.c-d", "7", "x" * 128])
def test_good_names(name: str) -> None:
    assert ModelSpec(name, "org/model").name == name


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "../x", "a/b", "a\\b", ".hidden", "-rf", "a b", "a\n", "模型", "a\0", "x" * 129, "defaults", "~"],
)
def test_hostile_names(name: str) -> None:
    with pytest.raises(SpecError) as caught:
        ModelSpec(name, "org/model")
    assert caught.value.facts["key"] == "name"


@pytest.mark.parametrize("model", ["", " ", "--trust-remote-code", "-x", "a\0b", "\ud800"])
def test_hostile_models(model: str) -> None:
    with pytest.raises(SpecError):
        ModelSpec("x", model)


@pytest.mark.parametrize(
    ("options", "args"),
    [
        ({"max-model-len": 2048}, ["--max-model-len", "2048"]),
        ({"max_model_len": "auto"}, ["--max-model-len", "auto"]),
        ({"enforce-eager": True}, ["--enforce-eager"]),
        ({"enable_prefix_caching": False}, ["--no-enable-prefix-caching"]),
        ({"no_enable_prefix_caching": True}, ["--no-enable-prefix-caching"]),
        ({"disable-log-stats": False}, []),  # a switch without a --no- form
        ({"unheard-of": False}, []),
        ({"served-model-name": ["a", "b"]}, ["--served-model-name", "a", "b"]),
        ({"served-model-name": []}, []),
        ({"middleware": ["a.b", "c.d"]}, ["--middleware", "a.b", "--middleware", "c.d"]),
        ({"limit-mm-per-prompt": {"image": 4}}, ["--limit-mm-per-prompt", '{"image": 4}']),
        ({"tokenizer": None}, ["--tokenizer", "None"]),
        ({"compilation_config.pass_config.x": True}, ["--compilation-config.pass_config.x", "true"]),
        ({"seed": -1}, ["--seed", "-1"]),
        ({"watermark": -0.5}, ["--watermark=-0.5"]),
        ({"response-role": "--x y"}, ["--response-role=--x y"]),
    ],
)
def test_serve_args(options: dict[str, object], args: list[str]) -> None:
    assert ModelSpec("x", "org/model", options).serve_args() == ("org/model", *args)


def test_a_home_path_is_written_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/somewhere")
    assert ModelSpec("x", "~/models/a b").serve_args() == ("/somewhere/models/a b",)


def test_served_model_name() -> None:
    assert ModelSpec("x", "org/model").served_model_name == "org/model"
    assert ModelSpec("x", "org/model", {"served_model_name": "a"}).served_model_name == "a"
    assert ModelSpec("x", "org/model", {"served-model-name": ["b", "c"]}).served_model_name == "b"


def test_trust_remote_code_is_off_unless_asked_for() -> None:
    assert not ModelSpec("x", "org/model").trust_remote_code
    assert not ModelSpec("x", "org/model", {"trust-remote-code": False}).trust_remote_code
    assert ModelSpec("x", "org/model", {"trust_remote_code": True}).trust_remote_code


@pytest.mark.parametrize(
    ("env", "model", "source"),
    [
        ({}, "org/model", "huggingface"),
        ({"VLLM_USE_MODELSCOPE": "True"}, "org/model", "modelscope"),
        ({"VLLM_USE_MODELSCOPE": "1"}, "org/model", "modelscope"),
        ({"VLLM_USE_MODELSCOPE": "0"}, "org/model", "huggingface"),
        ({"HF_ENDPOINT": "https://hf-mirror.com"}, "org/model", "mirror"),
        ({"HF_ENDPOINT": "https://huggingface.co/"}, "org/model", "huggingface"),
        ({"VLLM_USE_MODELSCOPE": "1"}, "/data/model", "local"),
        ({}, "./model", "local"),
    ],
)
def test_source(env: dict[str, str], model: str, source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VLLM_USE_MODELSCOPE", raising=False)
    monkeypatch.delenv("HF_ENDPOINT", raising=False)
    assert ModelSpec("x", model, env=env).source == source


def test_the_apps_own_environment_decides_what_the_spec_leaves_open(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_USE_MODELSCOPE", "1")
    assert ModelSpec("x", "org/model").source == "modelscope"
    assert ModelSpec("x", "org/model", env={"VLLM_USE_MODELSCOPE": "0"}).source == "huggingface"


def test_a_spec_cannot_be_changed_and_does_not_show_its_environment() -> None:
    spec = ModelSpec("x", "org/model", {"seed": 1}, {"HF_TOKEN": "hf_secret"})
    with pytest.raises(TypeError):
        spec.options["seed"] = 2  # type: ignore[index]
    assert "hf_secret" not in repr(spec)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("Qwen/Qwen3-8B", "Qwen3-8B"),
        ("/data/我的 模型/", "model"),
        ("/data/Qwen 7B (new)", "Qwen-7B-new"),
        ("../..", "model"),
        ("defaults", "model"),
        ("x" * 300, "x" * 128),
    ],
)
def test_name_for(text: str, name: str) -> None:
    assert name_for(text) == name
    ModelSpec(name_for(text), "m")


# Lines as people have them in their notes, and what they mean.
LINES: list[tuple[str, str, dict[str, object], dict[str, str]]] = [
    ("vllm serve Qwen/Qwen2-0.5B-Instruct", "Qwen/Qwen2-0.5B-Instruct", {}, {}),
    (
        "$ CUDA_VISIBLE_DEVICES=0,1 vllm serve Qwen/Qwen2.5-72B-Instruct-AWQ \\\n  -tp 2 "
        "--quantization=awq_marlin \\ \n    --gpu-memory-utilization 0.90 --no-enable-prefix-caching",
        "Qwen/Qwen2.5-72B-Instruct-AWQ",
        {
            "tensor-parallel-size": 2,
            "quantization": "awq_marlin",
            "gpu-memory-utilization": "0.90",
            "enable-prefix-caching": False,
        },
        {"CUDA_VISIBLE_DEVICES": "0,1"},
    ),
    (
        'python -m vllm.entrypoints.openai.api_server --model "/data/模型/我的 模型" '
        "--served-model-name qwen gpt-4 > l 2>&1 &",
        "/data/模型/我的 模型",
        {"served-model-name": ["qwen", "gpt-4"]},
        {},
    ),
    (
        "nohup python3 -u -m vllm.entrypoints.openai.api_server --port 8000 --host 0.0.0.0 --model=a/b --dtype half &",
        "a/b",
        {"port": 8000, "host": "0.0.0.0", "dtype": "half"},
        {},
    ),
    (
        """vllm serve --speculative-config '{"method": "ngram", "num_speculative_tokens": 3}' a/b """
        "--trust-remote-code",
        "a/b",
        {"speculative-config": {"method": "ngram", "num_speculative_tokens": 3}, "trust-remote-code": True},
        {},
    ),
    (
        """vllm serve a/b --default-chat-template-kwargs '{"enable_thinking": false, "name": "it'"'"'s 中文"}'""",
        "a/b",
        {"default-chat-template-kwargs": {"enable_thinking": False, "name": "it's 中文"}},
        {},
    ),
    (
        "export HF_ENDPOINT=https://hf-mirror.com\nvllm serve a/b --enforce-eager # it's slow otherwise",
        "a/b",
        {"enforce-eager": True},
        {"HF_ENDPOINT": "https://hf-mirror.com"},
    ),
    ("vllm serve --max-model-len 32k a/b -O3", "a/b", {"max-model-len": "32k", "optimization-level": 3}, {}),
    ("vllm serve a/b --a-new-flag x y --another=-1 --third", "a/b",
     {"a-new-flag": ["x", "y"], "another": -1, "third": True}, {}),
    ("vllm serve a/b --response-role=-x --seed -1", "a/b", {"response-role": "-x", "seed": -1}, {}),
    ("vllm serve a/b --enable-auto-tool-choice --tool-call-parser hermes --chat-template './t/my tpl.jinja'", "a/b",
     {"enable-auto-tool-choice": True, "tool-call-parser": "hermes", "chat-template": "./t/my tpl.jinja"}, {}),
    ("vllm serve a/b --lora-modules sql=/l/sql 'x=/l/a b' --enable_lora --max_lora_rank 64", "a/b",
     {"lora-modules": ["sql=/l/sql", "x=/l/a b"], "enable-lora": True, "max-lora-rank": 64}, {}),
    ("vllm serve a/b -cc.pass_config.fuse_norm_quant true --kernel-config.x+ a --kernel-config.x+ b,c", "a/b",
     {"compilation-config.pass_config.fuse_norm_quant": "true", "kernel-config.x+": "a,b,c"}, {}),
    ("(venv) me@host:~/x$ uv run vllm serve a/b --middleware m.a --middleware m.b", "a/b",
     {"middleware": ["m.a", "m.b"]}, {}),
    ("vllm serve a/b --chat-template '{% if a %}$x & `y` | \"z\" # <b>{% endif %}\nline 2'", "a/b",
     {"chat-template": "{% if a %}$x & `y` | \"z\" # <b>{% endif %}\nline 2"}, {}),
    ("VLLM_LOGGING_LEVEL='DEBUG' env A= /opt/venv/bin/vllm serve a/b\n--cudagraph-capture-sizes 1 2 4", "a/b",
     {"cudagraph-capture-sizes": [1, 2, 4]}, {"VLLM_LOGGING_LEVEL": "DEBUG", "A": ""}),
    ("vllm serve a/b --revision 0012 --max-num-seqs 64 --served-model-name true", "a/b",
     {"revision": "0012", "max-num-seqs": 64, "served-model-name": "true"}, {}),
]  # fmt: skip


@pytest.mark.parametrize(("text", "model", "options", "env"), LINES)
def test_pasted_lines(text: str, model: str, options: dict[str, object], env: dict[str, str]) -> None:
    spec = parse_shell_line(text)
    assert (spec.model, dict(spec.options), dict(spec.env)) == (model, options, env)


@pytest.mark.parametrize("multiline", [False, True])
@pytest.mark.parametrize("text", [line[0] for line in LINES])
def test_a_pasted_line_survives_the_file_and_the_line(text: str, multiline: bool, tmp_path: Path) -> None:
    spec = parse_shell_line(text, name="x")
    Catalogue(tmp_path).save(spec)
    read = Catalogue(tmp_path).get("x")
    assert (read.model, dict(read.options), dict(read.env)) == (spec.model, dict(spec.options), dict(spec.env))
    again = parse_shell_line(shell_line(("vllm", "serve", *read.serve_args()), read.env, multiline=multiline))
    assert again.serve_args() == spec.serve_args()
    assert again.env == spec.env


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "no command"),
        ("# only a comment", "no command"),
        ("ls -l", "not a command"),
        ("vllm bench serve", "not a command"),
        ("vllm serve", "no model"),
        ("docker run --gpus all vllm/vllm-openai:latest --model a/b", "container"),
        ("sudo docker run vllm/vllm-openai --model a/b", "container"),
        ("vllm serve a/b | tee log", "'|'"),
        ("vllm serve a/b && rm -rf /", "'&&'"),
        ("vllm serve a/b; rm -rf /", "';'"),
        ("vllm serve a/b\nvllm serve c/d", "second command"),
        ("vllm serve 'a/b", "never closed"),
        ("vllm serve a b", "left over"),
        ("vllm serve a/b --max-model-len --enforce-eager", "needs a value"),
        ("vllm serve a/b --enforce-eager=true", "switch"),
        ("vllm serve --config x.yaml", "--config"),
        ("vllm serve a/b -zz 3", "short form"),
    ],
)
def test_refused_lines(text: str, says: str) -> None:
    with pytest.raises(SpecError, match=says.replace("|", r"\|").replace("&&", "&&")):
        parse_shell_line(text)


def test_what_a_shell_would_replace_is_reported() -> None:
    spec = parse_shell_line("vllm serve $MODEL --tokenizer \"${DIR}/x\" --response-role '$ROLE'")
    assert [warning.split(" ")[0] for warning in spec.warnings] == ["$MODEL", "${DIR}"]


def test_a_repeated_flag_is_reported_and_the_last_counts() -> None:
    spec = parse_shell_line("vllm serve a/b --seed 1 --seed 2")
    assert spec.options == {"seed": 2}
    assert "twice" in spec.warnings[0]


def test_an_unknown_flag_is_kept_and_reported() -> None:
    spec = parse_shell_line("vllm serve a/b --max-modle-len 5")
    assert spec.serve_args() == ("a/b", "--max-modle-len", "5")
    assert "did you mean 'max-model-len'?" in spec.warnings[0]


def test_the_name_comes_from_the_served_name_else_the_model() -> None:
    assert parse_shell_line("vllm serve Qwen/Qwen3-8B").name == "Qwen3-8B"
    assert parse_shell_line("vllm serve /data/x --served-model-name mine other").name == "mine"
    assert parse_shell_line("vllm serve a/b", name="c").name == "c"


def test_secrets_are_not_in_the_line() -> None:
    spec = parse_shell_line(
        "HF_TOKEN=hf_1 MY_SECRET=s2 TOKENIZERS_PARALLELISM=false vllm serve a/b --api-key s3 s4 --hf-token=s5 --seed 6"
    )
    for multiline in (False, True):
        line = shell_line(("vllm", "serve", *spec.serve_args()), spec.env, multiline=multiline)
        assert not any(secret in line for secret in ("hf_1", "s2", "s3", "s4", "s5"))
        assert 'HF_TOKEN="$HF_TOKEN"' in line
        assert "TOKENIZERS_PARALLELISM=false" in line
        assert "--seed 6" in line
        again = parse_shell_line(line)
        assert again.options == {"seed": 6}
        assert again.env == {"TOKENIZERS_PARALLELISM": "false"}
    joined = ("vllm", "serve", "a/b", "--api-key=s3")
    assert "s3" not in shell_line(joined, {})


@pytest.mark.parametrize(("name", "secret"), [("HF_TOKEN", True), ("VLLM_API_KEY", True), ("AWS_SECRET_ACCESS", True),
                                              ("MAX_TOKENS", False), ("HF_HOME", False)])  # fmt: skip
def test_is_secret(name: str, secret: bool) -> None:
    assert is_secret(name) is secret


def _random_text(rng: random.Random) -> str:
    alphabet = "abcXYZ019 _-./:,;=&|<>$`'\"\\{}[]()#~*?!%@+\n\t中文é"
    return "".join(rng.choice(alphabet) for _ in range(rng.randint(0, 12)))


def _random_value(rng: random.Random, flag: flags.Flag) -> object:
    if flag.boolean:
        return rng.choice([True, False]) if flag.negatable else True
    if flag.json and rng.random() < 0.7:
        return {_random_text(rng): rng.choice([1, 0.5, True, None, [1, "a"], {"b": _random_text(rng)}])}
    scalars = [rng.randint(-9, 99999), round(rng.random(), 3), "x" + _random_text(rng), _random_text(rng) + "x"]
    if flag.takes == "many" and rng.random() < 0.6:
        return [rng.choice([3, "x" + _random_text(rng)]) for _ in range(rng.randint(2, 4))]
    return rng.choice(scalars)


@pytest.mark.parametrize("seed", range(60))
def test_random_specs_survive_the_file_and_the_line(seed: int, tmp_path: Path) -> None:
    rng = random.Random(seed)
    table = [flag for flag in flags.flag_table().flags if flag.name not in {"model", "config", "api-key", "hf-token"}]
    options = {flag.name: _random_value(rng, flag) for flag in rng.sample(table, rng.randint(0, 12))}
    env = {f"VAR_{index}": _random_text(rng) for index in range(rng.randint(0, 3))}
    spec = ModelSpec("x", "/m/" + _random_text(rng), options, env)
    Catalogue(tmp_path).save(spec)
    read = Catalogue(tmp_path).get("x")
    assert (read.model, dict(read.options), dict(read.env)) == (spec.model, dict(spec.options), dict(spec.env))
    line = shell_line(("vllm", "serve", *spec.serve_args()), spec.env, multiline=bool(seed % 2))
    again = parse_shell_line(line, name="x")
    assert again.serve_args() == spec.serve_args()
    assert again.env == spec.env
    if not seed % 2:
        assert tuple(shlex.split(line)[len(env) :]) == ("vllm", "serve", *spec.serve_args())
