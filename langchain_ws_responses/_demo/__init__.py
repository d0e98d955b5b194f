"""The demonstration: one agent on real files, first over HTTP, then over one socket."""

from __future__ import annotations
