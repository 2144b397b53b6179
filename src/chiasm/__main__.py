"""`python -m chiasm` is `chiasm`."""

from chiasm.cli import main

main()
