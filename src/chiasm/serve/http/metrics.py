"""The metrics of /metrics in Prometheus' text format (version 0.0.4): counts, times and memory, no user data."""

import resource
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from chiasm.pipeline.execution_plan import Plan
from chiasm.serve.batcher import Batcher

BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
SIZES = (1, 2, 4, 8, 16, 32, 64)
ROUTES = frozenset(
    f"/v1/{name}"
    for name in (
        "embeddings",
        "chat/completions",
        "images/generations",
        "search",
        "ask",
        "caption",
        "classify",
        "match",
    )
) | {"/v1/models", "/healthz", "/readyz", "/metrics", "/openapi.json", "/"}


_ESCAPED = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n"})
"""In a label's value."""


class Metrics:
    """Counts requests by route and status; other values are read when the page is generated."""

    def __init__(self) -> None:
        self.started = time.time()
        self.requests: Counter[tuple[str, int]] = Counter()
        self.seconds: Counter[tuple[str, int]] = Counter()
        self.total_s: Counter[str] = Counter()

    def add(self, path: str, status: int, seconds: float) -> None:
        """One request; addresses that are no route share a name, so that a scanner cannot fill the memory."""
        route = path if path in ROUTES else "other"
        self.requests[route, status] += 1
        self.seconds[route, bisect_left(BUCKETS_S, seconds)] += 1
        self.total_s[route] += seconds  # type: ignore[assignment]  # a Counter of seconds

    def text(self, batcher: Batcher, open_requests: int, decoders_killed: int, held_bytes: int, plan: Plan) -> str:
        """The page."""
        stats = batcher.stats
        counts = [f'{{route="{route}",status="{status}"}} {n}' for (route, status), n in sorted(self.requests.items())]
        parts = [
            _family("chiasm_requests_total", "counter", "Requests answered.", counts),
            _family("chiasm_request_seconds", "histogram", "Time from first byte to answer.", self._histogram()),
            _family(
                "chiasm_execution_info", "gauge", "Number format of each part of the model, and why.", _formats(plan)
            ),
            _family("chiasm_batch_rows", "histogram", "Rows computed at once.", _sizes(stats.sizes, stats.rows)),
        ]
        for name, kind, told, value in (
            ("batches_total", "counter", "Batches computed.", stats.batches),
            ("model_seconds_total", "counter", "Time in the model.", f"{stats.seconds:.6f}"),
            ("refused_total", "counter", "Requests refused because the queue was full.", stats.refused),
            ("late_total", "counter", "Requests whose deadline passed in the queue.", stats.late),
            ("left_total", "counter", "Requests that nobody waited for any more.", stats.left),
            ("open_requests", "gauge", "Requests that are not answered yet, this one included.", open_requests),
            ("queue_rows", "gauge", "Rows admitted and not yet answered.", batcher.admitted),
            ("queue_capacity_rows", "gauge", "Rows that may be admitted at once.", batcher.capacity),
            ("decoders_killed_total", "counter", "Processes that an image cost, by time or memory.", decoders_killed),
            ("body_bytes", "gauge", "Bytes of bodies that are held.", held_bytes),
            ("resident_bytes", "gauge", "Memory of the process.", resident_bytes()),
            ("start_time_seconds", "gauge", "When the process began to serve.", f"{self.started:.3f}"),
        ):
            parts.append(_family(f"chiasm_{name}", kind, told, [f" {value}"]))
        return "".join(parts)

    def _histogram(self) -> list[str]:
        lines = []
        for route in sorted(self.total_s):
            total = 0
            for number, most in enumerate((*BUCKETS_S, "+Inf")):
                total += self.seconds[route, number]
                lines.append(f'_bucket{{route="{route}",le="{most}"}} {total}')
            lines.append(f'_sum{{route="{route}"}} {self.total_s[route]:.6f}')
            lines.append(f'_count{{route="{route}"}} {total}')
        return lines


def _formats(plan: Plan) -> list[str]:
    return [
        f'{{part="{name}",format="{part.format}",why="{part.why.translate(_ESCAPED)}"}} 1'
        for name, part in plan.parts.items()
    ]


def _sizes(sizes: dict[int, int], rows: int) -> list[str]:
    lines = []
    for most in SIZES:
        lines.append(f'_bucket{{le="{most}"}} {sum(n for size, n in sizes.items() if size <= most)}')
    count = sum(sizes.values())
    return [*lines, f'_bucket{{le="+Inf"}} {count}', f"_sum {rows}", f"_count {count}"]


def _family(name: str, kind: str, told: str, rows: Iterable[str]) -> str:
    return f"# HELP {name} {told}\n# TYPE {name} {kind}\n" + "".join(f"{name}{row}\n" for row in rows)


def resident_bytes() -> int:
    """Memory of this process in bytes; its peak where the system does not tell the present."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    except (OSError, ValueError, IndexError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
