"""Fuzzing guided by coverage, over the same targets as `test_fuzz.py`.

    python tests/security/fuzz.py codec --seconds 60
    python tests/security/fuzz.py all --seconds 60          each target in turn
    python tests/security/fuzz.py codec --again crash-…     one finding once more

Needs atheris (`pip install -e .[fuzz]`; made for Linux). What was found interesting is kept in the corpus folder and
gone on from the next time; what fails is left in the working directory as `crash-…`.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import subprocess
import sys
import tempfile
from pathlib import Path

# Whose branches guide the search.
WATCHED = ["streamrnn", "yaml"]
# Not the compiled inner loops: numba reads their byte code. They are imported before the others are watched.
COMPILED = ["batches", "features", "forecast", "grid", "gru", "text"]
NAMES = ("codec", "elements", "state", "held", "layout", "checkpoint", "note", "weights", "models", "config")
# Longer input only repeats shorter one; a record of the state topic has this size.
BYTES_MAX = 16_384
SECONDS_MAX = 10  # of one input
MEMORY_MAX_MB = 4096


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("target", choices=[*NAMES, "all"])
    parser.add_argument("--seconds", type=int, default=60, help="of each target")
    parser.add_argument("--corpus", type=Path, default=Path(tempfile.gettempdir()) / "streamrnn-corpus")
    parser.add_argument("--seed", type=int, default=0, help="0: another one each time")
    parser.add_argument("--again", type=Path, metavar="FILE", help="run this one input and no other")
    chosen = parser.parse_args()
    if importlib.util.find_spec("atheris") is None:
        print("fuzzing needs atheris: pip install -e .[fuzz] (there are builds for Linux only)", file=sys.stderr)
        return 2
    if chosen.target == "all":
        codes = [subprocess.call([sys.executable, __file__, name, *sys.argv[2:]]) for name in NAMES]
        return max(codes)
    return run(chosen.target, chosen.seconds, chosen.corpus / chosen.target, chosen.seed, chosen.again)


def run(name: str, seconds: int, corpus: Path, seed: int, again: Path | None) -> int:
    import atheris

    sys.path.insert(0, str(Path(__file__).parents[1] / "support"))
    for module in COMPILED:
        importlib.import_module(f"streamrnn.kernels.{module}")
    with atheris.instrument_imports(include=WATCHED):
        from targets import TARGETS
    target, seeds = TARGETS[name]
    if again is not None:
        target(again.read_bytes())
        return 0
    corpus.mkdir(parents=True, exist_ok=True)
    for i, document in enumerate(seeds()):
        (corpus / f"valid-{i}").write_bytes(document)
    options = {
        "max_total_time": seconds,
        "max_len": BYTES_MAX,
        "timeout": SECONDS_MAX,
        "rss_limit_mb": MEMORY_MAX_MB,
        "seed": seed,
        "print_final_stats": 1,
        "verbosity": 1,
    }
    atheris.Setup([sys.argv[0], *(f"-{option}={value}" for option, value in options.items()), str(corpus)], target)
    print(f"{name}: {seconds} s", flush=True)
    atheris.Fuzz()  # ends the process
    return 0


if __name__ == "__main__":
    sys.exit(main())
