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
from world import Report, World


def one(arguments: tuple[int, str]) -> tuple[int, Report | str]:
    seed, delivery = arguments
    try:
        return seed, run(World(seed, delivery=delivery).run())
    except Exception:  # noqa: BLE001 - told with its seed
        return seed, traceback.format_exc()


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
    parser.add_argument("--loud", action="store_true", help="the service's own log, too")
    options = parser.parse_args()
    if not options.loud:
        quiet()
    begin = time.monotonic()
    work = [(seed, options.delivery) for seed in range(options.first, options.first + options.seeds)]
    total, failed, fired = Counter[str](), [], Counter[str]()
    with multiprocessing.get_context("spawn").Pool(options.jobs, quiet) if options.jobs > 1 else _Here() as pool:
        for done, (seed, result) in enumerate(pool.imap_unordered(one, work, 20), 1):
            if isinstance(result, str):
                failed.append(seed)
                print(f"seed={seed}\n{result}", flush=True)
            else:
                total.update(
                    records=result.records, duplicates=result.duplicates, starts=result.starts,
                    virtual_s=int(result.virtual_s), **{result.delivery: 1},
                )  # fmt: skip
                fired.update(result.fired)
            if sys.stderr.isatty() and done % 20 == 0:
                print(f"\r{done} of {len(work)}, {len(failed)} failed", end="", file=sys.stderr, flush=True)
    print(f"{len(work)} seeds in {time.monotonic() - begin:.0f} s: {len(failed)} failed {failed[:20]}")
    print(f"  {dict(total)}\n  faults {dict(fired)}")
    sys.exit(bool(failed))


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
