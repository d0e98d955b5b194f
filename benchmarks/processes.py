"""The processes of a benchmark: the server, the relay, and one fresh process for each measurement."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = ["Endpoint", "control", "helper", "measure", "run_server"]

PROJECT = Path(__file__).resolve().parent.parent
# Neither keys and proxies nor tracing of the machine may take part. What else is set (paths, locale) stays.
# An installed package has its byte code; without it every measurement of a start would compile this one.
_CLEARED = (
    "OPENAI_",
    "AZURE_",
    "LANGCHAIN_",
    "LANGSMITH_",
    "LANGGRAPH_",
    "PYTHONDONTWRITEBYTECODE",
)


class Endpoint(dict[str, int]):
    """Ports of a server, by what they speak; `host` is where it listens."""

    host: str = "127.0.0.1"

    @property
    def plain(self) -> str:
        """Where the server is without TLS, also for the benchmark itself."""
        return f"http://{self.host}:{self['plain']}"


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Returns the environment of all processes of a benchmark."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.upper().startswith(_CLEARED) and not name.upper().endswith("_PROXY")
    }
    return {
        **kept,
        "OPENAI_API_KEY": "sk-benchmark",
        "LANGSMITH_TRACING": "false",
        "NO_PROXY": "*",
        "PYTHONHASHSEED": "0",
        **(extra or {}),
    }


@contextlib.contextmanager
def helper(module: str, *arguments: str) -> Iterator[dict[str, int]]:
    """Runs a module that prints its ports and ends with its standard input."""
    process = subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        cwd=PROJECT,
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise RuntimeError(f"{module} did not start")
        yield json.loads(line)
    finally:
        with contextlib.suppress(BrokenPipeError):
            process.communicate(timeout=10)


@contextlib.contextmanager
def run_server(*, certificate: Path | None = None, host: str = "127.0.0.1") -> Iterator[Endpoint]:
    """Runs the scripted server.

    Args:
        certificate: Certificate and key in one file, for TLS on a second port.
        host: Address to listen on.
    """
    arguments = ["--host", host, *(["--certificate", str(certificate)] if certificate else [])]
    with helper("benchmarks.server", *arguments) as ports:
        endpoint = Endpoint(ports)
        endpoint.host = host
        yield endpoint


def control(url: str, path: str, **values: Any) -> Any:
    """Asks the server something about the benchmark."""
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=30)
    try:
        connection.request("POST", path, json.dumps(values).encode())
        return json.loads(connection.getresponse().read())
    finally:
        connection.close()


def measure(
    job: Mapping[str, Any],
    *,
    module: str = "benchmarks.worker",
    prefix: Sequence[str] = (),
    extra: Mapping[str, str] | None = None,
    timeout: float = 600,
) -> dict[str, Any]:
    """Makes one measurement in a fresh process.

    Args:
        job: What to do, as plain data.
        module: What does it.
        prefix: A command to run it with, such as one that enters a network namespace.
        extra: Further environment variables.
        timeout: Seconds after which the process is killed.

    Returns:
        What it printed, or `{"error": …}`.
    """
    try:
        done = subprocess.run(
            [*prefix, sys.executable, "-m", module, json.dumps(job)],
            cwd=PROJECT,
            env=environment(extra),
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return {"error": f"took longer than {timeout:g} s"}
    if done.returncode != 0:
        return {"error": (done.stderr.strip().splitlines() or ["ended without a word"])[-1][:300]}
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result
