"""The page as a person uses it, for tests: what can be seen on it and what can be done."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Locator, Page, expect

SECONDS = 1000.0
"""In Playwright's unit."""
PATIENCE = 60 * SECONDS


class DeckPage:
    """One tab of a browser with the page in it."""

    def __init__(self, context: BrowserContext, url: str) -> None:
        self.context = context
        self.url = url
        self.page: Page = context.new_page()
        self.page.set_default_timeout(PATIENCE)
        self.requests: list[str] = []
        self.errors: list[str] = []
        self.expected_errors: list[str] = []
        """Regular expressions."""
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("websocket", lambda socket: self.requests.append(socket.url))
        self.page.on("console", self._note_console)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))

    def _note_console(self, told: ConsoleMessage) -> None:
        if told.type == "error":
            self.errors.append(f"{told.text} ({told.location['url']})")

    @classmethod
    def open(
        cls,
        browser: Browser,
        url: str,
        *,
        model: str | None = None,
        locale: str = "en-US",
        size: tuple[int, int] = (1280, 800),
        context: BrowserContext | None = None,
        **options: Any,
    ) -> DeckPage:
        """A new person's browser, or one more tab of ``context``. ``model`` is chosen, not started."""
        width, height = size
        context = context or browser.new_context(
            viewport={"width": width, "height": height}, locale=locale, timezone_id="UTC", **options
        )
        found = cls(context, url)
        found.page.goto(found.blank)
        found.begin(model)
        return found

    @property
    def blank(self) -> str:
        """An address of the app without the page, where what the browser keeps for it can be changed."""
        return f"{self.url}/healthz"

    def park(self) -> None:
        """Leaves the page, which asks the app for nothing any more."""
        self.page.unroute_all()
        self.context.clear_permissions()
        self.page.goto(self.blank)

    def begin_anew(self, model: str | None) -> None:
        """From ``park``: as a new person, of whom the browser knows nothing but the files that it has fetched."""
        self.context.clear_cookies()
        self.page.evaluate("localStorage.clear(); sessionStorage.clear()")
        for noted in (self.requests, self.errors, self.expected_errors):
            noted.clear()
        self.begin(model)

    def begin(self, model: str | None) -> None:
        """From ``blank``: opens the page with ``model`` chosen."""
        if model:
            self.page.evaluate("name => sessionStorage.setItem('deck-model', name)", model)
        self.load()

    def load(self) -> None:
        """Opens the page, or loads it again."""
        self.page.goto(self.url)
        self.wait_until_built()

    def wait_until_built(self) -> None:
        expect(self.text).to_be_visible()
        expect(self.page.locator("#deck-live .meter").first).to_be_visible()

    def close(self) -> None:
        self.context.close()

    # The chat

    @property
    def text(self) -> Locator:
        return self.page.locator("#chat-text textarea")

    @property
    def live(self) -> Locator:
        """The answer that is being made."""
        return self.page.locator("#live")

    @property
    def status(self) -> Locator:
        return self.page.locator("#chat-status")

    @property
    def questions(self) -> Locator:
        """Those of finished turns, and the one that is being answered."""
        return self.page.locator("#turns .message.user, #live-question:has(.md > *)")

    @property
    def answers(self) -> Locator:
        return self.page.locator("#turns .message.bot")

    @property
    def notes(self) -> Locator:
        """Why answers are not whole."""
        return self.page.locator("#turns .turn-note")

    @property
    def counters(self) -> Locator:
        """ "2/3": which of a turn's alternatives is shown."""
        return self.page.locator("#turns .alternatives > span")

    def tool(self, label: str) -> Locator:
        """Buttons below turns, first the first turn's."""
        return self.page.locator("#turns .turn-tools").get_by_role("button", name=label, exact=True)

    def regenerate(self) -> None:
        self.tool("Answer again").last.click()

    def button(self, action: str) -> Locator:
        return self.page.locator(f"#chat-{action}")

    def send(self, text: str) -> None:
        """Types a message and presses Enter."""
        self.text.fill(text)
        self.text.press("Enter")

    def ask(self, text: str) -> str:
        """The same, and waits for the end of the answer; its text."""
        self.send(text)
        self.wait_until_idle()
        return self.answers.last.inner_text()

    def wait_until_idle(self) -> None:
        """Until no answer is being made."""
        expect(self.text).to_have_value("")
        expect(self.page.locator("#chat-pane")).not_to_have_class(re.compile(r"\bbusy\b"))

    def wait_for_live_text(self, text: str | re.Pattern[str] = re.compile("word[0-9]")) -> None:
        expect(self.live).to_contain_text(text)

    def slider(self, name: str) -> Locator:
        """The number beside a slider."""
        return self.page.locator(f"#sampling-{name} input[type=number]")

    def set_slider(self, name: str, value: float) -> None:
        box = self.slider(name)
        box.fill(str(value))
        box.press("Tab")

    @property
    def scroll(self) -> tuple[int, int]:
        """How far the conversation is scrolled, and how far that is from its end, in pixels."""
        top, left = self.page.evaluate(
            """() => {
              const area = document.getElementById('conversation');
              return [area.scrollTop, area.scrollHeight - area.scrollTop - area.clientHeight].map(Math.round);
            }"""
        )
        return top, left

    def turn_wheel(self, pixels: int) -> None:
        """Over the conversation (negative: up), and waits until the view has come to rest."""
        box = self.page.locator("#conversation").bounding_box()
        assert box is not None
        self.page.mouse.move(box["x"] + 100, box["y"] + 100)
        self.page.mouse.wheel(0, pixels)
        self.page.evaluate(
            """() => new Promise((rest) => {
              const area = document.getElementById('conversation');
              let top = null;
              const look = setInterval(() => {
                if (area.scrollTop === top) { clearInterval(look); rest(); }
                top = area.scrollTop;
              }, 250);
            })"""
        )

    # The header and the tabs

    @property
    def chip(self) -> Locator:
        """The state of the chosen model."""
        return self.page.locator("#deck-live .chip")

    @property
    def picker(self) -> Locator:
        return self.page.locator("#model-picker input")

    def choices(self) -> list[str]:
        """What the dropdown offers."""
        self.picker.click()
        options = self.page.locator("#model-picker [role=option]")
        expect(options.first).to_be_visible()
        found = [text.replace("✓", "").strip() for text in options.all_inner_texts()]
        self.page.keyboard.press("Escape")
        self.picker.blur()
        return found

    def pick(self, model: str) -> None:
        """Chooses a model in the dropdown."""
        self.picker.click()
        entry = re.compile(rf"^{re.escape(model)}( · .+)?$")
        self.page.locator("#model-picker").get_by_role("option", name=entry).click()

    def open_tab(self, tab: str) -> None:
        """``chat``, ``servers`` or ``gpus``."""
        self.page.locator(f"#tab-{tab}-button").click()
        expect(self.page.locator(f"#tab-{tab}")).to_be_visible()

    def server(self, name: str) -> Locator:
        """A model's card, or its line, on the Servers tab."""
        return self.page.locator(f'#server-list [data-server="{name}"]')

    def press(self, server: str, label: str) -> None:
        self.server(server).get_by_role("button", name=label, exact=True).click()

    def open_form(self) -> None:
        """The form of the chosen server's model."""
        self.page.get_by_role("tab", name="Model and flags").click()
        expect(self.page.locator("#form-save")).to_be_visible()

    def field(self, label: str) -> Locator:
        """A field of that form."""
        title = self.page.locator(f'[data-testid="block-info"]:text-is("{label}")')
        return self.page.locator("#server-side .block").filter(has=title).locator("input, textarea").first

    # What may not be

    @property
    def outside_requests(self) -> list[str]:
        host = urlsplit(self.url).netloc
        schemes = ("http", "https", "ws", "wss")
        return [url for url in self.requests if urlsplit(url).scheme in schemes and urlsplit(url).netloc != host]

    def unexpected_errors(self) -> list[str]:
        return [
            error for error in self.errors if not any(re.search(pattern, error) for pattern in self.expected_errors)
        ]

    def wider_than_the_window(self) -> list[str]:
        """Elements that stick out at the right, and would make a phone scroll sideways."""
        found: Sequence[str] = self.page.evaluate(
            """() => {
              const width = document.documentElement.clientWidth;
              const clipped = (element) => {
                for (let box = element.parentElement; box && box !== document.body; box = box.parentElement) {
                  const { overflowX } = getComputedStyle(box);
                  if (overflowX !== 'visible' && box.getBoundingClientRect().right <= width + 1) return true;
                }
                return false;
              };
              return [...document.querySelectorAll('body *')]
                .filter((e) => e.checkVisibility() && e.getBoundingClientRect().right > width + 1 && !clipped(e))
                .map((e) => `${e.tagName} ${e.id} ${e.className}: ${Math.round(e.getBoundingClientRect().right)}`);
            }"""
        )
        return list(found)


def expect_drawn(plot: Locator) -> None:
    """The plot's lines are there: pixels of a full colour, which neither axes nor background have."""
    canvas = plot.locator("canvas")
    expect(canvas).to_be_visible()
    handle = canvas.element_handle()
    assert handle is not None
    plot.page.wait_for_function(
        """(canvas) => {
          const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
          let coloured = 0;
          for (let i = 0; i < data.length; i += 4) {
            const colours = data.slice(i, i + 3);
            if (data[i + 3] > 200 && Math.max(...colours) - Math.min(...colours) > 60) coloured++;
          }
          return coloured > 50;
        }""",
        arg=handle,
    )
