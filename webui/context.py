"""What every part of the page is handed: the app's objects, nothing per session."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from server_manager import (
    ChatService,
    ConversationStore,
    GpuSampler,
    LedgerBook,
    Leftovers,
    LoadTests,
    ServerManager,
    Settings,
)
from webui.access import Access


@dataclass(frozen=True, slots=True)
class AppContext:
    """Built once in ``app.py``."""

    settings: Settings
    manager: ServerManager
    sampler: GpuSampler
    conversations: ConversationStore
    chat: ChatService
    access: Access
    leftovers: Leftovers
    ledger: LedgerBook
    load_tests: LoadTests
    notices: Sequence[str] = ()
    """What went wrong at the app's start without ending it."""

    @property
    def answers_per_user(self) -> int | None:
        """At the same time; ``None``: any number, since everybody is the same user without a login."""
        return self.settings.chats_per_user if self.access.login_required else None
