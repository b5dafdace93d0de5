"""What is masked before people see it, and what must not be."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import pytest
from processes import VLLM_LOGS

from server_manager.secret_mask import SecretMask, is_secret, without_passwords
from server_manager.server_state import ExitCause, ServerExit

HF = "hf_" + "AbCdEfGhIj" * 3 + "KlMn"
NOTHING: Mapping[str, str] = MappingProxyType({})


def mask(text: str, *known: str, env: Mapping[str, str] = NOTHING) -> str:
    return SecretMask(known, env).text(text)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f"token {HF} is wrong", "token hf_…(masked) is wrong"),
        (f"HF_TOKEN={HF}", "HF_TOKEN=hf_…(masked)"),
        (f"https://{HF}@huggingface.co/x", "https://hf_…(masked)@huggingface.co/x"),
        ("sk-proj-abcdefghij0123456789", "sk-…(masked)"),
        ("'Authorization': 'Bearer abcdef0123456789'", "'Authorization': 'Bearer …(masked)'"),
        (f"authorization: bearer {HF}", "authorization: bearer hf_…(masked)"),
        (
            "non-default args: {'api_key': ['s3cret'], 'port': 1}",
            "non-default args: {'api_key': ['…(masked)'], 'port': 1}",
        ),
        ("Namespace(api_key='s3cret', host=None)", "Namespace(api_key='…(masked)', host=None)"),
        ('{"api_key": "s3cret"}', '{"api_key": "…(masked)"}'),
        ("vllm serve m --api-key s3cret --port 1", "vllm serve m --api-key …(masked) --port 1"),
        ("vllm serve m --hf-token=abcdef", "vllm serve m --hf-token=…(masked)"),
        ("OPENAI_API_KEY=s3cret-s3cret", "OPENAI_API_KEY=…(masked)"),
        ("password='hunter2'", "password='…(masked)'"),
        ("AWS AKIAIOSFODNN7EXAMPLE used", "AWS AKIA…(masked) used"),
        ("aws_secret_access_key=wJalrXUtnFEMI/K7MDENG/bPxRfiCY", "aws_secret_access_key=…(masked)"),
        ("ghp_" + "a1B2" * 9, "ghp_…(masked)"),
        ("ms-12345678-abcd-ef01-2345-0123456789ab", "ms-…(masked)"),
        ("proxy http://user:pa55@proxy:3128 refused", "proxy http://user:…(masked)@proxy:3128 refused"),
        ("GET /x?X-Amz-Signature=0123456789abcdef&x=1", "GET /x?X-Amz-Signature=…(masked)&x=1"),
        ("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.SflKxwRJSMeKKF2QT4", "…(masked)"),
    ],
)
def test_tokens_are_known_by_their_shape(text: str, shown: str) -> None:
    assert mask(text) == shown
    assert mask(shown) == shown, "a second time changes nothing"


@pytest.mark.parametrize(
    "text",
    [
        "api_key=None, hf_token=None, password: None",
        "'api_key': '$VLLM_API_KEY', token='<|endoftext|>'",
        "hf_transfer hf_hub hf_overrides={} hf_config_path='/models/a' hf_text_config",
        "task-0123456789abcdef0123 disk-usage sk-learn",
        "Bearer token required; Bearer authentication",
        "INFO 11-22 10:46:41 [api_server.py:12] http://127.0.0.1:8000/v1 and user@host:22",
        "eos_token_id=2, max_tokens=100, num_key_value_heads=3, KEY: value",
        "request chatcmpl-9f8e7d6c5b4a39281706f5e4d3c2b1a0 finished",
        "/root/.cache/huggingface/hub/models--Qwen--Qwen2-0.5B/snapshots/0123456789abcdef0123456789abcdef01234567",
        "time 12:34:56@gpu, 10.0.0.1:8000",
    ],
)
def test_normal_text_stays_as_it_is(text: str) -> None:
    assert mask(text) == text


@pytest.mark.parametrize("path", sorted(VLLM_LOGS.glob("*.log")), ids=lambda path: path.stem)
def test_real_logs_are_left_unchanged(path: Path) -> None:
    text = path.read_text(errors="replace")
    assert SecretMask().text(text) == text


def test_known_values_are_masked_wherever_they_stand() -> None:
    env = {"MY_TOKEN": "correct-horse-1", "HTTPS_PROXY": "http://me:p%40ssw0rd!@proxy:3128", "HOME": "/home/someone"}
    text = "x correct-horse-1y, url p%40ssw0rd! plain p@ssw0rd! key-of-server at /home/someone"
    assert mask(text, "key-of-server", env=env) == (
        "x …(masked)y, url …(masked) plain …(masked) …(masked) at /home/someone"
    )
    assert mask("a HF token: " + HF, HF) == "a HF token: hf_…(masked)"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("HF_TOKEN", "short"),
        ("HF_TOKEN_PATH", "/home/me/token-of-mine"),
        ("GOOGLE_APPLICATION_CREDENTIALS", "/home/me/credentials.json"),
        ("VLLM_KEY_CACHE_MODE", "sequential"),
        ("SECRET_BACKEND", "disabled"),
        ("KEY_BYTES", "10000000"),
        ("TOKENIZERS_PARALLELISM", "true-or-false"),
    ],
)
def test_values_that_are_no_secrets_do_not_spoil_the_log(name: str, value: str) -> None:
    assert mask(f"some text with {value} in it", env={name: value}) == f"some text with {value} in it"


def test_the_longer_of_two_secrets_goes_first() -> None:
    assert mask("abcdefgh-and-more", "abcdefgh", "abcdefgh-and-more") == "…(masked)"


@dataclass(frozen=True)
class Proof:
    line: str
    facts: Mapping[str, object]
    inner: tuple[object, ...] = ()


def test_reports_are_masked_at_any_depth() -> None:
    end = ServerExit(ExitCause.CRASHED, f"It said {HF}.", log_tail=("fine", f"Bearer {HF}"), returncode=1)
    shown = SecretMask((), {}).deep(end)
    assert shown == ServerExit(
        ExitCause.CRASHED, "It said hf_…(masked).", log_tail=("fine", "Bearer hf_…(masked)"), returncode=1
    )
    assert isinstance(shown.cause, ExitCause)
    proof = Proof(HF, {"n": 3, "text": HF}, (Proof(HF, {}), None))
    assert SecretMask((), {}).deep(proof) == Proof(
        "hf_…(masked)", {"n": 3, "text": "hf_…(masked)"}, (Proof("hf_…(masked)", {}), None)
    )


@pytest.mark.parametrize(
    ("name", "value", "secret"),
    [
        ("HF_TOKEN", "x", True),
        ("HTTPS_PROXY", "http://me:pass@proxy:1", True),
        ("HTTPS_PROXY", "http://proxy:1", False),
        ("HF_ENDPOINT", "https://mirror.example", False),
        ("HF_ENDPOINT", "https://u:p@mirror.example", True),
    ],
)
def test_a_password_in_a_url_makes_a_variable_secret(name: str, value: str, secret: bool) -> None:
    assert is_secret(name, value) is secret


def test_only_the_password_of_a_url_is_hidden() -> None:
    assert without_passwords("a http://me:p@ss is odd") == "a http://me:••••••@ss is odd"
    assert without_passwords("https://u:geheim@host:1/x?y=z") == "https://u:••••••@host:1/x?y=z"
    assert without_passwords("http://host:1/a:b@c") == "http://host:1/a:b@c"


def test_masking_a_large_log_is_one_pass() -> None:
    """Not quadratic, whatever stands in it."""
    for text in ("a" * 300_000, "hf_" * 100_000, "sk-" * 100_000, ":" * 300_000, "api_key=" * 40_000, "://" * 100_000):
        assert SecretMask().text(text) is not None
    line = f"INFO something {HF} done\n"
    assert not re.search(HF, SecretMask().text(line * 10_000))
