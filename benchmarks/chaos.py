"""The other side of the soak: a server that fails, behind a network that fails, in a process of its own.

python -m benchmarks.chaos SEED SHARE SECONDS
"""

from __future__ import annotations

import json
import random
import re
import sys
import threading
from collections import Counter
from typing import Any

from langchain_ws_responses.testing import (
    ChaosProxy,
    Fault,
    RecordedRequest,
    ResponsesServer,
    calls,
    drop,
    error,
    raw,
    text,
    tool_call,
)
from langchain_ws_responses.testing._script import Answer, insert

__all__ = ["TOKENS", "Chaos", "serve"]

TOKENS = 4
_ASKED = re.compile(r"c(\d+) t(\d+) a(\d+)")


class Chaos:
    """Answers of a server that fails about once in fifty frames.

    Args:
        seed: Of its moods.
        share: Share of the answers that something happens to.
    """

    def __init__(self, seed: int, share: float) -> None:
        self.random = random.Random(seed)
        self.share = share
        self.faults: Counter[str] = Counter()

    def answer(self, request: RecordedRequest) -> Answer:
        """Answers by what the model saw, or fails."""
        good = self._good(request)
        if self.random.random() >= self.share:
            return good
        kind = self.random.choice(
            ["429", "503", "500", "500 late", "foreign", "strange", "not found"] * 3
            + ["drop", "close", "garbage"]
        )
        self.faults[kind] += 1
        late = self.random.randrange(1, 6)
        if kind == "429":
            return error(code="rate_limit_exceeded", status=429, headers={"retry-after-ms": "50"})
        if kind == "503":
            return error(code="server_is_overloaded", status=503, type="server_error")
        if kind == "500":
            return error(status=500, type="server_error")
        if kind == "500 late":
            return error(status=500, type="server_error", after_events=late, answer=good)
        if kind == "not found":
            lost = request.previous_response_id is not None
            return error(code="previous_response_not_found") if lost else error(status=502)
        if kind == "foreign":
            stray = {"type": "response.output_text.delta", "stream_id": "nobody", "delta": "[9,9,9,9]"}
            return insert([stray], late, good)
        if kind == "strange":
            return insert(
                [{"type": "codex.rate_limits", "x": 1}, {"type": "response.unheard_of"}], late, good
            )
        if kind == "drop":
            return drop(late, None, good)
        if kind == "close":
            return drop(late, self.random.choice([1000, 1001, 1011, 1012, 1013]), good)
        return raw(["this is not JSON"])

    def _good(self, request: RecordedRequest) -> Answer:
        users, outputs, foreign, last = 0, 0, False, (0, 0, 0)
        for item in request.seen:
            said = json.dumps(item)
            if item.get("role") == "user":
                users += 1
            elif item.get("type") == "function_call_output":
                outputs += 1
            else:
                continue
            found = _ASKED.search(said)
            if found is not None:
                foreign = foreign or last[0] not in (0, int(found[1]))
                last = (int(found[1]), int(found[2]), int(found[3]))
        saw = f"u{users}o{outputs}" + ("FOREIGN" if foreign else "")
        conversation, turn, attempt = last
        asked = [item for item in request.seen if item.get("role") == "user"][-1:]
        new_question = bool(asked) and request.seen[-1] is asked[0]
        stamps = [f"[{conversation},{turn},{attempt},{number}]" for number in range(TOKENS)]
        if new_question and turn % 2:
            return calls(tool_call("look", {"stamp": "".join(stamps), "saw": saw}))
        return text("".join([*stamps, saw]), [*stamps, saw])


def _trouble(proxy: ChaosProxy, chaos: Chaos, seconds: float, stop: threading.Event) -> None:
    """Strikes a connection every few seconds."""
    while not stop.wait(chaos.random.uniform(0.5, 1.5) * seconds):
        links = [one for one in proxy.connections[-64:] if one.open]
        if not links:
            continue
        # Refusals are rare: ten failed dials in a minute, and nobody may dial for the rest of it.
        kinds = ["reset", "end", "blackhole", "fragment", "freeze"]
        kind = "refuse" if chaos.random.random() < 0.03 else chaos.random.choice(kinds)
        chaos.faults[f"network {kind}"] += 1
        if kind == "refuse":
            proxy.refuse()
            stop.wait(1.0)
            proxy.accept()
            continue
        fault: Any = {"kind": kind, "after_frames": chaos.random.randrange(20)}
        proxy.strike(Fault(**fault), connection=chaos.random.choice(links))
        if kind == "freeze":
            stop.wait(1.0)
            proxy.thaw()


def serve(seed: int, share: float, every: float) -> int:
    """Runs server and network until standard input ends; answers each line with what was done so far."""
    chaos, stop = Chaos(seed, share), threading.Event()
    with ResponsesServer(answer=chaos.answer, event_delay=0.03) as server, ChaosProxy(server) as proxy:
        trouble = threading.Thread(target=_trouble, args=(proxy, chaos, every, stop), daemon=True)
        trouble.start()
        print(json.dumps({"base_url": proxy.base_url}), flush=True)
        most = 0
        for _ in sys.stdin:
            most = max(most, proxy.open)
            print(json.dumps({"faults": chaos.faults, "dials": proxy.dials, "most": most}), flush=True)
            server.requests.clear()  # a long run must not fill the memory with its own history
        stop.set()
        trouble.join()
        proxy.heal()
    return 0


if __name__ == "__main__":
    sys.exit(serve(int(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3])))
