"""The page as it is served: which headers its files have, and that each part of it is found without a build step."""

from __future__ import annotations

import posixpath
import re

import httpx2
import pytest

from gateway.page.routes import _FILES


def policy(response: httpx2.Response) -> dict[str, str]:
    parts = (part.strip().partition(" ") for part in response.headers["content-security-policy"].split(";"))
    return {name: value for name, _, value in parts}


@pytest.mark.parametrize("path", ["/", "/t", "/t/some-session"])
def test_the_document_lets_nothing_in_but_our_files(path: str, http: httpx2.Client) -> None:
    response = http.get(path)
    assert response.status_code == 200
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    told = policy(response)
    assert told["default-src"] == told["base-uri"] == told["form-action"] == told["frame-ancestors"] == "'none'"
    assert told["script-src"] == told["style-src"] == told["connect-src"] == "'self'"
    assert response.headers["x-content-type-options"] == "nosniff"
    assert not re.search(r"<script(?![^>]* src=)|<style|\son\w+=|\sstyle=|https?://", response.text)


def test_the_document_is_asked_for_again_and_its_files_never(http: httpx2.Client) -> None:
    document = http.get("/")
    assert document.headers["cache-control"] == "no-cache"
    again = http.get("/", headers={"if-none-match": document.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert policy(again) == policy(document)
    for name in re.findall(r'(?:src|href)="([^"]+)"', document.text):
        response = http.get(name)
        assert response.status_code == 200
        assert "immutable" in response.headers["cache-control"]


def test_every_module_names_others_by_paths_that_are_served(http: httpx2.Client) -> None:
    modules = [name for name in _FILES.names if name.endswith(".js")]
    assert len(modules) > 8
    for name in modules:
        response = http.get(f"{_FILES.base}/{name}")
        assert response.headers["content-type"] == "text/javascript; charset=utf-8"
        for other in re.findall(r"""(?:from|import)\s*["']([^"']+)["']""", response.text):
            assert other.startswith("./"), (name, other)
            assert posixpath.normpath(posixpath.join(posixpath.dirname(name), other)) in _FILES.names, (name, other)


@pytest.mark.parametrize("name", ["../routes.py", "..%2froutes.py", "%2e%2e/routes.py", "nothing.js", "", "index.html"])
def test_what_is_no_file_of_the_page_is_not_found(name: str, http: httpx2.Client) -> None:
    assert http.get(f"{_FILES.base}/{name}").status_code == 404
    assert http.get(f"/page/0000000000000000/{name}").status_code == 404
    assert http.get("/page/0000000000000000/main.js").status_code == 404


def test_the_page_knows_the_marks_of_the_thinking(http: httpx2.Client) -> None:
    told = http.get("/v1/rstitch/ui-settings").json()
    assert (told["think_begin"], told["think_end"], told["jaeger_url"]) == (
        "<think>",
        "</think>",
        "https://jaeger.example/ui",
    )
