"""The shape of a stream on a benchmark's command line: channels, horizon, step, and what its forecasts are made by.

They become settings of the service's own configuration, so that a benchmark measures what the service would run.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

import yaml

# Settings that not every version has.
OPTIONAL = ("experts", "season")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--channels", type=int, default=4)
    parser.add_argument("--horizon", type=int, default=12)
    parser.add_argument("--step", default="1s")
    add_optional(parser)


def add_optional(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--experts", help="auto, full, light, off, or a list as in the configuration (YAML)")
    parser.add_argument("--season", help="as in the configuration (YAML): 1d, [1d, 7d], off")


def settings_of(options: argparse.Namespace) -> dict[str, Any]:
    """What these arguments are in a configuration."""
    return {
        "channels": [f"c{i}" for i in range(options.channels)],
        "horizon": options.horizon,
        "step": options.step,
        **optional_of(options),
    }


def optional_of(options: argparse.Namespace) -> dict[str, Any]:
    """Of the settings that not every version has those that were asked for and that this one knows."""
    from streamrnn.config.settings import Settings

    found: dict[str, Any] = {}
    for name in OPTIONAL:
        value = getattr(options, name)
        if value is None:
            continue
        if name in Settings.model_fields:
            found[name] = yaml.safe_load(value)
        else:
            print(f"this version has no setting `{name}`: measured without", file=sys.stderr)
            setattr(options, name, None)
    return found


def arguments_of(options: argparse.Namespace, names: Sequence[str] = ("channels", "horizon", "step")) -> list[str]:
    """The same arguments for another process."""
    return [
        word
        for name in (*names, *OPTIONAL)
        if (value := getattr(options, name)) is not None
        for word in (f"--{name}", str(value))
    ]


def title(options: argparse.Namespace) -> str:
    more = [f"{name} {value}" for name, value in optional_of(options).items()]
    return ", ".join([f"{options.channels} channels, horizon {options.horizon}, step {options.step}", *more])
