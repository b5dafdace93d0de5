"""Puts the parts of this package together, once, and begins and ends them in the right order."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from server_manager.catalogue import Catalogue
from server_manager.chat import ChatService
from server_manager.client import ClientSession
from server_manager.conversations.store import ConversationStore
from server_manager.errors import ServerManagerError
from server_manager.launcher_registry import create_launcher
from server_manager.launchers.base import ProcessInfo
from server_manager.ledger_book import LedgerBook
from server_manager.load_test.bench import Bench
from server_manager.load_test.runner import LoadTests
from server_manager.load_test.store import RunStore
from server_manager.log_keeper import LogKeeper
from server_manager.manager import ServerManager
from server_manager.reclaim import Leftovers
from server_manager.server_logs import make_mask
from server_manager.settings import Settings
from server_manager.telemetry import open_probe
from server_manager.telemetry.sampler import GpuSampler

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Parts:
    """What the page works with."""

    manager: ServerManager
    sampler: GpuSampler
    conversations: ConversationStore
    chat: ChatService
    session: ClientSession
    leftovers: Leftovers
    ledger: LedgerBook
    log_keeper: LogKeeper
    load_tests: LoadTests
    notices: list[str]
    """What went wrong without ending the app, for its page to show."""

    @asynccontextmanager
    async def running(self, *, start: str | None, no_start: bool) -> AsyncIterator[None]:
        """Servers, sampler and connections; at the end every server is stopped (or left, with ``keep_servers``).

        Begins to start the model ``start``, by default the one used last, in the background unless ``no_start``.
        """
        first: asyncio.Task[None] | None = None
        async with self.session:
            self.sampler.start()
            self.ledger.start()
            await self.conversations.open()
            looking: asyncio.Task[None] | None = None
            try:
                await self.manager.open()
                looking = asyncio.create_task(self.leftovers.scan_at_start(), name="leftovers")
                self.log_keeper.start()
                await self.load_tests.open()
                if not no_start:
                    # Beside the page: it must not wait for a driver that takes its time.
                    first = asyncio.create_task(self._start_first(start), name="first start")
                yield
            finally:
                for task in filter(None, (first, looking)):
                    task.cancel()
                    await asyncio.wait({task})
                await self.load_tests.close()
                await self.manager.close()
                await self.ledger.stop()
                await self.log_keeper.stop()
                await self.sampler.stop()
                await self.conversations.close()

    async def _start_first(self, name: str | None) -> None:
        try:
            devices = (await self.sampler.next_reading()).devices
            if chosen := name or self.manager.default_name(cpu_only=not devices):
                self.manager.start(chosen)
        except ServerManagerError as error:  # the page is of use without it
            log.error("%s", error)
            self.notices.append(str(error))


def compose(settings: Settings) -> Parts:
    """Makes the parts; nothing is started yet."""
    session = ClientSession()
    servers: list[ServerManager] = []  # the sampler asks the manager for its processes, and the manager the sampler

    def processes() -> dict[str, tuple[ProcessInfo, ...]]:
        return servers[0].processes()

    sampler = GpuSampler(open_probe, processes, settings.sample_interval, settings.history_samples)
    books: list[LedgerBook] = []
    launcher = create_launcher("local", settings)
    catalogue = Catalogue(settings.models_dir)
    manager = ServerManager(
        settings,
        catalogue,
        launcher,
        session,
        sampler,
        lambda reading: books[0].of(reading).devices,
    )
    servers.append(manager)
    generators: set[str] = set()
    leftovers = Leftovers(lambda: manager.markers() | generators, sampler)
    ledger = LedgerBook(sampler, manager.statuses, leftovers)
    books.append(ledger)
    notices: list[str] = []
    conversations = ConversationStore(settings.conversations_path, notices)
    log_keeper = LogKeeper(settings, manager.statuses, notices)
    chat = ChatService(manager, conversations)
    load_tests = LoadTests(
        Bench(
            manager,
            launcher,
            sampler,
            RunStore(settings.load_tests_dir),
            ledger.gpu_bytes,
            lambda: make_mask(settings, catalogue),
            generators,
        )
    )
    return Parts(manager, sampler, conversations, chat, session, leftovers, ledger, log_keeper, load_tests, notices)
