"""Randomness without state: every draw is a pure function of named counters.

Order is a function of (seed, epoch); augmentation and caption choice of (seed, epoch, example); dropout of
(seed, step, rank). So resume needs two integers, and workers and ranks cannot shift a draw. The generator is
Philox (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"), which is made for this.
"""

import hashlib

import numpy as np
import torch


def counter_rng(*counters: int | str) -> np.random.Generator:
    """Return a generator that depends on `counters` alone; equal counters give equal streams everywhere.

    Strings name the purpose ("order", "caption") so that two uses of one seed stay independent.
    """
    digest = hashlib.blake2b(repr(counters).encode(), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest, "little")))


def counter_seed(*counters: int | str) -> int:
    """Return a 63-bit seed that depends on `counters` alone."""
    return int.from_bytes(hashlib.blake2b(repr(counters).encode(), digest_size=8).digest(), "little") >> 1


def seed_torch(*counters: int | str) -> None:
    """Seed torch's generators (dropout, initialisation) from `counters`."""
    torch.manual_seed(counter_seed(*counters))
