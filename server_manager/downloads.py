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


def download_folders(model: str, *, download_dir: str | None, env: Mapping[str, str] | None = None) -> tuple[Path, ...]:
    """The folders into which vLLM downloads a hub's model, whether or not they are there; none for a local one.

    ``download_dir`` is vLLM's ``--download-dir``, which it hands to the hub's package as its cache.
    """
    variables = {**os.environ, **(env or {})}
    if is_local(model) or model.count("/") > 1 or ".." in model:
        return ()
    chosen = Path(download_dir).expanduser() if download_dir else None
    if variables.get("VLLM_USE_MODELSCOPE", "").strip().lower() not in {"1", "true"}:
        return ((chosen or _huggingface_cache(variables)) / f"models--{model.replace('/', '--')}",)
    owner, _, name = model.rpartition("/")
    plain = name.replace(".", "___")
    # Some of vLLM's ways of loading do not pass --download-dir on to ModelScope.
    roots = (chosen or _modelscope_cache(variables), _modelscope_cache(variables))
    bases = [root / base for root in roots for base in ("", "models", "hub", "hub/models")]
    # Before 1.38 a file grows in `._____temp` and is moved when it is whole.
    inside = (f"{owner}--{name}", f"{owner}/{plain}", f"._____temp/{owner}/{name}", f"._____temp/{owner}/{plain}")
    return tuple(dict.fromkeys(base / path for base in bases for path in inside))


def _huggingface_file(model: str, filename: str, revision: str | None, env: Mapping[str, str]) -> Path | None:
    # The package takes 0.3 s to import, and a page without downloaded models can do without it.
    from huggingface_hub import try_to_load_from_cache  # noqa: PLC0415
    from huggingface_hub.errors import HFValidationError  # noqa: PLC0415

    try:
        found = try_to_load_from_cache(model, filename, cache_dir=_huggingface_cache(env), revision=revision)
    except (HFValidationError, OSError):
        return None
    return Path(found) if isinstance(found, str) else None


def _huggingface_cache(env: Mapping[str, str]) -> Path:
    """The package has read these variables when it was imported; the model's own may differ."""
    home = env.get("HF_HOME") or os.path.join(env.get("XDG_CACHE_HOME") or "~/.cache", "huggingface")
    cache = env.get("HF_HUB_CACHE") or env.get("HUGGINGFACE_HUB_CACHE") or os.path.join(home, "hub")
    return Path(cache).expanduser()


def _modelscope_cache(env: Mapping[str, str]) -> Path:
    return Path(env.get("MODELSCOPE_CACHE") or "~/.cache/modelscope").expanduser()


def _modelscope_file(model: str, filename: str, revision: str | None, env: Mapping[str, str]) -> Path | None:
    """By path alone, since the package is optional.

    Layouts as in ``modelscope_hub/_download.py``: ``models/ORG--NAME/snapshots/REVISION``, and before 1.38
    ``models/ORG/NAME`` with ``___`` for each dot of the name, each below the cache's root or ``hub/`` in it.
    """
    root = _modelscope_cache(env)
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
