"""The emulated network: a namespace with `tc netem` where the system has it, else the relay of `relay.py`."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path as FilePath
from typing import Any

from .processes import Endpoint, helper, run_server

__all__ = ["Path", "Unavailable", "paths"]

MEGABITS = 20
ROUND_TRIPS = (40, 80)
_NAMESPACE = "wsbench"
_OUTSIDE, _INSIDE = "wsbench0", "wsbench1"
# Documentation addresses (RFC 5737): nobody's network.
_SERVER, _CLIENT = "192.0.2.1", "192.0.2.2"
_REQUEST = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost"


class Unavailable(RuntimeError):
    """The emulated network cannot be had here."""


@dataclass
class Path:
    """A way from the clients to the server.

    Attributes:
        name: Such as `40 ms`.
        base_url: For the clients.
        warm_url: The same server without the delay, for what is not measured.
        control_url: For the benchmark itself.
        emulator: What makes the delay.
        prefix: Command that clients are run with.
        environment: Further variables for them.
    """

    name: str
    base_url: str
    warm_url: str
    control_url: str
    emulator: str
    prefix: Sequence[str] = ()
    environment: dict[str, str] = field(default_factory=dict)

    def urls(self) -> dict[str, Any]:
        """What the worker's job says of it."""
        return {"base_url": self.base_url, "warm_url": self.warm_url, "control_url": self.control_url}


@contextlib.contextmanager
def paths(*, emulator: str = "auto") -> Iterator[list[Path]]:
    """Builds a path for each round trip.

    Args:
        emulator: `netem`, `relay`, or `auto`: netem where it can be had.

    Raises:
        Unavailable: Nothing here makes a certificate, or netem was asked for and is not there.
    """
    reason = netem_trouble() if emulator != "relay" else "not asked for"
    if reason is not None and emulator == "netem":
        raise Unavailable(f"no netem: {reason}")
    with tempfile.TemporaryDirectory() as folder:
        certificate = make_certificate(FilePath(folder))
        made = _with_netem(certificate) if reason is None else _with_relay(certificate, reason)
        with made as found:
            yield found


# -- a certificate ----------------------------------------


def make_certificate(folder: FilePath) -> FilePath:
    """Makes a certificate for the server, with its key in the same file; it is its own authority.

    Raises:
        Unavailable: Neither openssl nor trustme is there.
    """
    path = folder / "server.pem"
    if shutil.which("openssl"):
        key, made = folder / "key.pem", folder / "certificate.pem"
        command = [*_REQUEST.split()]
        names = f"subjectAltName=DNS:localhost,IP:127.0.0.1,IP:{_SERVER}"
        command += ["-addext", names, "-keyout", str(key), "-out", str(made)]
        subprocess.run(command, check=True, capture_output=True)
        path.write_bytes(key.read_bytes() + made.read_bytes())
        return path
    try:
        import trustme
    except ImportError:
        raise Unavailable("the network mode needs openssl, or trustme (the `bench` extra has it)") from None
    authority = trustme.CA()
    leaf = authority.issue_cert("localhost", "127.0.0.1", _SERVER)
    parts = [leaf.private_key_and_cert_chain_pem.bytes(), authority.cert_pem.bytes()]
    path.write_bytes(b"".join(parts))
    return path


# -- the relay ----------------------------------------


@contextlib.contextmanager
def _with_relay(certificate: FilePath, reason: str) -> Iterator[list[Path]]:
    emulator = f"relay process ({reason}): no slow start, no loss"
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(run_server(certificate=certificate))
        made = []
        for milliseconds in ROUND_TRIPS:
            seconds = str(milliseconds / 1000)
            arguments = ["--port", str(server["tls"]), "--round-trip", seconds, "--megabits", str(MEGABITS)]
            ports = stack.enter_context(helper("benchmarks.relay", *arguments))
            made.append(
                Path(
                    name=f"{milliseconds} ms",
                    base_url=f"https://localhost:{ports['relay']}/v1",
                    warm_url=f"https://localhost:{server['tls']}/v1",
                    control_url=server.plain,
                    emulator=emulator,
                    environment={"SSL_CERT_FILE": str(certificate)},
                )
            )
        yield made


# -- netem ----------------------------------------


def _run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False)


def netem_trouble() -> str | None:
    """Says why `tc netem` in a namespace cannot be used here, or None if it can."""
    if not shutil.which("ip") or not shutil.which("tc"):
        return "iproute2 is not installed"
    if os.geteuid() != 0:
        return "network namespaces need root"
    probe = f"{_NAMESPACE}-probe"
    if _run("ip", "netns", "add", probe).returncode != 0:
        return "no network namespaces here"
    try:
        words = f"ip netns exec {probe} tc qdisc add dev lo root netem delay 1ms".split()
        return None if _run(*words).returncode == 0 else "this kernel has no netem"
    finally:
        _run("ip", "netns", "delete", probe)


@contextlib.contextmanager
def _with_netem(certificate: FilePath) -> Iterator[list[Path]]:
    """One namespace for the clients; each path sets its own delay before its clients run."""
    try:
        for line in (
            f"ip netns add {_NAMESPACE}",
            f"ip link add {_OUTSIDE} type veth peer name {_INSIDE} netns {_NAMESPACE}",
            f"ip addr add {_SERVER}/30 dev {_OUTSIDE}",
            f"ip link set {_OUTSIDE} up",
            f"ip -n {_NAMESPACE} addr add {_CLIENT}/30 dev {_INSIDE}",
            f"ip -n {_NAMESPACE} link set {_INSIDE} up",
            f"ip -n {_NAMESPACE} link set lo up",
        ):
            done = _run(*line.split())
            if done.returncode != 0:
                raise Unavailable(f"`{line}`: {done.stderr.strip()}")
        with run_server(certificate=certificate, host=_SERVER) as server:
            yield [netem_path(milliseconds, server, certificate) for milliseconds in ROUND_TRIPS]
    finally:
        _run("ip", "netns", "delete", _NAMESPACE)
        _run("ip", "link", "delete", _OUTSIDE)


def netem_path(milliseconds: int, server: Endpoint, certificate: FilePath) -> Path:
    """Describes the way into the namespace with a round trip."""
    half = f"{milliseconds / 2:g}ms"
    # The delay belongs to the device and not to the path, so each client's command sets it first.
    script = (
        f'tc qdisc replace dev {_INSIDE} root netem delay {half} rate {MEGABITS}mbit limit 10000 && exec "$@"'
    )
    outside = f"tc qdisc replace dev {_OUTSIDE} root netem delay {half} limit 10000"
    url = f"https://{_SERVER}:{server['tls']}/v1"
    return Path(
        name=f"{milliseconds} ms",
        base_url=url,
        # Through the same delay, but not measured either.
        warm_url=url + "/",
        control_url=server.plain,
        emulator="network namespace with tc netem",
        prefix=["sh", "-c", f"{outside} && exec ip netns exec {_NAMESPACE} sh -c '{script}' sh \"$@\"", "sh"],
        environment={"SSL_CERT_FILE": str(certificate)},
    )
