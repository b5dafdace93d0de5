"""API keys: made, counted, revoked; and what of them lies on the disk."""

from __future__ import annotations

import re
import stat
from pathlib import Path

import pytest

from server_manager import SpecError
from webui import Access, add_user
from webui.api_keys import ApiKeys, add_key, keys_path, list_keys, revoke_key


@pytest.fixture
def users(tmp_path: Path) -> Path:
    path = tmp_path / "users.txt"
    add_user(path, "olga", "operator", "correct horse")
    add_user(path, "ulf", "user", "battery staple")
    return path


def test_key_is_long_and_only_its_hash_is_kept(users: Path) -> None:
    key = add_key(users, "olga")
    assert re.fullmatch(r"sk-deck-[0-9a-f]{64}", key)
    text = keys_path(users).read_text()
    assert key not in text
    assert key.removeprefix("sk-deck-")[8:] not in text
    assert stat.S_IMODE(keys_path(users).stat().st_mode) == 0o600


def test_key_counts_at_once_and_until_it_is_revoked(users: Path) -> None:
    keys = ApiKeys.of(users)
    first = add_key(users, "olga")
    assert keys.owner(first) == "olga"
    second = add_key(users, "ulf")
    assert (keys.owner(first), keys.owner(second)) == ("olga", "ulf")
    assert [key.name for key in list_keys(users)] == ["olga", "ulf"]
    assert revoke_key(users, list_keys(users)[0].id).name == "olga"
    assert (keys.owner(first), keys.owner(second)) == (None, "ulf")
    revoke_key(users, second)  # by the key itself
    assert keys.owner(second) is None
    assert list_keys(users) == ()
    assert stat.S_IMODE(keys_path(users).stat().st_mode) == 0o600


@pytest.mark.parametrize("key", ["", "sk-deck-", "sk-deck-" + "0" * 64, "sk-other", "sk-deck-é"])
def test_other_keys_are_nobodys(users: Path, key: str) -> None:
    add_key(users, "olga")
    assert ApiKeys.of(users).owner(key) is None


def test_mistakes_are_said(users: Path) -> None:
    with pytest.raises(SpecError, match="no user 'nobody'"):
        add_key(users, "nobody")
    add_key(users, "olga")
    for identifier in ("00000000", "sk-deck-", "", list_keys(users)[0].id[:4]):
        with pytest.raises(SpecError, match="no key"):
            revoke_key(users, identifier)
    keys_path(users).write_text("half a line\n")
    with pytest.raises(SpecError, match="cannot be read"):
        Access.open(users, b"key", "token")


def test_damaged_file_lets_nobody_in(users: Path) -> None:
    keys, key = ApiKeys.of(users), add_key(users, "olga")
    assert keys.owner(key) == "olga"
    keys_path(users).write_text("half a line\n")
    assert keys.owner(key) is None
