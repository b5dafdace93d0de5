"""The tree of a conversation in SQL. Every function works on a connection, inside a transaction of its caller."""

from __future__ import annotations

import json
import secrets
import sqlite3
import time
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from server_manager.conversations.images import Image
from server_manager.conversations.turn import Figures, Header, Turn, new_turn_id, title_of
from server_manager.errors import NotAllowed, NotKept

_TURN = "id, parent, user, images, assistant, reasoning, model, note, created, figures"
_HEADER = "id, owner, title, system_prompt, model, leaf, created, updated"
_FIGURES = {field.name for field in fields(Figures)}
_PATH = f"""WITH RECURSIVE above (id, parent) AS (
    SELECT id, parent FROM turn WHERE id = ? AND conversation = ?
    UNION ALL SELECT turn.id, turn.parent FROM above JOIN turn ON turn.id = above.parent)
SELECT {", ".join(f"turn.{name}" for name in _TURN.split(", "))} FROM above JOIN turn ON turn.id = above.id
ORDER BY turn.depth"""


@dataclass(frozen=True, slots=True)
class Draft:
    """A turn to be kept, with all that it takes to do so where its conversation is not known yet."""

    header: Header
    """Its title and leaf are made from the turn."""
    path: Sequence[Turn]
    """The turns before it."""
    turn: Turn
    unfinished: bool
    images: Mapping[str, Image] = field(default_factory=dict)
    """All those of the path and the turn, by id."""


@dataclass(frozen=True, slots=True)
class Dump:
    """All of a conversation."""

    header: Header
    turns: Sequence[Turn]
    unfinished: Container[str]
    images: Mapping[str, Image]


def header(connection: sqlite3.Connection, conversation: str) -> Header | None:
    row = connection.execute(f"SELECT {_HEADER} FROM conversation WHERE id = ?", (conversation,)).fetchone()
    return Header(*row) if row else None


def owned(connection: sqlite3.Connection, conversation: str, owner: str) -> Header:
    """Raises ``NotKept`` where there is none, ``NotAllowed`` where it is somebody else's."""
    found = header(connection, conversation)
    if found is None:
        raise NotKept("There is no such conversation (any more).", "Reload the page.")
    if found.owner != owner:
        raise NotAllowed("This conversation is somebody else's.", "Start a new one.")
    return found


def turn(connection: sqlite3.Connection, conversation: str, turn_id: str) -> Turn:
    """Raises ``NotKept``."""
    row = connection.execute(
        f"SELECT {_TURN} FROM turn WHERE id = ? AND conversation = ?", (turn_id, conversation)
    ).fetchone()
    if row is None:
        raise NotKept("That turn is not in this conversation.", "Reload the page.")
    return _turn(row)


def path(connection: sqlite3.Connection, conversation: str, leaf: str | None) -> tuple[Turn, ...]:
    """The turns from the beginning to ``leaf``."""
    return tuple(map(_turn, connection.execute(_PATH, (leaf, conversation)))) if leaf else ()


def all_turns(connection: sqlite3.Connection, conversation: str) -> tuple[Turn, ...]:
    """In the order in which they were begun, so that each comes after its parent."""
    rows = connection.execute(f"SELECT {_TURN} FROM turn WHERE conversation = ? ORDER BY seq", (conversation,))
    return tuple(map(_turn, rows))


def first_question(connection: sqlite3.Connection, conversation: str) -> str:
    row = connection.execute("SELECT user FROM turn WHERE conversation = ? ORDER BY seq", (conversation,)).fetchone()
    return str(row[0]) if row else ""


def siblings(connection: sqlite3.Connection, conversation: str) -> dict[str | None, tuple[str, ...]]:
    """The ids of the turns below each parent, the eldest first."""
    found: dict[str | None, tuple[str, ...]] = {}
    rows = connection.execute("SELECT parent, id FROM turn WHERE conversation = ? ORDER BY seq", (conversation,))
    for parent, turn_id in rows:
        found[parent] = (*found.get(parent, ()), turn_id)
    return found


def newest_below(connection: sqlite3.Connection, conversation: str, turn_id: str) -> str:
    """The leaf that is reached from a turn by its newest child, that one's newest child, and so on."""
    below = siblings(connection, conversation)
    while children := below.get(turn_id):
        turn_id = children[-1]
    return turn_id


def images(connection: sqlite3.Connection, conversation: str, ids: Iterable[str]) -> dict[str, Image]:
    """Those that are kept, by id."""
    found = {}
    for image_id in set(ids):
        row = connection.execute(
            "SELECT id, type, bytes FROM image WHERE conversation = ? AND id = ?", (conversation, image_id)
        ).fetchone()
        if row:
            found[image_id] = Image(*row)
    return found


def save(connection: sqlite3.Connection, draft: Draft) -> None:
    """Writes a turn anew, as far as it has come; the first time it becomes the conversation's leaf."""
    head = draft.header
    now = time.time()
    connection.execute(
        f"INSERT OR IGNORE INTO conversation ({_HEADER}) VALUES (?, ?, ?, ?, ?, NULL, ?, ?)",
        (head.id, head.owner, head.title, head.system_prompt, head.model, head.created or now, now),
    )
    owned(connection, head.id, head.owner)
    is_new = not _has(connection, draft.turn.id)
    if is_new:
        if draft.path and not _has(connection, draft.path[-1].id):  # the file has been lost meanwhile
            for before in draft.path:
                put_turn(connection, head.id, before)
            put_images(connection, head.id, draft.images.values())
        put_images(connection, head.id, [draft.images[each] for each in draft.turn.images])
    put_turn(connection, head.id, draft.turn, unfinished=draft.unfinished)
    connection.execute("UPDATE conversation SET updated = ? WHERE id = ?", (now, head.id))
    if is_new:
        first = (*draft.path, draft.turn)[0]
        connection.execute(
            "UPDATE conversation SET leaf = ?, model = ?, system_prompt = ?,"
            " title = CASE title WHEN '' THEN ? ELSE title END WHERE id = ?",
            (draft.turn.id, head.model, head.system_prompt, title_of(first.user), head.id),
        )


def put_turn(connection: sqlite3.Connection, conversation: str, turn: Turn, *, unfinished: bool = False) -> None:
    """Adds a turn, or changes what can change of it."""
    figures = {name: value for name, value in asdict(turn.figures).items() if value is not None}
    connection.execute(
        f"INSERT INTO turn (conversation, unfinished, depth, {_TURN})"
        " VALUES (?, ?, 1 + coalesce((SELECT depth FROM turn WHERE id = ?), -1), ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
        " ON CONFLICT (id) DO UPDATE SET unfinished = excluded.unfinished, note = excluded.note,"
        " figures = excluded.figures, assistant = excluded.assistant, reasoning = excluded.reasoning",
        (
            conversation, unfinished, turn.parent, turn.id, turn.parent, turn.user, json.dumps(turn.images),
            turn.assistant, turn.reasoning, turn.model, turn.note, turn.created, json.dumps(figures),
        ),
    )  # fmt: skip


def put_images(connection: sqlite3.Connection, conversation: str, found: Iterable[Image]) -> None:
    connection.executemany(
        "INSERT OR IGNORE INTO image (conversation, id, type, bytes) VALUES (?, ?, ?, ?)",
        [(conversation, image.id, image.type, image.data) for image in found],
    )


def _has(connection: sqlite3.Connection, turn_id: str) -> bool:
    return connection.execute("SELECT 1 FROM turn WHERE id = ?", (turn_id,)).fetchone() is not None


def is_unfinished(connection: sqlite3.Connection, turn_id: str) -> bool:
    return bool(connection.execute("SELECT unfinished FROM turn WHERE id = ?", (turn_id,)).fetchone()[0])


def branch(connection: sqlite3.Connection, head: Header, turn_id: str, new_id: str) -> None:
    """Copies the path up to a turn into a conversation of its own. Raises ``NotKept``, ``NotAllowed``."""
    turn(connection, head.id, turn_id)
    if is_unfinished(connection, turn_id):
        raise NotAllowed("This turn is being answered.", "Wait for its end, or stop it first.")
    turns = path(connection, head.id, turn_id)
    new_ids: dict[str | None, str | None] = {None: None, **{old.id: new_turn_id() for old in turns}}
    now = time.time()
    connection.execute(
        f"INSERT INTO conversation ({_HEADER}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (new_id, head.owner, _numbered(head.title), head.system_prompt, head.model, new_ids[turn_id], now, now),
    )
    for old in turns:
        put_turn(connection, new_id, replace(old, id=new_ids[old.id] or "", parent=new_ids[old.parent]))
    put_images(connection, new_id, images(connection, head.id, ids_of_images(turns)).values())


def dump(connection: sqlite3.Connection, conversation: str) -> Dump | None:
    """All of a conversation; nothing where there is none."""
    if (head := header(connection, conversation)) is None:
        return None
    turns = all_turns(connection, conversation)
    unfinished = {each.id for each in turns if is_unfinished(connection, each.id)}
    return Dump(head, turns, unfinished, images(connection, conversation, ids_of_images(turns)))


def restore(connection: sqlite3.Connection, dump: Dump | None) -> None:
    """Writes all of a conversation over what there may be of it; turns that ``dump`` does not have stay."""
    if dump is None:
        return
    head = dump.header
    there = header(connection, head.id)
    if there and there.owner != head.owner:  # somebody's by the same id, whom the file could not tell of at the time
        head = replace(head, id=secrets.token_hex(16))
    connection.execute(
        f"INSERT INTO conversation ({_HEADER}) VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET"
        " title = excluded.title, system_prompt = excluded.system_prompt, model = excluded.model,"
        " leaf = excluded.leaf, updated = excluded.updated",
        tuple(getattr(head, name) for name in _HEADER.split(", ")),
    )
    for each in dump.turns:
        put_turn(connection, head.id, each, unfinished=each.id in dump.unfinished)
    put_images(connection, head.id, dump.images.values())


def ids_of_images(turns: Iterable[Turn]) -> list[str]:
    return [image for turn in turns for image in turn.images]


def _numbered(title: str) -> str:
    """``Title (2)`` for ``Title``, ``Title (3)`` for that."""
    stem, _, number = title.removesuffix(")").rpartition(" (")
    return f"{stem} ({int(number) + 1})" if stem and title.endswith(")") and number.isdecimal() else f"{title} (2)"


def _turn(row: Sequence[Any]) -> Turn:
    turn_id, parent, user, images, assistant, reasoning, model, note, created, figures = row
    known = {name: value for name, value in json.loads(figures).items() if name in _FIGURES} if figures != "{}" else {}
    ids = tuple(json.loads(images)) if images != "[]" else ()
    return Turn(turn_id, parent, user, ids, assistant, reasoning, model, note, created, Figures(**known))
