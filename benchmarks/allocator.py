"""What keeping freed memory (mallopt) saves: the same GELU in a process with it and in one without, in turn.

Once in the main thread, and once in another, where a server's model is.

Command: python benchmarks/allocator.py
"""

import subprocess
import sys

from timing import compare, show

CHILD = """
import sys, threading, time, torch
import torch.nn.functional as F
from chiasm.core.device import keep_freed_memory
if sys.argv[1] == "keep":
    keep_freed_memory()
x = torch.randn(40960, 512)
def work():
    for line in sys.stdin:
        start = time.perf_counter()
        for _ in range(5):
            F.gelu(x)
        print((time.perf_counter() - start) / 5 * 1000, flush=True)
if sys.argv[2] == "main":
    work()
else:
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
"""


def main() -> None:
    """Ask two children in turn, so that both meet the same neighbours on the machine."""
    for where in ("main", "other"):
        children = {
            name: subprocess.Popen(
                [sys.executable, "-c", CHILD, name, where],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                bufsize=1,
            )
            for name in ("return", "keep")
        }

        def once(name: str, children: dict[str, "subprocess.Popen[str]"] = children) -> None:
            child = children[name]
            assert child.stdin is not None
            assert child.stdout is not None
            child.stdin.write("go\n")
            child.stdin.flush()
            child.stdout.readline()

        found = compare({"memory returned": lambda: once("return"), "memory kept": lambda: once("keep")})
        show(f"five fp32 GELUs over 40,960 x 512 numbers, {where} thread", found)
        for child in children.values():
            child.kill()


if __name__ == "__main__":
    main()
