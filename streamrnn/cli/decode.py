"""`decode`: what a topic's records become, or how they could be read; `init`: a configuration for a topic."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from streamrnn.cli.options import AsJson, BadUse, Bootstrap, Config, Sets, overrides, settings_from

if TYPE_CHECKING:
    from streamrnn.config.settings import Settings
    from streamrnn.discovery.proposing import Proposal
    from streamrnn.records import Record

# Records that a proposal is made from.
SAMPLE = 1000

Topic = Annotated[
    str | None,
    typer.Option("--topic", help="Look at the newest records of this topic, not of `input`."),
]


def decode(
    file: Annotated[
        Path | None,
        typer.Argument(help="A file with one record's value a line, or the lines of kcat -J; else --topic."),
    ] = None,
    topic: Topic = None,
    config: Config = None,
    sets: Sets = None,
    bootstrap_servers: Bootstrap = None,
    count: Annotated[int, typer.Option("-n", min=1, help="Records to show.")] = 20,
    as_json: AsJson = False,
) -> None:
    """Show what a configuration reads, record by record; without `decode:`, propose one that can be pasted into a file.

    The proposal is a whole configuration: what was found stands in its comments. With --json there is one line a record
    on stdout (and the proposal on stderr).
    """
    settings = _settings(config, sets, bootstrap_servers, topic)
    if file is None and topic is None:
        if not config:
            raise BadUse("say what to look at: a file, or --topic with --bootstrap-servers or -c")
        topic = settings.written_inputs.one or None
    shown = "decode" in settings.model_fields_set
    records = _sample(file, topic, settings, count if shown else max(count, SAMPLE))
    from streamrnn.discovery.decode_report import line_of, pictures, summary, warnings
    from streamrnn.serving.schemas import fetch
    from streamrnn.wire.codec import Decoder

    proposal: Proposal | None = None
    if not shown:
        proposal, settings = _proposed(
            records, settings, sets, bool(config), topic or (records[0].topic if records else "input")
        )
    decoder = Decoder(settings.stream_spec(), settings.decode_spec())
    fetch(settings, decoder, records)
    found = list(pictures(decoder, records[:count]))
    if proposal is not None:
        typer.echo(_yaml(proposal, settings, with_comments=False), err=as_json)
    before = "# " if proposal is not None else ""
    for picture in found:
        typer.echo(json.dumps(picture) if as_json else before + line_of(picture).replace("\n", "\n" + before))
    if not as_json:
        typer.echo(before + summary(found))
    if proposal is None:
        for warning in warnings(decoder, records):
            typer.echo(f"warning: {warning}", err=True)


def init(
    topic: Annotated[str, typer.Option("--topic", help="The topic that is to be forecast.")],
    bootstrap_servers: Bootstrap = None,
    file: Annotated[Path | None, typer.Option("--file", help="Look at these records instead of the topic's.")] = None,
    out: Annotated[Path, typer.Option("--out", help="The file to write.")] = Path("config.yaml"),
    config: Config = None,
    sets: Sets = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the file if it is there.")] = False,
    create: Annotated[
        bool, typer.Option("--create", help="Make the topics of the service, too, as `streamrnn topics --create` does.")
    ] = False,
) -> None:
    """Look at a topic and write a commented config.yaml for it."""
    if out.exists() and not force:
        raise BadUse(f"{out} is there already (--force replaces it, --out writes another)")
    settings = _settings(config, sets, bootstrap_servers, topic)
    records = _sample(file, topic, settings, SAMPLE)
    proposal, settings = _proposed(records, settings, sets, bool(config), topic)
    out.write_text(_yaml(proposal, settings, with_comments=True) + "\n", encoding="utf-8")
    for note in proposal.notes:
        typer.echo(note)
    files = [*(config or []), out]
    given = " ".join(f"-c {file}" for file in files)
    then = "" if create else f"`streamrnn topics {given} --create` and "
    typer.echo(f"wrote {out}: look at it, then {then}`streamrnn run {given}`")
    if create:
        from streamrnn.cli.topics import topics

        topics(
            config=files, sets=sets, bootstrap_servers=bootstrap_servers, create=True, partitions=None, as_json=False
        )


def _settings(config: list[Path] | None, sets: list[str] | None, servers: str | None, topic: str | None) -> Settings:
    """Without a file only what reaches the broker counts; the rest stands in for what is to be found out."""
    more: dict[str, Any] = {} if config else {"channels": ["value"], "step": "1s", "horizon": 12}
    given = overrides(sets, servers, input=topic if topic is not None else None if config else "input")
    return settings_from(config, {**more, **given})


def _sample(file: Path | None, topic: str | None, settings: Settings, count: int) -> Sequence[Record]:
    from streamrnn.discovery import samples

    if file is not None:
        return samples.of_file(file, count)
    from streamrnn.transports.kafka.transport import KafkaTransport

    found = asyncio.run(samples.of_input(KafkaTransport(settings.kafka_settings()), settings, topic, count))
    if not found:
        raise BadUse(f"the topic {topic or settings.written_inputs} has no records")
    return found


# What is found out, or written down elsewhere.
_FOUND = ("kafka", "registry", "input", "channels", "decode")


def _said(settings: Settings, sets: list[str] | None, given: bool) -> dict[str, Any]:
    """Settings of --set, and the step and the horizon of a file, as they are written."""
    keys = [*(key for key in ("step", "horizon") if given and key in settings.model_fields_set), *overrides(sets)]
    shown, said = settings.effective(), dict[str, Any]()
    for key in keys:
        *around, last = key.split(".")
        if key.split(".")[0] in _FOUND:
            continue
        at, into = shown, said
        for part in around:
            at, into = at[part], into.setdefault(part, {})
        into[last] = at[last]
    return said


def _proposed(
    records: Sequence[Record], settings: Settings, sets: list[str] | None, given: bool, topic: str
) -> tuple[Proposal, Settings]:
    from streamrnn.config.settings import load
    from streamrnn.discovery.proposing import NoProposal, propose
    from streamrnn.serving.schemas import known_for

    try:
        known = known_for(settings, records)
        proposal = propose(records, topic, known)
    except NoProposal as error:
        raise BadUse(f'{topic}: {error} (deploy/GUIDE.md, "Topics as they are")') from error
    # What was said of the stream, and of the service, stands.
    proposal.settings = {**proposal.settings, **_said(settings, sets, given)}
    if known is not None:
        registry = settings.registry.model_dump(mode="json", exclude_none=True, exclude={"password"})
        proposal.settings["registry"] = registry
    if "kafka" in settings.model_fields_set:
        proposal.settings = {"kafka": {"bootstrap_servers": settings.kafka.bootstrap_servers}, **proposal.settings}
    return proposal, load([], proposal.settings, {})


COMMENTS = {
    "kafka": "how the broker is reached; security settings carry Kafka's names",
    "input": "the topic that is read",
    "channels": "what is forecast: the names of the numbers",
    "step": "the grid of event time: 250ms, 1s, 15m, 1h, 1d, or irregular",
    "horizon": "steps ahead",
    "decode": "where the fields are in a record; `streamrnn decode -c FILE` shows what it reads",
    "within": "of several ticks in a step: last, mean or sum",
    "align": "a tick just before a step's edge belongs to the step it is nearest to",
}
FURTHER = (
    "# lateness: 5s           # ticks may come out of order by so much",
    "# quantiles: [0.05, 0.5, 0.95]",
    "# delivery: exactly-once # default: at-least-once",
)


def _yaml(proposal: Proposal, settings: Settings, with_comments: bool) -> str:
    import yaml

    from streamrnn.discovery.decode_report import plain

    lines = [f"# {note}" for note in proposal.notes]
    for key, value in proposal.settings.items():
        if with_comments and key in COMMENTS:
            lines.append(f"# {COMMENTS[key]}")
        # Sections in block style, lists on one line.
        flow = None if isinstance(value, list) else False
        text = yaml.safe_dump(
            {key: plain(value)}, sort_keys=False, allow_unicode=True, width=120, default_flow_style=flow
        )
        lines.append(text.rstrip())
    return "\n".join([*lines, *(FURTHER if with_comments else ())])


def register(app: typer.Typer) -> None:
    app.command()(decode)
    app.command()(init)
