"""Why a server refused a request, in its own words: vLLM's load client keeps the phrase of the status line alone."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp

_LONGEST = 500


def refusal_line(status: int, phrase: str | None, body: str) -> str:
    """One line of at most some hundred characters: phrase and status, and the message of the body where it has one."""
    words = " ".join(_message(body).split())
    if len(words) > _LONGEST:
        words = f"{words[:_LONGEST]} ..."
    return " ".join([*(phrase or "").split(), f"(HTTP {status})"]) + (f": {words}" if words else "")


def _message(body: str) -> str:
    """As vLLM and OpenAI give it (``{"error": {"message": ...}}``), as FastAPI does (``detail``), or all there is."""
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return body
    for key in ("error", "message", "detail"):
        if isinstance(found, dict) and found.get(key):
            found = found[key]
    return found if isinstance(found, str) else json.dumps(found)


class ReadingSession:
    """A session whose answers other than 200 have the server's words in place of the phrase."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session

    @asynccontextmanager
    async def post(self, *args: Any, **kwargs: Any) -> AsyncIterator[aiohttp.ClientResponse]:
        async with self._session.post(*args, **kwargs) as response:
            if response.status != 200:
                response.reason = refusal_line(response.status, response.reason, await response.text(errors="replace"))
            yield response


def reading(request: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    """A request function of vLLM's client, as one that tells the server's words."""

    async def call(*, session: aiohttp.ClientSession, **others: Any) -> Any:
        return await request(session=ReadingSession(session), **others)

    return call
