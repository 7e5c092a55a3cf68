"""Somebody who opens the page in a browser, and notes all that no page of ours may do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from playwright.sync_api import Browser, ConsoleMessage, Dialog, Page, Request

# Opens an address: (address, options of the context) -> page.
Visit = Callable[..., Page]
PATIENCE_MS = 30_000


class Visitor:
    """A tab of its own. `expects` are parts of messages of the console that a test provokes."""

    def __init__(self, browser: Browser, address: str, *, expects: tuple[str, ...] = (), **context: Any) -> None:
        self._context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **context})
        self._context.set_default_timeout(PATIENCE_MS)
        self._host = urlsplit(address).netloc
        self._expects = expects
        self.wrong: list[str] = []
        self.page = self._context.new_page()
        self.page.on("console", self._console)
        self.page.on("pageerror", lambda error: self.wrong.append(f"error: {error}"))
        self.page.on("dialog", self._dialog)
        self.page.on("request", self._request)
        self.page.goto(address)
        self.page.locator("header").wait_for()

    def close(self) -> None:
        """Closes the tab. Raises: AssertionError if anything was wrong."""
        self._context.close()
        assert self.wrong == []

    def _console(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning") and not any(part in message.text for part in self._expects):
            self.wrong.append(f"{message.type}: {message.text}")

    def _dialog(self, dialog: Dialog) -> None:
        if dialog.type == "confirm":
            dialog.accept()
            return
        self.wrong.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    def _request(self, request: Request) -> None:
        parts = urlsplit(request.url)
        if parts.scheme not in ("blob", "data") and parts.netloc != self._host:
            self.wrong.append(f"request: {request.url}")
