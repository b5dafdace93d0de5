"""The logs that people ask for: of a server's present and previous run, and the app's own. Without secrets."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from enum import StrEnum
from pathlib import Path

from server_manager.catalogue import Catalogue
from server_manager.handle_store import HandleStore
from server_manager.log_query import LogAnswer, LogQuery, ask_log
from server_manager.model_spec import ModelSpec
from server_manager.run_log import RunLog, previous_path
from server_manager.secret_mask import SecretMask, secret_values
from server_manager.settings import Settings
from server_manager.shell_line import SECRET_FLAGS

_BLOCK_BYTES = 256 * 1024
_LONGEST_LINE_BYTES = 2**20


class LogRun(StrEnum):
    """Which log of a server."""

    CURRENT = "current"
    """Of this start, or of the last one."""
    PREVIOUS = "previous"
    """Of the start before."""


def make_mask(settings: Settings, catalogue: Catalogue) -> SecretMask:
    """Knows the secrets of the app's environment, of all models and of the servers that are up.

    Reads files (small ones). Raises nothing.
    """
    found = [settings.attach_api_key or "", *secret_values(catalogue.defaults())]
    for spec in catalogue.specs():
        found += [*secret_values(spec.env), *_secrets_of_flags(spec)]
    for record in HandleStore(settings.records_dir).load_all():
        found += [record.api_key, *secret_values(record.env)]
    return SecretMask(found)


def _secrets_of_flags(spec: ModelSpec) -> Iterator[str]:
    for flag in SECRET_FLAGS:
        value = spec.options.get(flag)
        yield from (str(item) for item in (value if isinstance(value, list) else [value]) if item is not None)


class ServerLogs:
    """Reads them. Blocking: call it in a thread. A log that is not there is empty."""

    def __init__(self, settings: Settings, catalogue: Catalogue) -> None:
        self._settings = settings
        self._catalogue = catalogue

    def ask(self, name: str, run: LogRun, query: LogQuery) -> LogAnswer:
        """Lines of a server's log. ``name`` is that of a model that there is."""
        return ask_log(self._log(name, run), query, self._mask())

    def ask_app(self, query: LogQuery) -> LogAnswer:
        """Lines of the app's own log."""
        return ask_log(RunLog(self._settings.state_dir / "app.log"), query, self._mask())

    def file_name(self, name: str, run: LogRun) -> str | None:
        """What a download is to be called, with the day on which the log ends; ``None`` where there is no log."""
        try:
            written_at = self._log(name, run).extent().written_at
        except OSError:
            return None
        return f"{name}-{datetime.fromtimestamp(written_at):%Y%m%d}.log"

    def download(self, name: str, run: LogRun) -> Iterator[bytes]:
        """The whole log of the run from its first part on, as long as it is when this is called, in pieces."""
        log, mask = self._log(name, run), self._mask()
        at, rest = 0, b""
        try:
            end = log.extent().end
            while at < end:
                piece = log.read(at, min(_BLOCK_BYTES, end - at))
                if not piece.data:
                    break
                at = piece.at + len(piece.data)
                data = rest + piece.data
                # Whole lines, so that no secret is cut in two.
                whole = len(data) if len(data) > _LONGEST_LINE_BYTES else data.rfind(b"\n") + 1
                rest = data[whole:]
                yield _masked(mask, data[:whole])
        except OSError:  # removed meanwhile: what was read so far has been sent
            pass
        yield _masked(mask, rest)

    def _log(self, name: str, run: LogRun) -> RunLog:
        path: Path = self._settings.logs_dir / f"{name}.log"
        return RunLog(previous_path(path) if run is LogRun.PREVIOUS else path)

    def _mask(self) -> SecretMask:
        return make_mask(self._settings, self._catalogue)


def _masked(mask: SecretMask, data: bytes) -> bytes:
    """Bytes that are no UTF-8 stay as they are."""
    return mask.text(data.decode("utf-8", "surrogateescape")).encode("utf-8", "surrogateescape")
