"""The models topic: weights in pieces, a manifest that names and digests them, and a pointer to the ones in use.

All in partition 0 of a compacted topic, so that it holds the newest value of every key:

    weights/<id>/<piece>   bytes of the blob, cut so that a record stays far below the broker's limit
    manifest/<id>          JSON: how many pieces and bytes, SHA-256 over all, what is known of the weights
    current                JSON: the id in use, whether the gate or an operator put it there, what it took the place of
    pin/<id>               anything: an operator wants these weights kept, whatever `learn.keep` is

A writer sends the pieces, then the manifest, then the pointer, each acknowledged before the next; a reader believes a
pointer only when the pieces are complete and their digest is right. What does not fit is ignored and counted.

An operator's word stands: a pointer of the gate's that was decided upon before its writer knew of an operator's
(`base` names other weights) is ignored.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import Annotated

import msgspec
from msgspec import Meta

from streamrnn.records import Record
from streamrnn.transports.base import Deadline, PartitionReader, Sink, Transport, TransportError

# A record of this size passes any broker's default limit (1 MiB) with room for its envelope.
PIECE_BYTES = 400_000
PIECES_MAX = 4096
# How many versions, and bytes of them, a reader holds at most; a writer keeps fewer than this in the topic.
VERSIONS_MAX = 32
BYTES_MAX = 512 * 1024 * 1024
# Ids name metrics' labels and go into logs.
ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
# One way to write a number: two keys for one piece would both outlive compaction.
PIECE = re.compile(r"0|[1-9][0-9]{0,3}")
# Weights that may be pinned: fewer than a reader holds.
PINS_MAX = 16
SEND_TIMEOUT_S = 30.0
POINTER = b"current"
BY_GATE, BY_OPERATOR = "gate", "rollback"
# Weights that were rolled back from, as a pointer names them: the newest so many.
REFUSED_MAX = 32


class Manifest(msgspec.Struct):
    id: str
    pieces: Annotated[int, Meta(ge=0, le=PIECES_MAX)]
    bytes: int
    sha256: str
    meta: dict[str, object] = {}


class Pointer(msgspec.Struct):
    id: str
    by: str = BY_GATE
    at_ms: int = 0
    base: str = ""  # what was current when this was decided
    refused: tuple[str, ...] = ()  # rolled back from by an operator: never to be published again


def rolled_back(known: Pointer | None, to: str, at_ms: int) -> Pointer:
    """The pointer of an operator who goes back to these weights: what was in use is refused from now on."""
    left = known.id if known is not None else ""
    refused = [model for model in (*(known.refused if known is not None else ()), left) if model not in ("", to)]
    return Pointer(to, BY_OPERATOR, at_ms, left, tuple(dict.fromkeys(refused))[-REFUSED_MAX:])


class ModelsWriter:
    """Publishes weights through a started Sink."""

    def __init__(self, sink: Sink, topic: str) -> None:
        self._sink, self._topic = sink, topic

    async def publish(
        self,
        model: str,
        blob: bytes,
        meta: Mapping[str, object],
        at_ms: int,
        base: str = "",
        refused: tuple[str, ...] = (),
    ) -> None:
        """Weights that the gate accepted become the current ones; `base` and `refused` as in `Pointer`.

        Raises TransportError; then those that were current still are.
        """
        await self.upload(model, blob, meta, at_ms)
        await self.point(Pointer(model, BY_GATE, at_ms, base, refused))

    async def upload(self, model: str, blob: bytes, meta: Mapping[str, object], at_ms: int) -> None:
        """Weights that a pointer may name from now on."""
        pieces = [blob[i : i + PIECE_BYTES] for i in range(0, len(blob), PIECE_BYTES)]
        manifest = Manifest(model, len(pieces), len(blob), hashlib.sha256(blob).hexdigest(), dict(meta))
        await self._send({_piece_key(model, i): piece for i, piece in enumerate(pieces)}, at_ms)
        await self._send({f"manifest/{model}".encode(): msgspec.json.encode(manifest)}, at_ms)

    async def point(self, pointer: Pointer) -> None:
        """Makes weights that were uploaded the current ones."""
        await self._send({POINTER: msgspec.json.encode(pointer)}, pointer.at_ms)

    async def pin(self, model: str, pinned: bool, at_ms: int) -> None:
        """Has these weights kept, or no longer."""
        await self._send({f"pin/{model}".encode(): b"1" if pinned else None}, at_ms)

    async def retire(self, manifests: Sequence[Manifest], at_ms: int) -> None:
        """Deletes versions: tombstones for the manifest first, so that nobody looks for pieces that are deleted."""
        for manifest in manifests:
            await self._send({f"manifest/{manifest.id}".encode(): None}, at_ms)
            await self._send({_piece_key(manifest.id, i): None for i in range(manifest.pieces)}, at_ms)

    async def _send(self, records: Mapping[bytes, bytes | None], at_ms: int) -> None:
        await self._sink.append_many(
            self._topic, 0, list(records.keys()), list(records.values()), [at_ms] * len(records)
        )
        await (await self._sink.seal()).wait(Deadline(SEND_TIMEOUT_S))


class ModelsFollower:
    """Follows the models topic; reports weights that newly became current and are whole."""

    def __init__(self, transport: Transport, topic: str) -> None:
        self._transport, self._topic = transport, topic
        self._reader: PartitionReader = transport.reader()
        self._pieces: dict[str, dict[int, bytes]] = {}
        self._held_bytes = 0
        self.manifests: dict[str, Manifest] = {}
        self.pinned: set[str] = set()
        self.pointer: Pointer | None = None
        # The topic's last pointer was ignored, because an operator's stands: its writer should repeat that one.
        self.overruled = False
        self._told: str | None = None
        self._came = False
        self._broken = False  # the reader
        self._reading = asyncio.Lock()  # of whoever asks: a reader serves one at a time
        self._end = 0  # of the topic when the reader began: before it, an older pointer may look like news
        self.ignored: dict[str, int] = {}  # reason → how many

    async def start(self) -> None:
        """Raises TopicMissing."""
        await self._reader.start(self._topic, {0: 0})
        self._end = (await self._reader.end_offsets())[0]

    async def catch_up(self, timeout_s: float = 60.0) -> list[tuple[str, bytes]]:
        """Reads to the end the topic has now; returns the current (id, blob) where it is news."""
        deadline = Deadline(timeout_s)
        async with self._reading:
            await self._read(0)
            end = (await self._reader.end_offsets())[0]
            while self._reader.position(0) < end:
                await self._read(200)
                if deadline.passed:
                    raise TransportError(
                        f"the models topic {self._topic} could not be read to its end in {timeout_s} s"
                    )
        return self._news()

    async def poll(self, timeout_ms: int = 0) -> list[tuple[str, bytes]]:
        """What newly became current, if anything. After an error the next call begins with a new reader."""
        async with self._reading:
            await self._read(timeout_ms)
        return self._news() if self._reader.position(0) >= self._end else []

    async def _read(self, timeout_ms: int) -> None:
        try:
            if self._broken:
                await self._reader.stop(Deadline(2.0))
                self._reader = self._transport.reader()
                await self.start()
                self._broken = False
            self._take(await self._reader.poll(timeout_ms, 500))
        except TransportError:
            self._broken = True
            raise

    async def stop(self, deadline: Deadline) -> None:
        await self._reader.stop(deadline)

    def blob(self, model: str) -> bytes | None:
        """The weights' bytes if they are whole and their digest is right."""
        manifest = self.manifests.get(model)
        pieces = self._pieces.get(model, {})
        if manifest is None or any(i not in pieces for i in range(manifest.pieces)):
            return None
        blob = b"".join(pieces[i] for i in range(manifest.pieces))
        if len(blob) != manifest.bytes or hashlib.sha256(blob).hexdigest() != manifest.sha256:
            self._ignore("digest")
            return None
        return blob

    def _news(self) -> list[tuple[str, bytes]]:
        if self.pointer is None or self.pointer.id == self._told or not self._came:
            return []
        self._came = False  # what is not whole is looked at again when something has come
        blob = self.blob(self.pointer.id)
        if blob is None:
            self._ignore("incomplete")
            return []
        self._told = self.pointer.id
        return [(self.pointer.id, blob)]

    def _take(self, polled: Sequence[tuple[int, Sequence[Record]]]) -> None:
        for _, records in polled:
            for record in records:
                self._take_one(record.key or b"", record.value)
                self._came = True

    def _take_one(self, key: bytes, value: bytes | None) -> None:
        try:
            kind, _, rest = key.decode().partition("/")
            if kind == "weights":
                model, _, piece = rest.rpartition("/")
                _check_id(model)
                if not PIECE.fullmatch(piece) or int(piece) >= PIECES_MAX:
                    raise ValueError("not a piece of weights")
                self._piece(model, int(piece), value)
            elif kind == "manifest":
                _check_id(rest)
                # Taken out first, so that the order of the dictionary is the order of publication.
                self.manifests.pop(rest, None)
                if value is not None:
                    manifest = msgspec.json.decode(value, type=Manifest)
                    if manifest.id != rest:
                        raise ValueError("a manifest of other weights than its key names")
                    self.manifests[rest] = manifest
                    self._bound()
            elif kind == "pin":
                _check_id(rest)
                self._pin(rest, value is not None)
            elif key == POINTER and value is None:  # somebody has deleted it: no weights are in use
                self.pointer, self._told = None, None
            elif key == POINTER and value is not None:
                self._point(msgspec.json.decode(value, type=Pointer))
            else:
                self._ignore("unknown-key")
        except (ValueError, msgspec.MsgspecError, RecursionError):  # among the first: what is not UTF-8
            self._ignore("malformed")

    def _point(self, pointer: Pointer) -> None:
        _check_id(pointer.id)
        known = self.pointer
        decided = pointer.base in ("", known.id) if known is not None else True
        self.overruled = known is not None and known.by == BY_OPERATOR and pointer.by == BY_GATE and not decided
        if self.overruled:
            self._ignore("overruled")
        else:
            self.pointer = pointer

    def _pin(self, model: str, pinned: bool) -> None:
        if not pinned:
            self.pinned.discard(model)
        elif len(self.pinned) < PINS_MAX:
            self.pinned.add(model)
        else:
            self._ignore("pins")

    def surplus(self, keep: int, current: str) -> list[Manifest]:
        """The oldest versions, so that `keep` remain with those that are about to come: neither pinned ones, which are not
        counted, nor those in use, nor `current`."""
        spared = {current, self.pointer.id if self.pointer is not None else ""}
        loose = [manifest for manifest in self.manifests.values() if manifest.id not in self.pinned]
        return [manifest for manifest in loose if manifest.id not in spared][: max(0, len(loose) + 1 - keep)]

    def _piece(self, model: str, number: int, value: bytes | None) -> None:
        pieces = self._pieces.setdefault(model, {})
        self._held_bytes -= len(pieces.pop(number, b""))
        if value is not None:
            pieces[number] = value
            self._held_bytes += len(value)
            self._bound()
        elif not pieces:
            del self._pieces[model]

    def _bound(self) -> None:
        """Drops the oldest versions; pinned ones after all others, the current one last."""
        current = self.pointer.id if self.pointer else None
        while len(self._pieces) > VERSIONS_MAX or len(self.manifests) > VERSIONS_MAX or self._held_bytes > BYTES_MAX:
            held = self._pieces if self._held_bytes > BYTES_MAX or len(self._pieces) > VERSIONS_MAX else self.manifests
            loose = [model for model in held if model != current]
            oldest = next((model for model in loose if model not in self.pinned), loose[0] if loose else current)
            assert oldest is not None  # noqa: S101
            self._held_bytes -= sum(map(len, self._pieces.pop(oldest, {}).values()))
            self.manifests.pop(oldest, None)

    def _ignore(self, reason: str) -> None:
        self.ignored[reason] = self.ignored.get(reason, 0) + 1


def _piece_key(model: str, piece: int) -> bytes:
    return f"weights/{model}/{piece}".encode()


def _check_id(model: str) -> None:
    if not ID.fullmatch(model):
        raise ValueError("not an id of weights")
