"""`RecordingServer`: a local endpoint in front of a real one that writes down what passes through it."""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import urlsplit

from langchain_ws_responses.testing._engine import Config
from langchain_ws_responses.testing._listener import LocalServer
from langchain_ws_responses.testing._relay import HttpRelay, SocketRelay, Upstream
from langchain_ws_responses.testing._scrub import Scrubber, Secrets, check_allowed
from langchain_ws_responses.testing._stream import Stream
from langchain_ws_responses.testing._tape import Tape

__all__ = ["OPENAI", "RecordingServer"]

OPENAI = "https://api.openai.com/v1"
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


class RecordingServer(LocalServer):
    """A local endpoint that passes everything on to a real one and records it, WebSocket and HTTP alike.

    Point the client at `base_url`. Leaving its `with` block without an exception writes the cassette; elsewhere call
    `save`. Of headers only those on a short list are kept, never credentials or cookies; what looks like a key is
    replaced in bodies, too, and a cassette that would still hold a secret of this recording is not written.

    Args:
        cassette: The file to write.
        upstream: Base URL of the real endpoint.
        api_key: Key for it, which replaces the client's; `None` passes the client's on. It is never written.
        scrubbers: Functions that get every string of a body and return what is written instead. A replay needs the
            same ones.
        secrets: Strings that must not be in the cassette; they are replaced like keys.
        record_headers: Further headers to keep; none that may carry credentials.
        host: Address to listen on.
        port: Port to listen on; 0 takes a free one.
        ssl_context: For TLS to the upstream.

    Attributes:
        path: The file.
        recording: Always `True`.

    Raises:
        ValueError: `upstream` is not an HTTP(S) URL, would be reached in the clear on another machine, or a header may
            carry credentials.

    Example:
        ```python
        with RecordingServer("weather.jsonl", api_key=os.environ["OPENAI_API_KEY"]) as server:
            ...  # point a client at `server.base_url`
        ```
    """

    recording = True

    def __init__(
        self,
        cassette: str | Path,
        *,
        upstream: str = OPENAI,
        api_key: str | None = None,
        scrubbers: Iterable[Scrubber] = (),
        secrets: Iterable[str] = (),
        record_headers: Iterable[str] = (),
        host: str = "127.0.0.1",
        port: int = 0,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        parts = urlsplit(upstream)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username is not None:
            raise ValueError("the upstream is no base URL; write it as https://api.example.com/v1")
        if parts.scheme == "http" and parts.hostname not in _LOOPBACK:
            raise ValueError(
                "a plain http upstream on another machine would get the key in the clear; use https"
            )
        super().__init__(Config(lifetime=None), (), host, port)
        self.path = Path(cassette)
        known = {f"secret {number}": secret for number, secret in enumerate(secrets, 1)}
        known |= {name: value for name, value in os.environ.items() if name.endswith("_API_KEY")}
        if api_key is not None:
            known["the API key"] = api_key
        self._upstream = Upstream(upstream.rstrip("/"), api_key, ssl_context)
        self._tape = Tape(self._engine, Secrets(scrubbers, known), check_allowed(record_headers))

    def __repr__(self) -> str:
        return f"<RecordingServer [{self.path.name} | {len(self._tape)} interactions]>"

    def save(self) -> int:
        """Writes the cassette and says how many interactions it has; a response in flight counts as lost.

        Raises:
            CassetteError: It would still hold a secret, or cannot be written.
        """
        return self._tape.save(self.path)

    def assert_exhausted(self) -> None:
        """Checks that nothing raised in the server.

        Raises:
            AssertionError: Something did.
        """
        for failure in self._engine.failures:
            raise AssertionError(f"{type(failure).__name__} was raised in the server: {failure}") from failure

    def _leave(self, *, clean: bool) -> None:
        super()._leave(clean=clean)
        if clean:
            self.assert_exhausted()
            self.save()

    def _http_peer(self, stream: Stream) -> HttpRelay:
        return HttpRelay(self._engine, stream, self._upstream, self._tape)

    def _websocket_peer(self, stream: Stream) -> SocketRelay:
        return SocketRelay(self._engine, stream, self._upstream, self._tape)
