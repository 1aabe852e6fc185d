"""Weights as bytes: safetensors for the numbers, JSON for the rest, a SHA-256 over both. Never pickle.

Layout: MAGIC, version (1 byte), digest (32 bytes, over everything after it), length of the JSON (4 bytes, big-endian),
JSON, safetensors. safetensors itself has no checksum: one flipped bit in a tensor would load silently.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict

import msgspec
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from streamrnn.model.network import Network
from streamrnn.spec import ModelSpec

MAGIC = b"SRNNW"
VERSION = 1
_DIGEST, _LENGTH = 32, 4


class WeightsError(Exception):
    """These bytes are not weights that can be served; the message says why."""


class WeightsMeta(msgspec.Struct, kw_only=True, omit_defaults=False):
    """What is known of a set of weights. `skill` [horizon]: held-out squared error over persistence's."""

    id: str = ""
    base_id: str = ""  # the weights the training went on from
    created_ms: int = 0
    ticks: int = 0  # ticks the trainer had seen
    round: int = 0
    loss: float = 0.0
    skill: list[float] = []
    device: str = ""


class _Document(msgspec.Struct):
    spec: ModelSpec
    meta: WeightsMeta


def weights_id(network: Network) -> str:
    """12 hex digits over the shape and every tensor: the same weights have the same id wherever they came from."""
    digest = hashlib.sha256(repr(sorted(asdict(network.spec).items())).encode())
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:12]


def pack(network: Network, meta: WeightsMeta) -> bytes:
    """One blob; `meta.id` is set to the weights' id. Raises WeightsError when a weight is not finite."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    _check_finite(tensors)
    meta.id = weights_id(network)
    document = msgspec.json.encode(_Document(network.spec, meta))
    body = len(document).to_bytes(_LENGTH, "big") + document + save(tensors)
    return MAGIC + bytes([VERSION]) + hashlib.sha256(body).digest() + body


def unpack(blob: bytes) -> tuple[ModelSpec, dict[str, Tensor], WeightsMeta]:
    """The shape, the tensors and what is known of them. Raises WeightsError for anything else."""
    head = len(MAGIC) + 1
    if len(blob) < head + _DIGEST + _LENGTH or not blob.startswith(MAGIC):
        raise WeightsError("not a streamrnn weights blob (wrong magic, or cut short)")
    version = blob[len(MAGIC)]
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
    return document.spec, tensors, document.meta


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
    spec, tensors, meta = unpack(blob)
    _check_fit(spec, tensors)
    network = Network(spec)
    network.load_state_dict(tensors)
    return network.eval(), meta


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
