"""The protocol as pure tables and verbs: standard library only, no I/O."""

from __future__ import annotations
