"""The commands of `python -m langchain_ws_responses`, one module each; `_cli.py` lists them."""

from __future__ import annotations
