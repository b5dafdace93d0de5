"""The page: a header that is always there, and a tab for each module in ``webui.tabs``.

Gradio lays the page out and shows it; the page's own script (``webui/static``) does what is live. It asks the REST
interface and hands values to Gradio's components through bridges, so that nothing on the page waits in Gradio's queue
and no tab costs the server a timer.
"""

from __future__ import annotations

import json
from pathlib import Path

import gradio as gr

from webui import tabs
from webui.bridge import bridge
from webui.canvas import canvas
from webui.chat_api import register_chat_api
from webui.context import AppContext
from webui.locales import messages, translations
from webui.shell import Shell
from webui.theme import deck_theme

STATIC = Path(__file__).parent / "static"
CSS = tuple(STATIC / f"{name}.css" for name in ("deck", "chat", "log", "library", "smoke", "load_test"))


def head() -> str:
    """Goes into the document's head. The first script is the bridge between Gradio and ours, whichever comes first."""
    # All scripts at once: else each is found only when the one that imports it has been read, while Gradio keeps the
    # browser busy.
    scripts = (path.relative_to(STATIC).as_posix() for path in sorted(STATIC.rglob("*.js")))
    preloads = "".join(f'<link rel="modulepreload" href="/deck/{script}">' for script in scripts)
    texts = json.dumps(messages(), ensure_ascii=False).replace("</", "<\\/")
    return f"""
<link rel="icon" href="/deck/favicon.svg" type="image/svg+xml">
<link rel="stylesheet" href="/deck/vendor/uPlot.min.css">
{preloads}
<script>
window.deck = {{
  values: {{}}, fire: {{}},
  set(name, ...values) {{ this.values[name] = values; this.fire[name]?.(); }},
  take(name) {{ return this.values[name]; }},
  connect(name, fire) {{ this.fire[name] = fire; if (name in this.values) fire(); }},
}};
window.deckMessages = {texts};
// Gradio sets its own idea of light and dark while it starts.
const keepTheme = () => {{
  const theme = localStorage.getItem("deck-theme");
  if (theme) document.body.classList.toggle("dark", theme === "dark");
}};
keepTheme();
new MutationObserver(keepTheme).observe(document.body, {{ attributeFilter: ["class"] }});
</script>
<script type="module" src="/deck/main.js"></script>
"""


def build_page(context: AppContext) -> gr.Blocks:
    """The whole page. Everything per session lives in the browser; nothing here belongs to one user."""
    t = translations()
    with gr.Blocks(title="vLLM Deck", fill_width=True, analytics_enabled=False) as page:
        with gr.Row(elem_id="deck-header", equal_height=True):
            canvas('<h1 class="deck-brand">vLLM <b>Deck</b></h1>', elem_id="deck-brand", min_width=110, scale=0)
            with gr.Column(elem_id="deck-model", min_width=260, scale=0):
                picker = gr.Dropdown(
                    choices=list(context.manager.names()),
                    value=None,
                    show_label=False,
                    container=False,
                    interactive=True,
                    allow_custom_value=True,  # a model may be added while the page is open
                    elem_id="model-picker",
                    label=t("model"),
                )
            canvas('<div id="deck-live"></div>', elem_id="deck-live-box", scale=1, min_width=240)
        picker.input(None, picker, None, js="name => window.deck.pick(name)", queue=False)
        bridge("picker", [picker])
        shell = Shell(picker=picker, t=t)
        with gr.Tabs(elem_id="deck-tabs"):
            for tab in tabs.discover():
                with gr.Tab(t(tab.TITLE), id=tab.ID, elem_id=f"tab-{tab.ID}"):
                    tab.build(context, shell)
        register_chat_api(context)
    # Chat does not go through the queue; what does (the /chat endpoint) must not wait for others' answers. Gradio's
    # default of 40 threads is a limit on all events that run at once, asynchronous ones too.
    page.queue(default_concurrency_limit=None)
    page.max_threads = 400
    page._queue.max_thread_count = 400
    return page


def mount_options() -> dict[str, object]:
    """What ``gr.mount_gradio_app`` needs to show the page as designed."""
    return {
        "theme": deck_theme(),
        "css_paths": list(CSS),
        "head": head(),
        "i18n": translations(),
        "footer_links": ["settings"],
        "ssr_mode": False,
        "run_history": False,
        "show_error": False,
        "max_file_size": 1,  # bytes: nothing here takes files, and nobody shall fill the disk with them
        "enable_monitoring": False,
        "pwa": False,
    }
