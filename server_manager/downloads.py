"""Files of models on this machine's disk and on the hubs.

The only module that knows Hugging Face's and ModelScope's packages.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from server_manager.model_spec import is_local

_HUB_SECONDS = 5.0


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
    if not uses_modelscope(variables):
        return ((chosen or _huggingface_cache(variables)) / f"models--{model.replace('/', '--')}",)
    owner, _, name = model.rpartition("/")
    plain = name.replace(".", "___")
    # Some of vLLM's ways of loading do not pass --download-dir on to ModelScope.
    roots = (chosen or _modelscope_cache(variables), _modelscope_cache(variables))
    bases = [root / base for root in roots for base in ("", "models", "hub", "hub/models")]
    # Before 1.38 a file grows in `._____temp` and is moved when it is whole.
    inside = (f"{owner}--{name}", f"{owner}/{plain}", f"._____temp/{owner}/{name}", f"._____temp/{owner}/{plain}")
    return tuple(dict.fromkeys(base / path for base in bases for path in inside))


def uses_modelscope(env: Mapping[str, str]) -> bool:
    """Whether vLLM downloads from ModelScope with these variables."""
    return env.get("VLLM_USE_MODELSCOPE", "").strip().lower() in {"1", "true"}


def hub_files(model: str, *, revision: str | None = None, env: Mapping[str, str] | None = None) -> dict[str, int]:
    """The files of a model on the hub from which vLLM would download it, in bytes by path; none where it knows none.

    A request, blocking for some seconds at most. Raises ``OSError`` where the hub does not answer.
    """
    variables = {**os.environ, **(env or {})}
    ask = _modelscope_files if uses_modelscope(variables) else _huggingface_files
    try:
        return ask(model, revision, variables)
    except Exception as error:  # each package has exceptions of its own and of its HTTP client, of changing kinds
        raise OSError(f"{type(error).__name__}: {error}") from error


def _huggingface_files(model: str, revision: str | None, env: Mapping[str, str]) -> dict[str, int]:
    from huggingface_hub import HfApi  # noqa: PLC0415  # as below
    from huggingface_hub.errors import HfHubHTTPError  # noqa: PLC0415

    api = HfApi(endpoint=env.get("HF_ENDPOINT") or None, token=env.get("HF_TOKEN") or None)
    try:
        info = api.model_info(model, revision=revision, files_metadata=True, timeout=_HUB_SECONDS)
    except HfHubHTTPError as error:
        if error.response is None or error.response.status_code >= 500:
            raise
        return {}  # there is none of that name, or it is not for everybody
    return {file.rfilename: file.size or 0 for file in info.siblings or ()}


def _modelscope_files(model: str, revision: str | None, env: Mapping[str, str]) -> dict[str, int]:
    from modelscope_hub import HubApi, NotFoundError, PermissionDeniedError  # noqa: PLC0415

    domain = env.get("MODELSCOPE_DOMAIN", "").rstrip("/")
    endpoint = domain if "://" in domain or not domain else f"https://{domain}"
    api = HubApi(endpoint=endpoint or None, token=env.get("MODELSCOPE_API_TOKEN") or None)
    try:
        files = api.list_repo_files(model, "model", revision=revision)
    except (NotFoundError, PermissionDeniedError):
        return {}
    return {file.path: file.size for file in files if not file.is_dir}


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
