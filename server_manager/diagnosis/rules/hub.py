"""Hugging Face, ModelScope and the way to them."""

from __future__ import annotations

import re

from server_manager.diagnosis.fixes import both, from_hugging_face, hub_token, other_sources, removing, setting_env
from server_manager.diagnosis.rule import Clues, rule

_REPO = r"(?P<repo>[\w.-]+/[\w.-]+)"
_IN_URL = re.compile(r"https?://[^/\s'\"]+/(?:api/models/)?(?P<repo>[\w.-]+/[\w.-]+)")


def _repo(clues: Clues) -> dict[str, object]:
    """The repository: of the message, else of its URL, else the model that was to be served."""
    if "repo" in clues.facts:
        return {}
    found = _IN_URL.search(clues.message)
    return {"repo": found["repo"].rstrip(".") if found else clues.options.get("model", "the model")}


def _is_offline(clues: Clues) -> bool:
    """Whether downloading is switched off: Transformers says the same of that as of a network that is down."""
    switched = any(clues.env.get(name, "").lower() in ("1", "true", "yes") for name in _OFFLINE_VARIABLES)
    return switched or clues.chain_says(
        r"OfflineModeIsEnabled|offline mode is enabled|outgoing traffic has been disabled"
    )


def _is_unreachable(clues: Clues) -> bool:
    """Whether nobody answered: Transformers says the same where the hub refuses or has an error of its own."""
    return not _is_offline(clues) and not clues.chain_says(_ANSWERED)


_ANSWERED = (
    r"40[13] (?:Client Error|Forbidden|Unauthorized)|429 (?:Client Error|Too Many)|50\d Server Error|error '5\d\d "
)
_OFFLINE_VARIABLES = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
_OFFLINE = (
    "The model is not (fully) on this machine, and downloading is switched off (HF_HUB_OFFLINE).",
    "Allow downloads, or put the files there first.",
    setting_env("HF_HUB_OFFLINE", "0"),
)

RULES = (
    rule(
        "gated",
        r"You are trying to access a gated repo|GatedRepoError|Cannot access gated repo|gated repo[\s\S]*?access|"
        r"Access to model " + _REPO + r" is restricted",
        "{repo} is gated: its owner wants you to agree to the licence before you download it.",
        "Agree on the model's page at Hugging Face, then start it with a token of that account (HF_TOKEN).",
        hub_token,
        more=_repo,
    ),
    rule(
        "bad_token",
        r"Invalid user token|Invalid credentials in Authorization header|token[^\n]*(?:is invalid|has expired)|"
        r"Your token is invalid|Invalid username or password|User Access Token[^\n]*expired",
        "Hugging Face does not accept the token.",
        "Make a new one at huggingface.co/settings/tokens and start with it (HF_TOKEN).",
        hub_token,
    ),
    rule(
        "hub_forbidden",
        r"403 Client Error|403 Forbidden|401 Client Error|401 Unauthorized",
        "Hugging Face refuses access to {repo}.",
        "Check the name. For a private or gated model start with a token that may read it (HF_TOKEN).",
        hub_token,
        more=_repo,
        when=lambda clues: "Repository Not Found" not in clues.message,
    ),
    rule(
        "rate_limited",
        r"429 Client Error|429 Too Many Requests|Too Many Requests|rate limit",
        "The hub refuses further requests for now: too many came from here.",
        "Wait some minutes; with a token (HF_TOKEN) the limit is higher. Or take another source.",
        both(hub_token, other_sources),
    ),
    rule(
        "hub_offline",
        r"outgoing traffic has been disabled|offline mode is enabled|OfflineModeIsEnabled|"
        r"HF_HUB_OFFLINE|TRANSFORMERS_OFFLINE",
        *_OFFLINE,
    ),
    rule(
        "hub_unreachable",
        r"We couldn't connect to '(?P<url>[^']+)'|An error happened while trying to locate the files? on the Hub|"
        r"check your internet connection|Cannot send a request, as the client has been closed|"
        r"(?:MaxRetryError|NewConnectionError|ConnectTimeout|ConnectError|ReadTimeout|ProxyError|SSLError|"
        r"ConnectionError|NameResolutionError|LocalEntryNotFoundError|RemoteProtocolError|"
        r"ChunkedEncodingError|IncompleteRead|ProtocolError)\b[\s\S]*?(?:hf\.co|hugging|hf-mirror|modelscope|"
        r"https?://|hub|Hub|"
        r"resolve|resolution|Network is unreachable|Connection refused|timed out|certificate|handshake)",
        "The model could not be downloaded: its source cannot be reached from here.",
        "Check the network and the proxy, or take another source: a mirror of Hugging Face, ModelScope, or a folder.",
        other_sources,
        when=_is_unreachable,
    ),
    rule("hub_offline", r"We couldn't connect to '(?P<url>[^']+)'", *_OFFLINE, when=_is_offline),
    rule(
        "hub_unreachable",
        r"^(?:httpx2?|httpcore2?|requests\.exceptions|urllib3\.exceptions|aiohttp(?:\.\w+)*)\.(?:Connect|Read|"
        r"Proxy|Write|Pool)?"
        r"(?:Error|Timeout|ConnectionError|ConnectTimeout|SSLError|ClientConnectorError)",
        "The model could not be downloaded: its source cannot be reached from here.",
        "Check the network and the proxy, or take another source: a mirror of Hugging Face, ModelScope, or a folder.",
        other_sources,
    ),
    rule(
        "hub_server_error",
        r"50[0234] Server Error|error '5\d\d [^\n]* for url|Internal Server Error for url|"
        r"Bad Gateway for url|Service Unavailable for url|"
        r"Gateway Time-?out for url",
        "The hub answered with an error of its own.",
        "Try again in some minutes, or take another source.",
        other_sources,
    ),
    rule(
        "modelscope_not_found",
        r"(?:modelscope[\s\S]*?)?(?:Request model: |The model: )" + _REPO + r"[\s\S]*?(?:does not exist|not exist)|"
        r"modelscope[\s\S]*?(?:404|NotExistError|not exist)",
        "ModelScope has no model {repo}.",
        "Check the name at modelscope.cn (it may differ from the one at Hugging Face), or take it from Hugging Face.",
        other_sources,
        more=_repo,
    ),
    rule(
        "revision_not_found",
        r"(?P<revision>\S+) is not a valid git identifier|Revision Not Found for url|RevisionNotFoundError",
        "The model's repository has no such revision.",
        "Correct --revision, or leave it out for the newest.",
        removing("revision", "tokenizer-revision", "code-revision"),
    ),
    rule(
        "hub_not_found",
        r"(?P<repo>\S+) is not a local folder and is not a valid model identifier|Repository Not Found for url|"
        r"RepositoryNotFoundError|404 Client Error[\s\S]*?Repository Not Found",
        "Hugging Face has no model {repo}, or it is private.",
        "Check the spelling. For a private model start with a token that may read it (HF_TOKEN).",
        hub_token,
        more=_repo,
    ),
    rule(
        "disk_full",
        r"No space left on device|\[Errno 28\]|Not enough free disk space|Disk quota exceeded|\[Errno 122\]|"
        r"not enough disk space",
        "The disk is full.",
        "Make room, or put the models elsewhere: HF_HOME for the hub's cache, --download-dir for this model.",
    ),
    rule(
        "download_permission",
        r"PermissionError at (?P<path>\S+) when downloading|"
        r"(?:PermissionError: )?\[Errno 13\] Permission denied: '(?P<file>[^']*(?:hub|huggingface|\.cache|"
        r"modelscope|models--)[^']*)'|"
        r"Check cache directory permissions|Read-only file system[^\n]*(?:cache|hub)|"
        r"There was a permission error|Can't write to (?P<folder>\S+)",
        "The folder for downloaded models cannot be written.",
        "Give this user the folder, or name another one with HF_HOME.",
    ),
    rule(
        "modelscope_missing",
        r"[Uu]s(?:e|ing) (?:vLLM with )?ModelScope[^\n]*|No module named 'modelscope'|install modelscope",
        "The model is to come from ModelScope, and the Python package modelscope is not installed.",
        "Install it beside vLLM (`pip install modelscope`), or take the model from Hugging Face.",
        from_hugging_face,
    ),
)
