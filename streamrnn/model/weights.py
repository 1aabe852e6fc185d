"""Weights as bytes: safetensors for the numbers, JSON for the rest, a SHA-256 over both. Never pickle.

What its numbers mean (`streamrnn.meaning`) stands in the JSON: a network is served, and trained on, only where they mean the
same, or in the meaning of now as far as it can be carried by name (`fitted`).

Layout: MAGIC, version (1 byte), digest (32 bytes, over everything after it), length of the JSON (4 bytes, big-endian),
JSON, safetensors. safetensors itself has no checksum: one flipped bit in a tensor would load silently.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

import msgspec
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from streamrnn.kernels.columns import rungs_of
from streamrnn.meaning import Change, Meaning
from streamrnn.model.carrying import carried
from streamrnn.model.network import Network
from streamrnn.spec import ModelSpec

MAGIC = b"SRNNW"
VERSION = 2  # 1: forecast all channels' moves together, not what the experts leave
# What a network of a version without these settings had: it keeps the id that it was given.
UNSAID = (("conv", 0), ("head", "sequence"))
CREDIT = "credit"
_DIGEST, _LENGTH = 32, 4


class WeightsError(Exception):
    """These bytes are not weights that can be served; the message says why."""


class WeightsMeta(msgspec.Struct, kw_only=True, omit_defaults=False):
    """What is known of a set of weights. `gain` [rung]: the share of the squared error of the mixture without a network that it
    removed on held-out data."""

    id: str = ""
    base_id: str = ""  # the weights the training went on from
    created_ms: int = 0
    ticks: int = 0  # ticks the trainer had seen
    round: int = 0
    loss: float = 0.0
    gain: list[float] = []
    device: str = ""


class _Document(msgspec.Struct):
    spec: ModelSpec
    meta: WeightsMeta
    meaning: Meaning | None = None  # None: of a version that did not keep it


def weights_id(network: Network) -> str:
    """12 hex digits over the shape and every tensor: the same weights have the same id wherever they came from."""
    shape = [item for item in sorted(asdict(network.spec).items()) if item not in UNSAID]
    digest = hashlib.sha256(repr(shape).encode())
    for name, tensor in sorted(network.state_dict().items()):
        if name == CREDIT and not bool(tensor.any()):
            continue  # as those of a version that gave none
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:12]


def pack(network: Network, meta: WeightsMeta, meaning: Meaning | None = None) -> bytes:
    """One blob; `meta.id` is set to the weights' id. Raises WeightsError when a weight is not finite."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    _check_finite(tensors)
    meta.id = weights_id(network)
    document = msgspec.json.encode(_Document(network.spec, meta, meaning))
    body = len(document).to_bytes(_LENGTH, "big") + document + save(tensors)
    return MAGIC + bytes([VERSION]) + hashlib.sha256(body).digest() + body


def unpack(blob: bytes) -> tuple[ModelSpec, dict[str, Tensor], WeightsMeta]:
    """The shape, the tensors and what is known of them. Raises WeightsError for anything else."""
    document, tensors = _unpacked(blob)
    return document.spec, tensors, document.meta


def meaning_of(blob: bytes) -> Meaning | None:
    """What the weights' numbers mean; None where a version wrote them that did not keep it. Raises WeightsError."""
    return _unpacked(blob)[0].meaning


def _unpacked(blob: bytes) -> tuple[_Document, dict[str, Tensor]]:
    head = len(MAGIC) + 1
    if len(blob) < head + _DIGEST + _LENGTH or not blob.startswith(MAGIC):
        raise WeightsError("not a streamrnn weights blob (wrong magic, or cut short)")
    version = blob[len(MAGIC)]
    if version < VERSION:
        raise WeightsError(f"weights format {version} is of an older streamrnn, whose networks forecast something else")
    if version > VERSION:
        raise WeightsError(f"weights format {version} is newer than this streamrnn reads ({VERSION}): upgrade it")
    digest, body = blob[head : head + _DIGEST], blob[head + _DIGEST :]
    if hashlib.sha256(body).digest() != digest:
        raise WeightsError("the digest does not match: the weights are damaged or cut short")
    length = int.from_bytes(body[:_LENGTH], "big")
    try:
        document = msgspec.json.decode(body[_LENGTH : _LENGTH + length], type=_Document)
        tensors = _tensors(body[_LENGTH + length :])
    except (msgspec.MsgspecError, SafetensorError, UnicodeDecodeError, RecursionError) as error:
        raise WeightsError(f"the weights cannot be read: {error}") from error
    _check_finite(tensors)
    tensors.setdefault(CREDIT, torch.zeros(len(document.spec.rungs), 2))  # a version gave none
    return document, tensors


def _tensors(body: bytes) -> dict[str, Tensor]:
    """Raises SafetensorError; a type that torch has no word for, or that weights never have, is one as well."""
    try:
        tensors = load(body)
    except (KeyError, ValueError, RuntimeError, TypeError, AssertionError) as error:
        raise SafetensorError(f"{type(error).__name__}: {error}") from error
    other = next((tensor.dtype for tensor in tensors.values() if tensor.dtype != torch.float32), None)
    if other is not None:
        raise SafetensorError(f"weights are numbers of 32 bits, not {other}")
    return tensors


def build(blob: bytes) -> tuple[Network, WeightsMeta]:
    """A network with these weights, in evaluation mode. Raises WeightsError, also when tensors and shape disagree."""
    document, network = _built(blob)
    return network, document.meta


def _built(blob: bytes) -> tuple[_Document, Network]:
    document, tensors = _unpacked(blob)
    _check_fit(document.spec, tensors)
    network = Network(document.spec)
    network.load_state_dict(tensors)
    return document, network.eval()


@dataclass(frozen=True, slots=True)
class Fitted:
    """A network in the meaning that was asked for; `words` say what was carried and what was not, where it had another."""

    network: Network
    meta: WeightsMeta
    words: tuple[str, ...] = ()


def fitted(blob: bytes, meaning: Meaning, inputs: Sequence[str]) -> Fitted:
    """A network that may serve a stream of this meaning with these `inputs`, of weights that mean this or something near it.

    Raises WeightsError where nothing can be carried, and what `build` raises.
    """
    document, network = _built(blob)
    if document.meaning is not None and (cold := Change(document.meaning, meaning).cold_weights):
        raise WeightsError(f"weights of another meaning: {cold}")
    spec, rungs = network.spec, rungs_of(meaning.horizon)
    if (spec.inputs, spec.rungs) == (tuple(inputs), rungs):
        return Fitted(network, document.meta)
    gains = dict(zip(spec.rungs, document.meta.gain, strict=False))
    meta = msgspec.structs.replace(document.meta, gain=[gains.get(h, 0.0) for h in rungs])
    return Fitted(carried(network, inputs, rungs), meta, tuple(_words(spec, inputs, rungs)))


def _words(before: ModelSpec, inputs: Sequence[str], rungs: Sequence[int]) -> Iterator[str]:
    """What a network is shown, and says, that it was not trained with, and what no longer."""
    new = [name for name in inputs if name not in before.inputs]
    old = [name for name in before.inputs if name not in inputs]
    if new:
        yield f"the network is shown {len(new)} more numbers, which count for nothing before it is trained with them"
    if old:
        yield f"the network is no longer shown {len(old)} numbers that it was trained with"
    if later := [h for h in rungs if h not in before.rungs]:
        yield f"the network says nothing yet of what lies {', '.join(map(str, later))} steps ahead"


def _check_fit(spec: ModelSpec, tensors: dict[str, Tensor]) -> None:
    """Nothing is built for a shape that these very tensors do not fill: a few bytes may claim a terabyte."""
    try:
        if spec.layers > len(tensors):
            raise ValueError(f"{spec.layers} layers")
        with torch.device("meta"):
            wanted = {name: (t.shape, t.dtype) for name, t in Network(spec).state_dict().items()}
    except (RuntimeError, ValueError, TypeError, ArithmeticError) as error:
        raise WeightsError(f"no network has the shape {spec}: {error}") from error
    if wanted != {name: (t.shape, t.dtype) for name, t in tensors.items()}:
        raise WeightsError(f"the tensors do not fit the shape {spec}")


def finite(module: nn.Module) -> bool:
    return all(bool(torch.isfinite(tensor).all()) for tensor in module.state_dict().values())


def _check_finite(tensors: dict[str, Tensor]) -> None:
    for name, tensor in tensors.items():
        if not bool(torch.isfinite(tensor).all()):
            raise WeightsError(f"{name} holds a number that is not finite")
