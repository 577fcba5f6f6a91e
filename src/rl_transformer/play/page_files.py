"""The files of the page, which lie beside this module and need no building."""

from __future__ import annotations

from importlib.resources import files

PAGE = {
    "index.html": "text/html",
    "style.css": "text/css",
    "play.mjs": "text/javascript",
    "server_episode.mjs": "text/javascript",
    "browser_episode.mjs": "text/javascript",
    "worlds.mjs": "text/javascript",
    "vendor/uPlot.iife.min.js": "text/javascript",
    "vendor/uPlot.min.css": "text/css",
    "vendor/LICENSE-uPlot": "text/plain",
}
"""Types of the files by name."""


def page_file(name: str) -> bytes:
    """Return a file of the page."""
    return files("rl_transformer.play").joinpath("page", *name.split("/")).read_bytes()
