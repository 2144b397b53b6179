"""How much of the engine's speed is left over HTTP, and what an overload does.

    python benchmarks/serve_load.py RUN [--seconds 5] [--rounds 5] [--burst 60] [--bursts 3] [--photos FOLDER]
        [--json FILE]

Prints the engine's own rate and the rate through HTTP at 32 clients, interleaved, and their ratio; the latency of a
single client and of 32; and bursts of five times the capacity, each between two measures of the capacity: the share of
it that was still answered (median, least and greatest of the bursts), the 99th percentile of what was accepted, how
fast the rest was refused, and memory before and after. The clients run on the same machine and take their part of it,
which is printed. A run that answers questions is asked, another one embeds; --photos gives it photos in the place of
its own example.
"""

import argparse
import asyncio
import itertools
import statistics
import time
from pathlib import Path
from typing import Any

from serving import Answer, Client, Process, data_uri, metric, percentile, pictures_of, request_bytes, served

CLIENTS, OVERLOAD, ROWS = 32, 5, 32
QUESTIONS = ("how many circles are there?", "is there a red circle?", "what color is the circle?", "有几个圆形？")


async def closed_loop(process: Process, requests: list[bytes], clients: int, seconds: float) -> list[Answer]:
    """Every client sends the next request when it has the answer to the last."""
    end, answers = time.perf_counter() + seconds, []
    turn = itertools.cycle(requests)

    async def one() -> None:
        client = Client(process)
        while time.perf_counter() < end:
            answers.append(await client.send(next(turn)))
        client.close()

    await asyncio.gather(*(one() for _ in range(clients)))
    return answers


async def open_loop(process: Process, requests: list[bytes], rate: float, seconds: float) -> list[Answer]:
    """Requests arrive at a rate, whatever becomes of those before."""
    idle: list[Client] = []
    answers: list[Answer] = []
    tasks: set[asyncio.Task[None]] = set()
    turn = itertools.cycle(requests)

    async def one(request: bytes) -> None:
        client = idle.pop() if idle else Client(process)
        answers.append(await client.send(request))
        idle.append(client)

    start = time.perf_counter()
    for number in range(int(rate * seconds)):
        wait = start + number / rate - time.perf_counter()
        if wait > 0:
            await asyncio.sleep(wait)
        task = asyncio.create_task(one(next(turn)))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
    await asyncio.gather(*tasks)
    for client in idle:
        client.close()
    return answers


def answered(process: Process, requests: list[bytes], seconds: float) -> tuple[float, list[Answer]]:
    """Rows a second through HTTP at 32 clients, and the answers, which must all be good."""
    answers = asyncio.run(closed_loop(process, requests, CLIENTS, seconds))
    assert {one.status for one in answers} == {200}, "an answer failed without overload"
    return len(answers) / seconds, answers


def offline_rate(model: Any, pictures: list[bytes], is_asked: bool, seconds: float) -> float:
    """Rows a second of the engine itself, from the same bytes."""
    rows = [pictures[n % len(pictures)] for n in range(ROWS)]
    texts = [QUESTIONS[n % len(QUESTIONS)] for n in range(ROWS)]
    done, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        # As separate objects, as separate requests are: a picture that is the same object is encoded once.
        model.ask([bytes(bytearray(one)) for one in rows], texts) if is_asked else model.encode_image(rows)
        done += ROWS
    return done / (time.perf_counter() - start)


def measure(
    run: Path, photos: Path | None, seconds: float, rounds: int, burst_s: tuple[float, ...]
) -> dict[str, float]:
    """All of it; see the module. `burst_s` has the seconds of each burst."""
    import chiasm

    model, pictures = chiasm.load(run), pictures_of(run, photos, 64)
    is_asked = "vqa" in model.tasks
    with served(run) as process:
        if is_asked:
            pairs = [(one, QUESTIONS[n % len(QUESTIONS)]) for n, one in enumerate(pictures * len(QUESTIONS))]
            requests = [
                request_bytes(process, "/v1/ask", {"image": data_uri(one), "question": text}) for one, text in pairs
            ]
        else:
            shape = {"encoding_format": "base64"}
            requests = [request_bytes(process, "/v1/embeddings", {"input": data_uri(one), **shape}) for one in pictures]
        offline_rate(model, pictures, is_asked, 0.5)
        asyncio.run(closed_loop(process, requests, CLIENTS, 1))
        ratios, offline, online, many, single = [], [], [], [], []
        for _ in range(rounds):
            offline.append(offline_rate(model, pictures, is_asked, seconds))
            rate, answers = answered(process, requests, seconds)
            online.append(rate)
            ratios.append(online[-1] / offline[-1])
            many += [one.seconds for one in answers]
            single += [one.seconds for one in asyncio.run(closed_loop(process, requests, 1, min(seconds, 2)))]
        before = metric(process, "resident_bytes")
        # Other guests of the machine come and go within a minute: each burst is compared with both sides of it.
        capacities, answers, goodputs, lasted_s, clients_s = [online[-1]], list[Answer](), list[float](), 0.0, 0.0
        for burst in burst_s:
            capacities.append(answered(process, requests, 2 * seconds)[0])
            begin, used = time.perf_counter(), time.process_time()
            found = asyncio.run(open_loop(process, requests, OVERLOAD * capacities[-1], burst))
            took_s = time.perf_counter() - begin
            clients_s, lasted_s, answers = clients_s + time.process_time() - used, lasted_s + took_s, answers + found
            capacities.append(answered(process, requests, 2 * seconds)[0])
            good_per_s = sum(one.status == 200 for one in found) / took_s
            goodputs.append(good_per_s / statistics.mean(capacities[-2:]))
        time.sleep(1)
        after, again = metric(process, "resident_bytes"), asyncio.run(closed_loop(process, requests, 1, 0.5))
    good = [one.seconds for one in answers if one.status == 200]
    refused = [one for one in answers if one.status == 503]
    return {
        "offline_rows_per_s": statistics.median(offline),
        "http_rows_per_s": statistics.median(online),
        "http_over_offline": statistics.median(ratios),
        "single_median_ms": 1e3 * statistics.median(single),
        "clients_32_median_ms": 1e3 * statistics.median(many),
        "clients_32_over_single": statistics.median(many) / statistics.median(single),
        "burst_offered_per_s": len(answers) / lasted_s,
        "burst_goodput_over_capacity": statistics.median(goodputs),
        "burst_goodput_least": min(goodputs),
        "burst_goodput_greatest": max(goodputs),
        "burst_clients_cores": clients_s / lasted_s,
        "burst_accepted_p99_ms": 1e3 * percentile(good, 0.99),
        "burst_refused_p99_ms": 1e3 * percentile([one.seconds for one in refused], 0.99),
        "burst_refused_with_retry_after": sum(bool(one.retry_after) for one in refused) / max(len(refused), 1),
        "burst_connection_broken": sum(one.status == 0 for one in answers),
        "burst_other_answers": sum(one.status not in (0, 200, 503) for one in answers),
        "burst_memory_growth_mib": (after - before) / 2**20,
        "normal_again": float({one.status for one in again} == {200}),
    }


def main() -> None:
    """The command."""
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("run", type=Path)
    words.add_argument("--photos", type=Path, default=None)
    words.add_argument("--seconds", type=float, default=5)
    words.add_argument("--rounds", type=int, default=5)
    words.add_argument("--burst", type=float, default=60)
    words.add_argument("--bursts", type=int, default=3)
    words.add_argument("--json", type=Path, default=None)
    given = words.parse_args()
    found = measure(given.run, given.photos, given.seconds, given.rounds, (given.burst,) * max(1, given.bursts))
    for name, value in found.items():
        print(f"{name:32} {value:10.3f}")
    if given.json:
        from chiasm.core.device import environment
        from chiasm.core.files import write_json

        write_json(given.json, {"found": found, "environment": environment()})


if __name__ == "__main__":
    main()
