"""Sockets, lanes and retries: asyncio, websockets and tenacity, without LangChain."""

from __future__ import annotations
