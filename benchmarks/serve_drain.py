"""SIGTERM with requests in flight: how many are lost, against a server that just ends.

    python benchmarks/serve_drain.py RUN [--times 20] [--clients 40]

Each time a server is started, every client sends one request, and when all are accepted the server gets SIGTERM. A
request is lost when its connection breaks without an answer. The null control is the same application under the default
meaning of the signal; it must lose some, or the test shows nothing.
"""

import argparse
import asyncio
import signal
import sys
from pathlib import Path

from serving import Answer, Client, Process, data_uri, metric, pictures_of, request_bytes, served

LABELS = [f"label {number}" for number in range(60)]


async def _stop_in_flight(process: Process, requests: list[bytes]) -> list[Answer]:
    clients = [Client(process) for _ in requests]
    waiting = [asyncio.create_task(client.send(one)) for client, one in zip(clients, requests, strict=True)]
    accepted = 0
    while accepted < len(requests):  # the question how many are open is itself one of them
        accepted = (
            int(await asyncio.to_thread(metric, process, "open_requests")) - 1 + sum(one.done() for one in waiting)
        )
    process.stop()
    answers = list(await asyncio.gather(*waiting))
    for client in clients:
        client.close()
    await asyncio.sleep(0.05)  # until the connections are closed on this side too
    return answers


def drain_once(run: Path, clients: int, is_naive: bool) -> tuple[int, int, int]:
    """Requests answered, told that the server is stopping, and lost."""
    command = (str(Path(__file__).resolve()), "--naive-server") if is_naive else ("-m", "chiasm", "serve")
    with served(run, command=command) as process:
        image = data_uri(pictures_of(run, None, 1)[0])
        # Labels of its own make each request long: nobody else's class vectors can be used.
        requests = [
            request_bytes(process, "/v1/classify", {"image": image, "labels": [f"{n} {one}" for one in LABELS]})
            for n in range(clients)
        ]
        answers = asyncio.run(_stop_in_flight(process, requests))
        code = process.popen.wait(60)
        assert is_naive or code == 0, f"the server ended with {code}"
    good = sum(one.status == 200 for one in answers)
    told = sum(one.status == 503 and bool(one.retry_after) for one in answers)
    return good, told, len(answers) - good - told


def naive_server(run: str) -> None:
    """The same application, ended by the signal as any process is."""
    import uvicorn

    import chiasm
    from chiasm.serve.http.app import build_app
    from chiasm.serve.http.server import listen
    from chiasm.serve.http.service import Service
    from chiasm.serve.http.settings import ServerSettings

    door = listen("127.0.0.1", 0)
    server = uvicorn.Server(
        uvicorn.Config(build_app(Service(chiasm.load(run), "run", ServerSettings())), log_level="error")
    )
    server.handle_exit = lambda sig, frame: sys.exit(signal.signal(sig, signal.SIG_DFL) and signal.raise_signal(sig))  # type: ignore[method-assign]
    print(f"serving at http://127.0.0.1:{door.getsockname()[1]}", flush=True)
    server.run(sockets=[door])


def main() -> None:
    """The command."""
    if sys.argv[1:2] == ["--naive-server"]:
        naive_server(sys.argv[2])
        return
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("run", type=Path)
    words.add_argument("--times", type=int, default=20)
    words.add_argument("--clients", type=int, default=40)
    given = words.parse_args()
    for name, is_naive in (("chiasm serve", False), ("null control", True)):
        found = [drain_once(given.run, given.clients, is_naive) for _ in range(given.times)]
        good, told, lost = (sum(column) for column in zip(*found, strict=True))
        print(f"{name}: {given.times} times {given.clients} in flight: {good} answered, {told} told to go, {lost} lost")
        assert (lost > 0) == is_naive, f"{name} lost {lost}"


if __name__ == "__main__":
    main()
