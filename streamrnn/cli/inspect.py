"""`inspect SERIES`: what a running worker knows of a series."""

from __future__ import annotations

import json
import urllib.error
import urllib.parse
import urllib.request
from typing import Annotated, Any

import typer

from streamrnn.cli.options import AsJson, BadUse, Config, Sets, overrides, settings_from


def inspect(
    series: Annotated[str, typer.Argument(help="The series' name; without one, the series that are watched.")] = "",
    config: Config = None,
    sets: Sets = None,
    url: Annotated[str | None, typer.Option(help="The worker's address; by default http.host and http.port.")] = None,
    as_json: AsJson = False,
) -> None:
    """Ask a running worker for a series' last values and forecast."""
    token: str | None = None
    if url is None:
        if not config:
            raise BadUse("give the worker's address with --url, or its configuration with -c")
        settings = settings_from(config, overrides(sets))
        host = f"[{settings.http.host}]" if ":" in settings.http.host else settings.http.host
        url, token = f"http://{host}:{settings.http.port}", settings.http_token()
    path = f"/api/series/{urllib.parse.quote(series, safe='')}" if series else "/api/series"
    found = _get(url.rstrip("/") + path, token)
    if as_json or not series:
        typer.echo(json.dumps(found))
        return
    if "error" in found:
        typer.echo(f"{series}: {found['error']}", err=True)
        raise typer.Exit(1)
    _show(found)


def _get(url: str, token: str | None) -> Any:
    if not url.startswith(("http://", "https://")):
        raise BadUse(f"{url} is not an http address")
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    try:
        # The scheme was checked.
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=5) as answer:  # noqa: S310
            return json.load(answer)
    except urllib.error.HTTPError as error:
        if error.code == 404:
            return json.load(error)
        raise BadUse(f"{url}: {error.code} {error.reason}") from error
    except urllib.error.URLError as error:
        raise BadUse(f"{url}: no answer ({error.reason}); is the worker running?") from error


def _show(found: dict[str, Any]) -> None:
    forecast = found["forecast"]
    for c, channel in enumerate(found["channels"]):
        values = [row[1][c] for row in found["actual"][-5:]]
        typer.echo(f"{channel}: last values {values}")
        if forecast:
            low, high = forecast["quantiles"][c][0], forecast["quantiles"][c][-1]
            for k, mean in enumerate(forecast["mean"][c]):
                if mean is not None:
                    typer.echo(f"  +{k + 1:<3} {mean:.6g}   [{low[k]:.6g}, {high[k]:.6g}]")


def register(app: typer.Typer) -> None:
    app.command()(inspect)
