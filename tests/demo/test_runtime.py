"""LiteRT.js from npm: the real npm, and what it may do wrong."""

import browser
import pytest

from utils.base.errors import UserError
from utils.demo import runtime


@pytest.fixture
def npm(monkeypatch, tmp_path):
    """Puts a shell script in the place of npm."""

    def put(script):
        (tmp_path / "npm").write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / "npm").chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")

    return put


def test_all_files_are_fetched():
    browser.require_npm()
    found = runtime.fetch()
    assert sorted(found) == sorted(runtime.FILES)
    assert found["wasm/litert_wasm_internal.wasm"].startswith(b"\0asm")
    assert b'from "./utils.js"' in found["index.js"]
    assert b"Apache-2.0" in found["NOTICE.txt"]


def test_npm_is_missing(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match=r"npm is not installed.*apt-get install npm"):
        runtime.fetch()


def test_the_registry_is_away(monkeypatch, tmp_path):
    browser.require_npm()
    monkeypatch.setenv("npm_config_registry", "http://127.0.0.1:9/")
    monkeypatch.setenv("npm_config_cache", str(tmp_path))
    monkeypatch.setenv("npm_config_fetch_retries", "0")
    with pytest.raises(UserError, match=r"npm cannot get LiteRT\.js .*ECONNREFUSED"):
        runtime.fetch()


def test_an_archive_of_another_content_is_refused(npm):
    npm("for name in core wasm-utils; do echo other > litertjs-$name-2.5.3.tgz; done")
    with pytest.raises(UserError, match=r"gave another @litertjs/core 2\.5\.3 than the published"):
        runtime.fetch()


def test_npm_takes_too_long(npm, monkeypatch):
    npm("exec sleep 60")
    monkeypatch.setattr(runtime, "_TIME_LIMIT", 0.2)
    with pytest.raises(UserError, match=r"npm did not get LiteRT\.js 2\.5\.3 in 0\.2 s"):
        runtime.fetch()
