"""Runs vLLM: models, servers, telemetry and chat. Knows nothing of the page."""

from server_manager.abilities.book import UNKNOWN as UNKNOWN_ABILITIES
from server_manager.abilities.book import Abilities
from server_manager.catalogue import Catalogue
from server_manager.chat import ChatRequest, ChatService
from server_manager.chat_frames import DoneFrame, ProgressFrame, TextFrame, TurnFrame
from server_manager.conversations.export import as_json as conversation_as_json
from server_manager.conversations.export import as_markdown as conversation_as_markdown
from server_manager.conversations.export import file_name as conversation_file_name
from server_manager.conversations.export import turn_dict
from server_manager.conversations.presets import Preset
from server_manager.conversations.store import ConversationStore
from server_manager.conversations.store import View as ConversationView
from server_manager.diagnosis import Diagnosis, Fix
from server_manager.diagnosis.correction import apply_fix, difference
from server_manager.errors import (
    ChatError,
    NotAllowed,
    ServerManagerError,
    SpecError,
    StateDirError,
    UnknownModel,
)
from server_manager.gateway import Gateway, GatewayRequest, refuse
from server_manager.gateway_errors import Dialect, GatewayRefusal, error_document, error_headers
from server_manager.generation_config import context_length
from server_manager.ledger_book import LedgerBook
from server_manager.load_test.chart import draw_png as load_test_as_png
from server_manager.load_test.compare import compare as compare_load_tests
from server_manager.load_test.export import as_csv as load_test_as_csv
from server_manager.load_test.export import as_json as load_test_as_json
from server_manager.load_test.export import as_markdown as load_test_as_markdown
from server_manager.load_test.export import file_name as load_test_file_name
from server_manager.load_test.run import LoadRun
from server_manager.load_test.runner import LoadTests
from server_manager.load_test.settings import PRESETS as LOAD_TEST_PRESETS
from server_manager.load_test.settings import settings_from as load_settings_from
from server_manager.log_query import LogAnswer, LogQuery
from server_manager.manager import Server, ServerManager
from server_manager.memory_plan.spec_shape import split_choices
from server_manager.metrics_poller import MetricsPoller
from server_manager.model_spec import RESTARTS_VARIABLE, ModelSpec, option_error, option_warnings
from server_manager.phrases import Phrase
from server_manager.phrases import render as render_phrases
from server_manager.reclaim import Leftovers, findings_dict
from server_manager.sampling import SAMPLING_PARAMS, SamplingParam, defaults_for, request_fields
from server_manager.secret_mask import MASK, is_secret, without_passwords
from server_manager.server_logs import LogRun, ServerLogs
from server_manager.server_state import ServerExit, ServerState, ServerStatus
from server_manager.settings import Settings
from server_manager.shell_line import SECRET_FLAGS, parse_shell_line, shell_line
from server_manager.show_code import ImagePlace, chat_code, serve_code
from server_manager.smoke.result import SmokeResult
from server_manager.smoke.smoke_test import smoke_test
from server_manager.start_phase import StartPhase
from server_manager.switching.policy import NO_WORDS
from server_manager.switching.policy import SLEEP_AFTER as SLEEP_AFTER_VARIABLE
from server_manager.switching.policy import STOP_AFTER as STOP_AFTER_VARIABLE
from server_manager.switching.policy import SWITCHABLE as SWITCHABLE_VARIABLE
from server_manager.telemetry.base import Reading
from server_manager.telemetry.sampler import GpuSampler

__all__ = [
    "LOAD_TEST_PRESETS",
    "MASK",
    "NO_WORDS",
    "RESTARTS_VARIABLE",
    "SAMPLING_PARAMS",
    "SECRET_FLAGS",
    "SLEEP_AFTER_VARIABLE",
    "STOP_AFTER_VARIABLE",
    "SWITCHABLE_VARIABLE",
    "UNKNOWN_ABILITIES",
    "Abilities",
    "Catalogue",
    "ChatError",
    "ChatRequest",
    "ChatService",
    "ConversationStore",
    "ConversationView",
    "Diagnosis",
    "Dialect",
    "DoneFrame",
    "Fix",
    "Gateway",
    "GatewayRefusal",
    "GatewayRequest",
    "GpuSampler",
    "ImagePlace",
    "LedgerBook",
    "Leftovers",
    "LoadRun",
    "LoadTests",
    "LogAnswer",
    "LogQuery",
    "LogRun",
    "MetricsPoller",
    "ModelSpec",
    "NotAllowed",
    "Phrase",
    "Preset",
    "ProgressFrame",
    "Reading",
    "SamplingParam",
    "Server",
    "ServerExit",
    "ServerLogs",
    "ServerManager",
    "ServerManagerError",
    "ServerState",
    "ServerStatus",
    "Settings",
    "SmokeResult",
    "SpecError",
    "StartPhase",
    "StateDirError",
    "TextFrame",
    "TurnFrame",
    "UnknownModel",
    "apply_fix",
    "chat_code",
    "compare_load_tests",
    "context_length",
    "conversation_as_json",
    "conversation_as_markdown",
    "conversation_file_name",
    "defaults_for",
    "difference",
    "error_document",
    "error_headers",
    "findings_dict",
    "is_secret",
    "load_settings_from",
    "load_test_as_csv",
    "load_test_as_json",
    "load_test_as_markdown",
    "load_test_as_png",
    "load_test_file_name",
    "option_error",
    "option_warnings",
    "parse_shell_line",
    "refuse",
    "render_phrases",
    "request_fields",
    "serve_code",
    "shell_line",
    "smoke_test",
    "split_choices",
    "turn_dict",
    "without_passwords",
]
