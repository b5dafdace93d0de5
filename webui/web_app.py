"""The FastAPI app: REST, the chat's stream, static files, and Gradio's page mounted at ``/``."""

from __future__ import annotations

import gc
import os
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext

# Gradio's statistics of events grow with their number and are shown nowhere here. Read when it is imported.
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
os.environ.setdefault("GRADIO_ANALYTICS_CACHE_FREQUENCY", "1000000")
os.environ.setdefault("GRADIO_ANALYTICS_MAX_EVENTS", "100")

import gradio as gr
import gradio.utils
from fastapi import FastAPI
from fastapi.staticfiles import StaticFiles
from fastapi_offline import FastAPIOffline
from starlette.responses import Response
from starlette.routing import Mount, Route
from starlette.types import Scope

from server_manager import Gateway, MetricsPoller
from webui.access import AccessMiddleware
from webui.chat_route import router as chat_router
from webui.code_route import router as code_router
from webui.context import AppContext
from webui.conversation_routes import router as conversation_router
from webui.doorstep import Doorstep
from webui.errors import install_error_handlers
from webui.failure_route import router as failure_router
from webui.gateway_app import GatewayMiddleware
from webui.gradio_start import no_apps
from webui.leftover_routes import router as leftover_router
from webui.load_routes import router as load_router
from webui.log_routes import router as log_router
from webui.login import login_page, logout
from webui.page import STATIC, build_page, mount_options
from webui.rest import no_such_route
from webui.rest import router as rest_router
from webui.smoke_route import router as smoke_router
from webui.snapshot import Snapshot

DESCRIPTION = """Runs vLLM on your own GPUs. Where `--auth` is set, log in with HTTP Basic or an API key.

**The gateway: `/v1/…`** on this port speaks the interface of OpenAI, and on `/v1/messages` that of Anthropic. `GET
/v1/models` lists all models with their `state`. Every other request goes to the server of the model that it names as
`model`, which is started or woken while the request waits, and is passed on as it is, as is the answer:
`/v1/chat/completions`, `/v1/completions`, `/v1/responses`, `/v1/messages`, `/v1/embeddings`, `/v1/rerank`,
`/v1/audio/transcriptions` and whatever else the server has below `/v1`; also `/tokenize` and `/detokenize`. The API key
goes into `Authorization: Bearer …` or `x-api-key`."""

Running = Callable[[], AbstractAsyncContextManager[None]]


class _StaticFiles(StaticFiles):
    """The page's own files: asked for again at each load, so that an upgrade is seen, and answered with 304."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        response = await super().get_response(path, scope)
        response.headers["Cache-Control"] = "no-cache"
        return response


def build_web_app(context: AppContext, running: Running) -> FastAPI:
    """The whole app; ``running`` is entered when it begins to serve and left when it ends."""
    # At each event Gradio sets matplotlib's backend, for outputs that the page does not have. The first time it imports
    # it for that, which stops everything for a third of a second.
    gradio.utils.MatplotlibBackendMananger = nullcontext
    poller = MetricsPoller(context.manager)
    gateway = Gateway(context.manager)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with running():
            poller.start()
            # What is there now stays: a collection that looks through it all stops every stream for a quarter second.
            gc.freeze()
            try:
                yield
            finally:
                await poller.stop()
                gateway.close()
                context.chat.close()

    app = FastAPIOffline(
        title="vLLM Deck",
        description=DESCRIPTION,
        version="0.1.0",
        lifespan=lifespan,
        static_url="/docs-static",
    )
    app.state.context = context
    app.state.doorstep = Doorstep()
    app.state.snapshot = Snapshot(context.manager, poller, context.ledger, context.notices)
    install_error_handlers(app)
    app.include_router(rest_router, tags=["servers and models"])
    app.include_router(failure_router, tags=["servers and models"])
    app.include_router(smoke_router, tags=["servers and models"])
    app.include_router(log_router, tags=["logs"])
    app.include_router(chat_router, tags=["chat"])
    app.include_router(code_router, tags=["chat"])
    app.include_router(conversation_router, tags=["conversations"])
    app.include_router(leftover_router, tags=["leftovers"])
    app.include_router(load_router, tags=["load tests"])
    app.include_router(no_such_route)
    app.router.routes.append(Route("/login", login_page, methods=["GET", "POST"]))
    app.router.routes.append(Route("/logout", logout, methods=["GET", "POST"]))
    app.mount("/deck", _StaticFiles(directory=STATIC), name="static")
    with no_apps():
        page = build_page(context)
    gr.mount_gradio_app(app, page, path="", **mount_options())
    page.app = next(route.app for route in reversed(app.routes) if isinstance(route, Mount))
    app.add_middleware(GatewayMiddleware, gateway=gateway, largest_body=context.settings.gateway_body_bytes)
    app.add_middleware(AccessMiddleware, access=context.access)
    return app
