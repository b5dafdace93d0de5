"""Files of models on this machine's disk. The only module that knows Hugging Face's and ModelScope's packages."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from server_manager.model_spec import is_local


def cached_file(
    model: str, filename: str, *, revision: str | None = None, env: Mapping[str, str] | None = None
) -> Path | None:
    """One file of a model, if it is on the disk already; no request is made.

    ``model`` is a folder, or a hub id that is looked for in the caches of both hubs. ``env`` is the model's own
    environment, which goes before ours (``HF_HUB_CACHE``, ``HF_HOME``, ``MODELSCOPE_CACHE``).
    """
    if is_local(model):
        path = Path(model).expanduser() / filename
        return path if path.is_file() else None
    if model.count("/") != 1 or ".." in model:
        return None
    variables = {**os.environ, **(env or {})}
    return _huggingface_file(model, filename, revision, variables) or _modelscope_file(
        model, filename, revision, variables
    )


def _huggingface_file(model: str, filename: str, revision: str | None, env: Mapping[str, str]) -> Path | None:
    # The package takes 0.3 s to import, and a page without downloaded models can do without it.
    from huggingface_hub import try_to_load_from_cache  # noqa: PLC0415
    from huggingface_hub.errors import HFValidationError  # noqa: PLC0415

    # The package has read these variables when it was imported; the model's own may differ.
    home = env.get("HF_HOME") or os.path.join(env.get("XDG_CACHE_HOME") or "~/.cache", "huggingface")
    cache = env.get("HF_HUB_CACHE") or env.get("HUGGINGFACE_HUB_CACHE") or os.path.join(home, "hub")
    try:
        found = try_to_load_from_cache(model, filename, cache_dir=Path(cache).expanduser(), revision=revision)
    except (HFValidationError, OSError):
        return None
    return Path(found) if isinstance(found, str) else None


def _modelscope_file(model: str, filename: str, revision: str | None, env: Mapping[str, str]) -> Path | None:
    """By path alone, since the package is optional.

    Layouts as in ``modelscope_hub/_download.py``: ``models/ORG--NAME/snapshots/REVISION``, and before 1.38
    ``models/ORG/NAME`` with ``___`` for each dot of the name, each below the cache's root or ``hub/`` in it.
    """
    root = Path(env.get("MODELSCOPE_CACHE") or "~/.cache/modelscope").expanduser()
    owner, name = model.split("/")
    revisions = (revision,) if revision else ("master", "main")
    for base in (root / "models", root / "hub" / "models"):
        folders = [base / f"{owner}--{name}" / "snapshots" / each for each in revisions]
        if revision is None:
            folders += [base / owner / name.replace(".", "___"), base / owner / name]
        for folder in folders:
            if (folder / filename).is_file():
                return folder / filename
    return None
