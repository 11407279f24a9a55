"""vLLM's own client against a server that refuses: what the result then says."""

import asyncio
from typing import Any

import pytest
from aiohttp import ClientSession, web
from aiohttp.test_utils import TestServer

from kivi_bench.answers import reading, refusal_line


@pytest.mark.parametrize(
    ("body", "line"),
    [
        ('{"error": {"message": "too\\n long", "type": "BadRequestError", "code": 400}}', "Bad (HTTP 400): too long"),
        ('{"object": "error", "message": "too long"}', "Bad (HTTP 400): too long"),
        ('{"error": "too long"}', "Bad (HTTP 400): too long"),
        (
            '{"detail": [{"loc": ["prompt"], "msg": "missing"}]}',
            'Bad (HTTP 400): [{"loc": ["prompt"], "msg": "missing"}]',
        ),
        ("<html>\ngone</html>", "Bad (HTTP 400): <html> gone</html>"),
        ("", "Bad (HTTP 400)"),
        ("[" * 100_000, f"Bad (HTTP 400): {'[' * 500} ..."),
    ],
)
def test_a_line_has_the_message_of_any_kind_of_body(body: str, line: str) -> None:
    assert refusal_line(400, "Bad", body) == line


def test_a_phrase_may_be_missing() -> None:
    assert refusal_line(599, None, "") == refusal_line(599, "", "") == "(HTTP 599)"


async def _ask(answer: web.Response) -> Any:
    from vllm.benchmarks.lib.endpoint_request_func import ASYNC_REQUEST_FUNCS, RequestFuncInput

    async def refuse(_: web.Request) -> web.Response:
        return answer

    app = web.Application()
    app.router.add_post("/v1/completions", refuse)
    async with TestServer(app) as server, ClientSession() as session:
        url = str(server.make_url("/v1/completions"))
        asked = RequestFuncInput(prompt="x", api_url=url, prompt_len=1, output_len=2, model="m")
        return await reading(ASYNC_REQUEST_FUNCS["openai"])(request_func_input=asked, session=session, pbar=None)


def test_vllms_client_reports_the_servers_words() -> None:
    refused = asyncio.run(_ask(web.json_response({"error": {"message": "at most 128 tokens"}}, status=400)))
    assert (refused.success, refused.error) == (False, "Bad Request (HTTP 400): at most 128 tokens")
    broken = asyncio.run(_ask(web.Response(status=500, text="Internal Server Error")))
    assert (broken.success, broken.error) == (False, "Internal Server Error (HTTP 500): Internal Server Error")


def test_an_answer_is_read_as_ever() -> None:
    stream = 'data: {"choices": [{"text": "a"}]}\n\ndata: {"usage": {"completion_tokens": 2}}\n\ndata: [DONE]\n\n'
    answered = asyncio.run(_ask(web.Response(text=stream, content_type="text/event-stream")))
    assert (answered.success, answered.generated_text, answered.output_tokens) == (True, "a", 2)
