"""What the gateway reads of a body, and that it changes nothing else in it."""

from __future__ import annotations

import json

import pytest

from server_manager.gateway_body import Asked, read_asked, with_model
from server_manager.gateway_errors import GatewayRefusal

JSON = "application/json"
FORM = 'multipart/form-data; boundary="--bound.ary"'


def form(*fields: tuple[str, bytes], file: bytes = b'RIFF\r\n\r\nname="model"\r\n') -> bytes:
    parts = [b'Content-Disposition: form-data; name="file"; filename="model"\r\nContent-Type: audio/wav\r\n\r\n' + file]
    parts += [f'Content-Disposition: form-data; name="{name}"\r\n\r\n'.encode() + value for name, value in fields]
    return b"".join(b"----bound.ary\r\n" + part + b"\r\n" for part in parts) + b"----bound.ary--\r\n"


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"", Asked()),
        (b"{}", Asked()),
        (b'{"model": "a"}', Asked("a")),
        (b' \n{"stream":true,"messages":[{"model":"no"}],"model":"a"}', Asked("a", True)),
        (b'{"stream":null,"model":null}', Asked()),
        (b'{"mod\\u0065l": "\\u6a21\\u578b"}', Asked("模型")),
        (b'{"model":"first","model":"last"}', Asked("last")),
        (b"[1, 2]", Asked()),
        (b"7", Asked()),
    ],
)
def test_model_and_stream_of_json(body: bytes, expected: Asked) -> None:
    assert read_asked(JSON, body) == expected


@pytest.mark.parametrize(
    "body", [b"{", b'{"model": "a"', b"model=a", b"\xff\xfe", b'{"model": "\xff"}', b'{"model": 5}']
)
def test_body_that_cannot_be_read_is_refused(body: bytes) -> None:
    with pytest.raises(GatewayRefusal) as found:
        read_asked(JSON, body)
    assert found.value.status == 400


def test_model_and_stream_of_a_form() -> None:
    body = form(("model", b"whisper"), ("stream", b"true"), ("language", b"en"))
    assert read_asked(FORM, body) == Asked("whisper", True)
    assert read_asked(FORM, form(("language", b"en"))) == Asked()
    assert read_asked(FORM, b"nothing of a form") == Asked()


def test_new_name_leaves_all_other_bytes_alone() -> None:
    """Large numbers, exponents, escapes and order would not survive decoding and encoding."""
    rest = b'"n":12345678901234567890123,"t":1.0e-1,"s":"\\u00e9\\/","o":{"model" : "inner",  "x":[1,2 ]}'
    changed = with_model(JSON, b'{"model":"mine",' + rest + b"}", 'a "quoted" 模型')
    assert rest in changed
    assert json.loads(changed)["model"] == 'a "quoted" 模型'
    assert json.loads(changed)["o"]["model"] == "inner"


def test_last_of_two_models_is_what_counts() -> None:
    assert json.loads(with_model(JSON, b'{"model":"a","x":1,"model":"b"}', "c")) == {"model": "c", "x": 1}


def test_new_name_in_a_form_leaves_the_file_alone() -> None:
    body = form(("language", b"en"), ("model", b"mine"))
    assert with_model(FORM, body, "theirs") == body.replace(b"\r\n\r\nmine\r\n", b"\r\n\r\ntheirs\r\n")
    assert with_model(FORM, form(("language", b"en")), "theirs") == form(("language", b"en"))
