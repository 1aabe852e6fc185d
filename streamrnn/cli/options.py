"""Options that commands share, and the settings they lead to."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from streamrnn.config.settings import Settings


# Arguments can be read by every user of the machine.
SECRETS = ("sasl_plain_password", "ssl_password", "registry_password")


class BadUse(Exception):
    """The command line does not make sense; the message says how it would."""


Config = Annotated[
    list[Path] | None,
    typer.Option("-c", "--config", help="Configuration file (YAML); may be repeated, later ones win."),
]
Sets = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override one setting, such as --set horizon=24.")
]
Bootstrap = Annotated[str | None, typer.Option("--bootstrap-servers", help="Overrides kafka.bootstrap_servers.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")]


def overrides(sets: list[str] | None, bootstrap: str | None = None, **more: Any) -> dict[str, Any]:
    """Dotted keys from --set and from flags; flags that were not given stay out."""
    chosen: dict[str, Any] = {}
    for item in sets or []:
        key, sign, value = item.partition("=")
        if not sign:
            raise BadUse(f"--set {item}: write KEY=VALUE")
        if key.strip().replace(".", "_").endswith(SECRETS):
            raise BadUse(
                f"--set {key.strip()}=…: secrets come from files or the environment, never from the command line"
            )
        chosen[key.strip()] = value
    if bootstrap:
        chosen["kafka.bootstrap_servers"] = bootstrap
    chosen.update({key.replace("__", "."): value for key, value in more.items() if value is not None})
    return chosen


def settings_from(config: list[Path] | None, changes: dict[str, Any]) -> Settings:
    """Loads and checks; raises ConfigError."""
    from streamrnn.config.settings import load

    return load(config or [], changes)


def arguments_again(config: list[Path] | None, changes: dict[str, Any]) -> list[str]:
    """The same configuration as arguments, for a child process."""
    again: list[str] = []
    for path in config or []:
        again += ["-c", str(path.resolve())]
    for key, value in changes.items():
        again += ["--set", f"{key}={value}"]
    return again
