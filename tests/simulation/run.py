"""Many seeds of the simulation: python tests/simulation/run.py --seeds 10000 [--first 0] [--jobs 2] [--delivery ...]

A seed that fails is printed with what it violated; `--seeds 1 --first N` lives it again, step for step.
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import sys
import time
import traceback
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[2]))

import structlog
import torch
from clock import run
from reverted import FIXES
from world import Report, World


def one(arguments: tuple[int, str]) -> tuple[int, Report | str]:
    seed, delivery = arguments
    try:
        return seed, run(World(seed, delivery=delivery).run())
    except Exception:  # noqa: BLE001 - reported with its seed
        return seed, traceback.format_exc()


def one_without(arguments: tuple[int, str, str]) -> tuple[int, Report | str]:
    """`one`, with a fix of the service taken back."""
    seed, delivery, fix = arguments
    with FIXES[fix].taken_back():
        return one((seed, delivery))


def quiet() -> None:
    torch.set_num_threads(1)
    logging.disable(logging.CRITICAL)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=200)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--delivery", default="")
    parser.add_argument("--without", choices=FIXES, help="with a fix of the service taken back")
    parser.add_argument("--loud", action="store_true", help="the service's own log, too")
    options = parser.parse_args()
    if not options.loud:
        quiet()
    begin = time.monotonic()
    seeds = range(options.first, options.first + options.seeds)
    if options.without:
        each, delivery = one_without, options.delivery or FIXES[options.without].delivery
        work = [(seed, delivery, options.without) for seed in seeds]
    else:
        each, work = one, [(seed, options.delivery) for seed in seeds]
    tally = Tally()
    with multiprocessing.get_context("spawn").Pool(options.jobs, quiet) if options.jobs > 1 else _Here() as pool:
        for done, (seed, result) in enumerate(pool.imap_unordered(each, work, 20), 1):
            tally.add(seed, result)
            if done % 500 == 0 and done < len(work):
                print(f"{done} of {len(work)} in {time.monotonic() - begin:.0f} s: {tally}", flush=True)
    print(f"{len(work)} seeds in {time.monotonic() - begin:.0f} s: {tally}")
    sys.exit(bool(tally.failed))


class Tally:
    """What many runs did together."""

    def __init__(self) -> None:
        self.failed: list[int] = []
        self.total, self.fired = Counter[str](), Counter[str]()

    def add(self, seed: int, result: Report | str) -> None:
        if isinstance(result, str):
            self.failed.append(seed)
            print(f"seed={seed}\n{result}", flush=True)
            return
        self.fired.update(result.fired)
        self.total.update(
            {
                result.delivery: 1,
                "trained": result.trained,
                "gathered": result.gathered,
                "tight": result.tight,
                "virtual_s": int(result.virtual_s),
            }
            | {
                name: getattr(result, name)
                for name in (
                    "records",
                    "repeated",
                    "starts",
                    "weights",
                    "accepted",
                    "lineages",
                    "refused",
                    "configured",
                    "inexact",
                )
            }
        )

    def __str__(self) -> str:
        return f"{len(self.failed)} failed {self.failed[:20]}\n  {dict(self.total)}\n  faults {dict(self.fired)}"


class _Here:
    """One job: no other process."""

    def __enter__(self) -> _Here:
        return self

    def __exit__(self, *error: object) -> None:
        return

    def imap_unordered(self, function, work, chunk):  # type: ignore[no-untyped-def]
        return map(function, work)


if __name__ == "__main__":
    main()
