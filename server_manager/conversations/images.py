"""Images of questions: from and to data URLs."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass

from server_manager.errors import NotAllowed

LARGEST_IMAGE_BYTES = 20 * 2**20
MOST_IMAGES = 10
"""In one question."""
IMAGE_ID = re.compile(r"[0-9a-f]{32}")
_DATA_URL = re.compile(r"data:image/[a-z0-9.+-]+;base64,", re.IGNORECASE)
_BASE64_CHARS = LARGEST_IMAGE_BYTES * 4 // 3 + 4
_REMEDY = "Send PNG, JPEG, WebP or GIF."


@dataclass(frozen=True, slots=True)
class Image:
    """The bytes of an image, named by their own digest: the same image is kept once in a conversation."""

    id: str
    type: str
    """``image/png`` and the like."""
    data: bytes

    @property
    def data_url(self) -> str:
        """As models' servers and browsers take it."""
        return f"data:{self.type};base64,{base64.b64encode(self.data).decode()}"


def read_images(given: Sequence[str]) -> tuple[tuple[str, ...], dict[str, Image]]:
    """The ids of all, and the images of those that were given as data URLs. Some 10 ms for a large one.

    Raises ``NotAllowed`` for too many, too large ones, and what is no image.
    """
    if len(given) > MOST_IMAGES:
        raise NotAllowed(f"A question takes {MOST_IMAGES} images, and here are {len(given)}.", "Leave some out.")
    ids, new = [], {}
    for text in given:
        if IMAGE_ID.fullmatch(text):
            ids.append(text)
        else:
            image = _from_data_url(text)
            new[image.id] = image
            ids.append(image.id)
    return tuple(ids), new


def _from_data_url(text: str) -> Image:
    if not (head := _DATA_URL.match(text)):
        raise NotAllowed("That is neither a data URL of an image nor the id of one that is kept.", _REMEDY)
    if len(text) - head.end() > _BASE64_CHARS:
        raise NotAllowed(f"An image is larger than {LARGEST_IMAGE_BYTES // 2**20} MiB.", "Make it smaller.")
    try:
        data = base64.b64decode(text[head.end() :], validate=True)
    except (binascii.Error, ValueError) as error:
        raise NotAllowed("An image's data URL is broken: it is not base64.", _REMEDY) from error
    if len(data) > LARGEST_IMAGE_BYTES:
        raise NotAllowed(f"An image is larger than {LARGEST_IMAGE_BYTES // 2**20} MiB.", "Make it smaller.")
    # By its bytes: what it is said to be may be anything, and browsers are shown it later.
    if (kind := _type_of(data)) is None:
        raise NotAllowed("A file is no image that can be used.", _REMEDY)
    return Image(hashlib.sha256(data).hexdigest()[:32], kind, data)


def _type_of(data: bytes) -> str | None:
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    if data.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if data.startswith((b"GIF87a", b"GIF89a")):
        return "image/gif"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "image/webp"
    return None
