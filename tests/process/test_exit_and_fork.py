"""Models in processes that fork and end: nobody is hurt, and nothing is said on stderr."""

from __future__ import annotations

import http.client
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from process.kit import PRELUDE, PROJECT, SECONDS, counted, environment, python

from langchain_ws_responses.testing import ResponsesServer, text

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="os.fork is missing on this system"),
    pytest.mark.timeout(SECONDS),
]
FORKS = counted(20, 100)
EXITS = counted(10, 200)


def test_many_forks_with_an_open_connection() -> None:
    with ResponsesServer() as server:
        out = python(
            """
            warnings.simplefilter("ignore")  # Python 3.12 warns of any fork beside a thread: that is what this is about
            model = make()
            assert model.invoke("parent").text
            before = resources()
            gc.freeze()  # else every child that exits takes LangChain's objects apart, one by one, for seconds
            for number in range(int(sys.argv[2])):
                child = os.fork()
                if child == 0:
                    assert default_manager().stats().connections_open == 0
                    assert "child" in model.invoke("child").text
                    # One leaves as programs do, the other as workers do.
                    sys.exit(0) if number % 2 else os._exit(0)
                status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
                assert status == 0, status
                assert "parent" in model.invoke("parent").text
            assert resources() == before, (resources(), before)
            print(default_manager().stats().dials)
            """,
            server.base_url,
            str(FORKS),
        )
        assert out == "1\n"
        assert len(server.connections) == 1 + FORKS
        parents = {request.connection for request in server.requests if request.last_user_text == "parent"}
        assert len(parents) == 1


RANDOM_EXITS = """
import random, signal, tempfile
CALLERS = ("invoke", "stream", "astream", "thread", "loop in a thread", "many threads")

def run_one(seed):
    # The same moments at each run, as far as one thread can tell.
    rng = random.Random(seed)
    left, enough = rng.randrange(60), threading.Event()

    def count(_=None):
        nonlocal left
        left -= 1
        if left <= 0:
            enough.set()

    # One's own manager and the process's.
    own = rng.random() < 0.5
    if own:
        model = make(manager=ConnectionManager(hooks=[count]))
    else:
        model = make()
        default_manager().hooks = (count,)

    def stream(until=None):
        while True:
            for chunk in model.stream("Hello"):
                count()
                if until is not None and until.is_set():
                    return

    async def astream(until=None):
        while True:
            async for chunk in model.astream("Hello"):
                count()
                if until is not None and until.is_set():
                    return

    caller = rng.choice(CALLERS)
    if caller == "invoke":
        while not enough.is_set():
            model.invoke("Hello")
    elif caller == "stream":
        stream(enough)
    elif caller == "astream":
        asyncio.run(astream(enough))
    else:
        targets = {
            "thread": [stream],
            "loop in a thread": [lambda: asyncio.run(astream())],
            "many threads": [stream, stream, lambda: asyncio.run(astream()), lambda: model.invoke("Hello")],
        }[caller]
        for target in targets:
            threading.Thread(target=target, daemon=True).start()
        enough.wait()
    if rng.random() < 0.2:
        signal.raise_signal(signal.SIGTERM)
    return caller

signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
# Imported once, forked for each run: a process of its own with a whole interpreter to end, at a tenth of the time.
gc.freeze()  # as above
said = []
for seed in range(int(sys.argv[2])):
    with tempfile.TemporaryFile() as errors:
        child = os.fork()
        if child == 0:
            os.dup2(errors.fileno(), 2)
            run_one(seed)
            sys.exit(0)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        errors.seek(0)
        text = errors.read().decode()
        if status or text:
            said.append((seed, status, text))
print(json.dumps(said))
"""


def test_exits_at_random_moments_are_silent() -> None:
    with ResponsesServer(answer=lambda _request: text("one two three four five six", 12)) as server:
        assert python(RANDOM_EXITS, server.base_url, str(EXITS)) == "[]\n"
        assert len(server.connections) >= EXITS


def test_interrupted_as_by_a_notebook_s_stop_button() -> None:
    """KeyboardInterrupt in the middle of a sync call; the kernel and its loop live on."""
    with ResponsesServer(answer=lambda _request: text("one two three four", 4)) as server:
        out = python(
            """
            import signal
            model = make()
            async def cell():
                stopped = 0
                for _ in range(20):
                    chunks = model.stream("Hello")
                    next(chunks)
                    try:
                        signal.raise_signal(signal.SIGINT)
                        for _ in chunks:
                            pass
                    except KeyboardInterrupt:
                        stopped += 1
                        chunks.close()
                return stopped, model.invoke("after").text
            loop = asyncio.new_event_loop()
            print(*loop.run_until_complete(cell()))
            loop.close()
            """,
            server.base_url,
        )
    assert out == "20 one two three four\n"


# -- servers that fork


PRELOADED = """
import http.server, signal, socket
warnings.simplefilter("ignore", DeprecationWarning)  # as above
model = make()

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = json.dumps([os.getpid(), model.invoke(self.path[1:]).text]).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *args):
        pass

class Worker(http.server.ThreadingHTTPServer):
    daemon_threads = True

model.invoke("preload")
listener = socket.create_server(("127.0.0.1", 0))
workers = []
for _ in range(2):
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        server = Worker(("127.0.0.1", 0), Handler, bind_and_activate=False)
        server.socket.close()
        server.socket = listener
        os.write(1, b"%d\\n" % os.getpid())
        with server:
            server.serve_forever()
    workers.append(child)
os.write(1, b"%d\\n" % listener.getsockname()[1])
sys.stdin.readline()
model.invoke("master")
for child in workers:
    os.kill(child, signal.SIGTERM)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
model.invoke("after")
listener.close()
"""


def test_workers_of_a_preloaded_server() -> None:
    """As gunicorn does with `--preload`: the model was made and used before the workers were forked."""
    with ResponsesServer() as server:
        process = subprocess.Popen(
            [sys.executable, "-X", "dev", "-W", "error", "-c", PRELUDE + PRELOADED, server.base_url],
            cwd=PROJECT,
            env=environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        lines = {int(process.stdout.readline()) for _ in range(3)}
        port = next(line for line in lines if line not in _children(process.pid))
        answered = set()
        for number in range(40):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
            connection.request("GET", f"/question{number}")
            body = connection.getresponse().read().decode()
            assert f"question{number}" in body
            answered.add(body.split(",")[0])
            connection.close()
        _, errors = process.communicate("\n", timeout=60)
        assert errors == ""
        assert process.returncode == 0
        by = {request.last_user_text: request.connection for request in server.requests}
        assert by["preload"] == by["master"] == by["after"]
        assert by["preload"] not in {by[f"question{number}"] for number in range(40)}
        assert len(server.connections) == 1 + len(answered)


def _children(pid: int) -> set[int]:
    return {int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()}


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_a_pool_of_multiprocessing(method: str, tmp_path: Path) -> None:
    script = """
    import multiprocessing
    warnings.simplefilter("ignore", DeprecationWarning)  # as above
    model = None
    def work(number):
        global model
        model = model or make()
        return model.invoke(f"number {number}").text
    if __name__ == "__main__":
        if sys.argv[2] == "fork":
            model = make()
            assert model.invoke("parent").text
        with multiprocessing.get_context(sys.argv[2]).Pool(2) as pool:
            texts = pool.map(work, range(20))
            assert all(f"number {number}" in text for number, text in enumerate(texts)), texts
            pool.close()
            pool.join()
        print(len(texts))
    """
    with ResponsesServer() as server:
        assert python(script, server.base_url, method, file=tmp_path / "pool.py") == "20\n"
        assert len(server.connections) <= 3


def test_a_manager_is_refused_by_pickle_with_a_remedy(tmp_path: Path) -> None:
    script = """
    import multiprocessing
    def work(manager):
        raise AssertionError("it must not get here")
    if __name__ == "__main__":
        try:
            multiprocessing.get_context("spawn").Process(target=work, args=(ConnectionManager(),)).start()
        except TypeError as exc:
            print(exc)
    """
    with ResponsesServer() as server:
        out = python(script, server.base_url, file=tmp_path / "refused.py")
    assert "Make one in each process" in out


def test_signals_to_a_process_with_a_stream(tmp_path: Path) -> None:
    """SIGTERM without a handler ends the process at once, whatever the I/O thread does."""
    with ResponsesServer(answer=lambda _request: text("one two three", 3)) as server:
        script = textwrap.dedent(
            """
            import signal
            for chunk in make().stream("Hello"):
                signal.raise_signal(signal.SIGTERM)
            """
        )
        python(script, server.base_url, code=-signal.SIGTERM)
        assert len(server.requests) == 1
