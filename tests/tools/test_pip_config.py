"""pip's settings, as ``pip config list`` prints them, in uv's words."""

from __future__ import annotations

from pip_config import parse_pip_config, uv_environment

LISTING = """\
:env:.cert='/etc/ssl/company.pem'
:env:.default-timeout='180'
global.cert='/etc/ssl/other.pem'
global.extra-index-url='file:///one/simple file:///two/simple'
global.find-links='\\n/wheels\\n/more'
global.proxy='http://proxy.example:3128'
global.trusted-host='mirror.example'
install.index-url='https://name:secret@mirror.example/simple'
"""


def test_every_place_that_pip_looks_at_is_told_to_uv() -> None:
    env = uv_environment(parse_pip_config(LISTING), {"PATH": "/bin"})
    assert env == {
        "PATH": "/bin",
        "SSL_CERT_FILE": "/etc/ssl/company.pem",
        "UV_HTTP_TIMEOUT": "180",
        "UV_INDEX": "file:///one/simple file:///two/simple",
        "UV_INDEX_STRATEGY": "unsafe-best-match",
        "UV_FIND_LINKS": "/wheels,/more",
        "HTTP_PROXY": "http://proxy.example:3128",
        "HTTPS_PROXY": "http://proxy.example:3128",
        "UV_INSECURE_HOST": "mirror.example",
        "UV_DEFAULT_INDEX": "https://name:secret@mirror.example/simple",
    }


def test_the_environment_beats_the_install_section_and_that_the_global_one() -> None:
    listing = "global.index-url='a'\ninstall.index-url='b'\n"
    assert parse_pip_config(listing)["index-url"] == "b"
    assert parse_pip_config(listing + ":env:.index-url='c'\n")["index-url"] == "c"


def test_what_is_set_for_uv_itself_goes_first() -> None:
    env = uv_environment({"index-url": "from pip"}, {"UV_DEFAULT_INDEX": "from uv"})
    assert env["UV_DEFAULT_INDEX"] == "from uv"


def test_no_index_is_a_switch() -> None:
    assert uv_environment({"no-index": "true"}, {})["UV_NO_INDEX"] == "1"
    assert "UV_NO_INDEX" not in uv_environment({"no-index": "false"}, {})


def test_without_configuration_nothing_is_added() -> None:
    assert uv_environment({}, {"PATH": "/bin"}) == {"PATH": "/bin"}


def test_lines_of_other_kinds_are_passed_over() -> None:
    assert parse_pip_config("nonsense\nlist.format='columns'\n") == {}
