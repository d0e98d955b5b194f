"""`python -m benchmarks page`: the documentation's page, from files of one machine and day.

All numbers of the page come from those files. The text says what is measured and what is not, and holds
whatever the numbers are.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from .charts import write_charts
from .plan import SIZES, Options
from .results import Results
from .tables import conversations_title, tables, verdicts
from .targets import judge

__all__ = ["write_page"]

_INTRO = """# Performance

<!-- Written by `python -m benchmarks page`; change the text there. -->

This page shows one run of the benchmarks that are part of the repository. Run them yourself:

<!-- not run: the benchmarks take from minutes to half an hour -->
```bash
pip install -e ".[bench]"
python -m benchmarks compare --json run.json --svg charts
python -m benchmarks compare --mode network
python -m benchmarks memory --turns 1000
python -m benchmarks profile --agent
```

`--quick` takes a few minutes and is enough to see the picture. `compare` ends with exit code 1 where a
target is missed.

## What is measured

A scripted server in a process of its own answers with bytes that were made before, so that it is not what
is measured. Every client has the same conversation with it: a system prompt of 2 KB, 12 tools with 8 KB of
schemas, tool outputs of 4 KB, and in each turn one function call whose arguments come in 40 deltas. Each
measurement has a fresh process, warms up with a few turns, and is repeated in rounds in which all clients
run in random order. Tables show the median and, in brackets, the lowest and the highest round. CPU is that
of the client's whole process, I/O thread included; bytes are what the server received, headers and
handshake included.

Two floors say what is possible. The **wire floor** is `websockets`, `orjson` and a loop that looks for the
terminal event. The **LangChain floor** is the same inside a minimal `BaseChatModel`. Neither proves that a
delta is right, handles errors, bounds memory or reports metadata. The messages of the LangChain floor hold
plain text; "**with whole messages**" they say what those of `ChatOpenAI` say (content blocks, usage, metadata),
and nothing else is different. What that costs is LangChain's: it looks at every block of the history in each call.

## What is not measured

- The server's own time. What a socket saves there, a warm cache and state in memory, cannot be seen on a
  local server.
- The pace of a real model. Here an answer arrives at once; events that trickle in cost every client more
  for each.
- Times are those of one machine and its neighbours. Compare ratios, not milliseconds, and rounds before
  ratios.
- Clients that do more: openai-agents and pydantic-ai run the agent's loop as well, the chat models do not.
  Only the table of `create_agent` compares whole agents.

## When not to use this

- **A single question without tools.** Opening a socket takes more round trips than a request over HTTP: see
  the column "no tool turn" below. `transport="auto"` sends such questions over HTTP for that reason.
- **Short conversations with long thinking.** Where the model thinks for seconds and the history is short,
  the transport is a few percent of the time whatever it is.
- **In place of `use_previous_response_id` for speed on a warm HTTP connection alone.** Over the network the
  two take about the same time. What this package adds there is that a delta is proved to be right, that
  `store=False` works, that tools slower than HTTP's keep-alive do not cost a new connection, and less CPU.
"""

_NETWORK = """
How much of a published "up to 40 % faster" is transport? Against HTTP with the full history, the saving
grows with the number of tool turns, because the history that HTTP resends grows; against HTTP with
`previous_response_id` next to nothing is left on a warm connection. With thinking time between the turns
the same seconds are a smaller share. The tables say where HTTP wins.
"""

_CONVERSATIONS = """
"MiB before" is the peak before the first conversation that counts: imports, the model, a warm-up. Most of
it is `langchain_openai` and the openai SDK, which `ChatOpenAI` cannot be without. What comes on top is
mostly history: callers of chat models keep their messages, as LangChain wants it, and the wire floor keeps
none. This package's messages are `ChatOpenAI`'s with a link and how they were sent, and beside each stands
what it was proved by. With hundreds of conversations Python's garbage collector has its part in the CPU as
well: each full collection walks through all that was imported, which for the wire floor is little.
"""

_PROFILE = """
The profile interrupts the thread and looks where it is; each sample counts for the innermost function of a
known package, with what that calls in C and in the standard library. "Event loop" is asyncio's own work and
the system calls. "The socket" is what every client of this protocol does in some library: frames, JSON,
events, the I/O thread. Planning, proving, converting and reporting a turn is "above the socket".
"""

_CHARTS = (
    ("cpu-per-turn", "CPU of a turn against its number"),
    ("bytes-per-turn", "Bytes sent in a turn against its number"),
    ("cpu-per-event", "CPU for each streamed event"),
    ("throughput", "Throughput against the number of conversations"),
    ("p99", "99th percentile of a turn against the number of conversations"),
)


def write_page(given: Any) -> int:
    """Writes the page and its charts."""
    loaded = [json.loads(Path(name).read_text(encoding="utf-8")) for name in given.runs]
    out = Path(given.out)
    folder = out.parent / "performance"
    sections, rows, charts = [], [], set()
    for run in loaded:
        options, results = Options(**run["options"]), Results()
        results.load(run["measurements"])
        rows += judge(results, options)
        charts |= {path.stem for path in write_charts(folder, results, options)}
        for text in tables(results, options):
            if text.strip():
                title, _, body = text.strip().partition("\n")
                sections.append((title, body))
    parts = [_INTRO, "\n## This run\n", _about(loaded)]
    if given.note:
        parts.append(f"\n{given.note}\n")
    if rows:
        drawn = verdicts(sorted(rows, key=lambda row: int(row.target[1:])))
        parts += ["\n## Targets\n", _fenced(drawn.strip().partition("\n")[2])]
    for name, title in _CHARTS:
        if name in charts:
            parts.append(f"\n![{title}]({folder.name}/{name}.svg)\n")
    for title, body in sections:
        note = _note_on(title)
        parts += [f"\n### {title}\n", note, _fenced(body)]
    for option, title, note in (
        ("profile", "Where the time of a rollout goes", _PROFILE),
        ("memory", "A conversation of 1,000 turns", ""),
    ):
        named = getattr(given, option) or ()
        names = [named] if isinstance(named, str) else named
        if names:
            parts += [f"\n## {title}\n", note]
            parts += [_fenced(Path(name).read_text(encoding="utf-8").strip()) for name in names]
    out.write_text("".join(parts), encoding="utf-8")
    print(f"wrote {out}", file=sys.stderr)
    return 0


def _note_on(title: str) -> str:
    if title.startswith("Wall time saved"):
        return _NETWORK
    return _CONVERSATIONS if title == conversations_title(max(SIZES)) else ""


def _about(runs: list[dict[str, Any]]) -> str:
    about = runs[0]["environment"]
    lines = [f"- {name}: {value}" for name, value in about.items()]
    rounds = sorted({run["options"]["runs"] for run in runs})
    lines.append(f"- rounds: {', '.join(map(str, rounds))}")
    lines += [f"- emulated network: {run['emulator']}" for run in runs if run["emulator"]]
    return "\n" + "\n".join(lines) + "\n"


def _fenced(text: str) -> str:
    return f"\n```text\n{text}\n```\n"
