"""Pairs of models for differential tests: plain ChatOpenAI over HTTP is the oracle, the socket is on trial."""

from __future__ import annotations

import asyncio
import gc
import importlib
import threading
import traceback
import uuid
import warnings
from collections.abc import Callable, Iterable
from typing import Any

import openai
from langchain_core.messages import BaseMessage
from langchain_openai import ChatOpenAI

from langchain_ws_responses import ChatOpenAIWebSocket, ConnectionManager
from langchain_ws_responses.testing import ResponsesServer

OWN_METADATA = ("openai_chain", "transport")
WAYS = ("invoke", "stream", "ainvoke", "astream")
KEY = "sk-test-3f9a51c7"


# The HTTP library that the installed openai is built on: httpx, or httpx2 from some version on.
_http = importlib.import_module(openai.DefaultHttpxClient.__mro__[1].__module__.split(".")[0])


def http_clients(**more: Any) -> dict[str, Any]:
    """HTTP clients that keep no connection, since none may outlive its event loop, and that are quick to make."""
    # Reading the certificates takes longer than most tests do, and nobody speaks TLS here.
    options: dict[str, Any] = {"limits": _http.Limits(max_keepalive_connections=0), "verify": False, **more}
    return {
        "http_client": openai.DefaultHttpxClient(**options),
        "http_async_client": openai.DefaultAsyncHttpxClient(**options),
    }


def http_model(server: ResponsesServer, **fields: Any) -> ChatOpenAI:
    """Plain ChatOpenAI on the Responses API of the local server."""
    settings: dict[str, Any] = {
        "model": "gpt-5.5",
        "api_key": KEY,
        "max_retries": 0,
        **http_clients(),
        **fields,
    }
    return ChatOpenAI(base_url=server.base_url, use_responses_api=True, **settings)


def socket_model(
    server: ResponsesServer, manager: ConnectionManager | None, **fields: Any
) -> ChatOpenAIWebSocket:
    """The model under test, over the socket unless told otherwise."""
    settings: dict[str, Any] = {
        "model": "gpt-5.5",
        "api_key": KEY,
        "max_retries": 0,
        **http_clients(),
        **fields,
    }
    settings.setdefault("transport", "websocket")
    return ChatOpenAIWebSocket(base_url=server.base_url, manager=manager, **settings)


def run(model: Any, way: str, given: Any, **kwargs: Any) -> list[Any]:
    """Calls a model in one of the four ways.

    Returns:
        What came of it, in order: one answer, or every chunk.
    """
    # One run id, because langchain-core makes message ids of it.
    config = {"run_id": uuid.UUID(int=7), **kwargs.pop("config", {})}
    if way == "invoke":
        return [model.invoke(given, config, **kwargs)]
    if way == "stream":
        return list(model.stream(given, config, **kwargs))

    async def call() -> list[Any]:
        if way == "ainvoke":
            return [await model.ainvoke(given, config, **kwargs)]
        return [chunk async for chunk in model.astream(given, config, **kwargs)]

    return asyncio.run(call())


def outcome(model: Any, way: str, given: Any, **kwargs: Any) -> tuple[list[Any], BaseException | None]:
    """Like `run`, and keeps what was handed over before a failure."""
    seen: list[Any] = []
    config = {"run_id": uuid.UUID(int=7)}
    try:
        if way == "invoke":
            seen.append(model.invoke(given, config, **kwargs))
        elif way == "stream":
            for chunk in model.stream(given, config, **kwargs):
                seen.append(chunk)
        else:

            async def call() -> None:
                if way == "ainvoke":
                    seen.append(await model.ainvoke(given, config, **kwargs))
                    return
                async for chunk in model.astream(given, config, **kwargs):
                    seen.append(chunk)

            asyncio.run(call())
    except Exception as exc:
        if way == "astream" and getattr(model, "transport", None) != "websocket":
            _drop_what_is_half_read(exc)
        return seen, exc
    return seen, None


def _drop_what_is_half_read(error: BaseException | None) -> None:
    """Ends HTTP streams that a failure of their reader left open: the frames in its traceback hold them."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__context__
    with warnings.catch_warnings():
        # Their loop is gone, so that nothing else can close the sockets of LangChain's own HTTP client.
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


def bare(message: Any, *, ids: bool = True) -> Any:
    """A message as data, without what this package adds.

    Args:
        message: A message, or anything else, which is returned as it is.
        ids: Whether ids that the server draws at random are kept.
    """
    if not isinstance(message, BaseMessage):
        return message
    data = message.model_dump()
    for name in OWN_METADATA:
        data["response_metadata"].pop(name, None)
    data["class"] = type(message).__name__
    return data if ids else without_ids(data)


_DRAWN = ("resp_", "msg_", "fc_", "rs_", "call_", "lc_", "ctc_")


def without_ids(value: Any) -> Any:
    """Data with the server's random ids, secrets and times blotted out."""
    if isinstance(value, dict):
        return {
            without_ids(name): "…" if name in ("created_at", "encrypted_content") else without_ids(item)
            for name, item in value.items()
        }
    if isinstance(value, list):
        return [without_ids(item) for item in value]
    if isinstance(value, str) and value.startswith(_DRAWN):
        return value.split("_")[0] + "_…"
    return value


_WIRE_ONLY = ("type", "stream_id", "previous_response_id", "input", "stream")


def settings_of(request: Any) -> dict[str, Any]:
    """A recorded request's body without what the two transports rightly say in two ways."""
    return {name: value for name, value in request.body.items() if name not in _WIRE_ONLY}


def in_threads(calls: Iterable[Callable[[], Any]]) -> list[Any]:
    """Runs callables at the same time, each in a thread of its own; their results or exceptions in order."""
    work = list(calls)
    results: list[Any] = [None] * len(work)
    start = threading.Barrier(len(work))

    def one(index: int) -> None:
        start.wait(10)
        try:
            results[index] = work[index]()
        except Exception as exc:
            results[index] = exc

    threads = [threading.Thread(target=one, args=(index,)) for index in range(len(work))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(50)
    return results
