"""What importing this package costs on top of `langchain_openai`, each time in a fresh process."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys

from .processes import PROJECT, environment

__all__ = ["main"]

_CODE = """
import json, time
began = time.perf_counter(), time.process_time()
from langchain_openai import ChatOpenAI
middle = time.perf_counter(), time.process_time()
from langchain_ws_responses import ChatOpenAIWebSocket
end = time.perf_counter(), time.process_time()
ChatOpenAIWebSocket(model="gpt-5.5", api_key="sk-benchmark")
ready = time.perf_counter()
print(json.dumps({
    "base_wall": middle[0] - began[0],
    "extra_wall": end[0] - middle[0],
    "extra_cpu": end[1] - middle[1],
    "model_wall": ready - end[0],
}))
"""


def main() -> None:
    """Prints the medians of as many processes as the job says."""
    repeat = json.loads(sys.argv[1])["repeat"]
    measured = [
        json.loads(
            subprocess.run(
                [sys.executable, "-c", _CODE],
                cwd=PROJECT,
                env=environment(),
                capture_output=True,
                text=True,
                check=True,
            ).stdout
        )
        # The first one may find no byte code and an empty file cache.
        for _ in range(repeat + 1)
    ][1:]
    print(json.dumps({name: statistics.median(run[name] for run in measured) for name in measured[0]}))


if __name__ == "__main__":
    main()
