"""Drives a headless Chromium of the system against pages that this machine serves."""

import contextlib
import os
import shutil
import threading

import psutil
import pytest
from playwright import sync_api

from utils.showing import demo

TIME_LIMIT = 40_000  # milliseconds, for a start or one wait; a busy machine takes a tenth
BROWSER_LIMIT = 600  # seconds, for all tests of a module
REQUIRE = "MNASNET_REQUIRE_BROWSER"
_COMMANDS = ("chromium", "chromium-browser", "google-chrome")
# A camera that shows a test picture; a page still needs the permission to use it.
_ARGUMENTS = ["--use-fake-device-for-media-stream"]


def _find(what, *commands):
    """Returns the path of a command; skips without it, fails if MNASNET_REQUIRE_BROWSER is set."""
    found = next(filter(None, map(shutil.which, commands)), None)
    if found is None:
        sentence = f"{what} is not installed: on Debian, apt-get install {what.lower()} brings it."
        if os.environ.get(REQUIRE):
            pytest.fail(sentence)
        pytest.skip(sentence)
    return found


def find():
    """Returns the path of Chromium, as `_find` does."""
    return _find("Chromium", *_COMMANDS)


def require_npm():
    """Skips or fails without npm, as `_find` does."""
    _find("npm", "npm")


def _running():
    """Returns Chromium's processes among the children of this process."""
    children = psutil.Process().children(recursive=True)
    return [child for child in children if "chrom" in child.name()]


def _kill():
    for process in _running():
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


@contextlib.contextmanager
def started():
    """A browser, of which nothing is left after the block."""
    path = find()
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=path, args=_ARGUMENTS, timeout=TIME_LIMIT
        )
        # The wait for a script of a page has no limit of its own.
        limit = threading.Timer(BROWSER_LIMIT, _kill)
        limit.start()
        try:
            yield browser
        finally:
            limit.cancel()
            browser.close()
    _, left = psutil.wait_procs(_running(), timeout=10)
    assert left == []


@contextlib.contextmanager
def served(folder):
    """The address of a folder's page."""
    with demo.open_server(str(folder), 0) as web:
        thread = threading.Thread(target=web.serve_forever)
        thread.start()
        try:
            yield demo.address(web)
        finally:
            web.shutdown()
            thread.join(TIME_LIMIT / 1000)


@contextlib.contextmanager
def tab(browser, **options):
    """A tab with its own permissions and sizes, whose waits have a limit.

    Attribute `hosts` of the tab has the hosts of all requests.
    """
    context = browser.new_context(**options)
    context.set_default_timeout(TIME_LIMIT)
    page = context.new_page()
    page.hosts = set()
    page.on("request", lambda request: page.hosts.add(request.url.split("/")[2]))
    try:
        yield page
    finally:
        context.close()
