"""Benchmarks: this package beside the floors and beside other clients, on one scripted server.

`python -m benchmarks compare` measures and judges; `memory` and `profile` look closer. Nothing here is part
of the installed package.
"""

from __future__ import annotations
