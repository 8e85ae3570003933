"""The seal: one small JSON file, written last, that says what a checkpoint is and what belongs to it. Pure.

A folder without a seal is not a checkpoint. The digest of the seal is the checkpoint's identity: it covers
the hash of every file, so whoever knows the digest knows the bytes. A seal that is read is input from
outside: it is parsed strictly, and each refusal is a sentence.
"""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Any, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError, model_validator

from mlenv.ckpt import names
from mlenv.ckpt.errors import SealInvalid

FORMAT: Final = 1
MAX_BYTES: Final = 64 << 20
MAX_WHOLE: Final = 2**63 - 1

Whole = Annotated[int, Field(ge=0, le=MAX_WHOLE)]
Hex64 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Sum64 = Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
Text = Annotated[str, Field(max_length=1000)]
Shape = Annotated[tuple[Whole, ...], Field(max_length=16)]
Algorithm = Literal["sha256", "blake2b"]
Kind = Literal["state", "replica", "rng", "data"]
Metric = Annotated[float, Field(allow_inf_nan=False)] | Literal["NaN", "Infinity", "-Infinity"]


class _Value(BaseModel):
    """A frozen value; strict: a number in quotes is refused, and so is a field nobody knows."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")


class Part(_Value):
    """One file of the checkpoint."""

    uri: Annotated[str, Field(max_length=names.MAX_URI)]
    """Path relative to the checkpoint's folder."""
    size: Whole
    """Bytes."""
    hash: Annotated[str, Field(pattern=r"^[0-9a-f]{32,128}$")]
    algorithm: Algorithm
    kind: Kind
    """state: sharded tensors; replica: a copy of what all ranks have alike; data: everything that is not a
    tensor; rng: generators of single ranks, where they have a file of their own."""
    node: Whole | None = None
    """The node whose folder has it; None: every folder has it (or there is only one)."""
    table: Text | None = None
    rows: tuple[Whole, Whole] | None = None
    """Half-open range of the table's rows."""

    @model_validator(mode="after")
    def _safe(self) -> Self:
        fault = names.fault_in_uri(self.uri)
        if fault:
            raise ValueError(f"the path {self.uri!r} {fault}")
        return self


class Tensor(_Value):
    """One tensor: what it is, and a checksum that does not depend on how it was cut into shards."""

    name: Text
    """``thing.fully.qualified.name``, as without any wrapper."""
    shape: Shape
    dtype: Text
    checksum: Sum64
    model: bool
    """Whether it belongs to a model's signature; optimizer states follow from the parameters."""


class World(_Value):
    """Who wrote it."""

    size: Annotated[int, Field(ge=1, le=1 << 20)]
    nodes: Annotated[int, Field(ge=1, le=1 << 20)]
    mesh: tuple[tuple[Text, Whole], ...] = ()
    """(dimension, size) of the device mesh, outermost first; empty: plain data parallel."""


class Witness(_Value):
    """Which samples were consumed, as numbers that do not depend on their order."""

    count: Whole
    sum: Sum64
    """Sum of a mix of every sample's id, modulo 2**64."""


class Window(_Value):
    """Data that was left out on purpose: half-open positions in the order of one source."""

    source: Text
    first: Whole
    end: Whole
    why: Text


class Base(_Value):
    """What a checkpoint of differences builds on: a full one, and the differences before this, in order."""

    full: Hex64
    deltas: tuple[Hex64, ...] = ()


class Seal(_Value):
    """Everything that is worth knowing before a checkpoint is opened."""

    format: Literal[1] = FORMAT
    job: Text
    """The job's uid."""
    attempt: Whole
    step: Whole
    """Committed optimizer steps."""
    samples: Whole = 0
    epoch: Whole = 0
    time: Text
    """When, in UTC (ISO 8601)."""
    world: World
    global_batch: Whole | None = None
    seeds: dict[str, int] = {}
    cursors: dict[str, JsonValue] = {}
    """Where each source of data stands; a readable copy of what the state holds."""
    tensors: tuple[Tensor, ...] = ()
    parts: tuple[Part, ...]
    node_seals: dict[str, Hex64] = {}
    """Digest of each node's own list of its files, where every node has a folder of its own."""
    base: Base | None = None
    code: Text = ""
    image: Text = ""
    versions: dict[str, Text] = {}
    witness: Witness | None = None
    skipped: tuple[Window, ...] = ()
    metrics: dict[str, Metric] = {}
    observed: dict[str, Metric] = {}
    """How the loss has been lately, where it was committed."""
    nonfinite: Text = ""
    """What in it is not finite, where that was allowed; empty: it passed the gate."""
    insane: Annotated[tuple[Text, ...], Field(max_length=100)] = ()
    """Why nothing is to go on from it: what armed checks say. Empty: they have nothing against it."""
    remarks: Annotated[tuple[Text, ...], Field(max_length=100)] = ()
    """What checks say that only observe."""
    parent: Hex64 | None = None
    """The checkpoint that this run went on from, or wrote before."""

    @model_validator(mode="after")
    def _unique(self) -> Self:
        _refuse_twins("file", [part.uri for part in self.parts])
        _refuse_twins("tensor", [tensor.name for tensor in self.tensors])
        return self

    @property
    def good(self) -> bool:
        """Whether it is finite, and sane as far as armed checks say."""
        return not self.nonfinite and not self.insane

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(part.size for part in self.parts)

    @property
    def folder(self) -> str:
        """The name of its folder."""
        return names.folder(self.step, self.attempt)


class NodePart(_Value):
    """What one node says of its own files, before the head is sealed."""

    format: Literal[1] = FORMAT
    job: Text
    attempt: Whole
    step: Whole
    node: Whole
    parts: tuple[Part, ...]


def _refuse_twins(what: str, listed: list[str]) -> None:
    if len(set(listed)) != len(listed):
        twins = sorted({one for one in listed if listed.count(one) > 1})
        raise ValueError(f"the {what} {twins[0]!r} is listed more than once")


def canonical(value: Any) -> bytes:
    """The one way to write a JSON value: sorted names, no spaces, no NaN."""
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=False
    ).encode()


def digest(value: BaseModel) -> str:
    """The identity of a seal: SHA-256 of its canonical form."""
    return hashlib.sha256(_body(value)).hexdigest()


def encode(value: BaseModel) -> bytes:
    """The content of the file: the value and its digest."""
    body = _body(value)
    return b'{"seal":' + body + b',"sha256":"' + hashlib.sha256(body).hexdigest().encode() + b'"}\n'


def _body(value: BaseModel) -> bytes:
    return canonical(value.model_dump(mode="json", exclude_defaults=True) | {"format": FORMAT})


def parse(data: bytes) -> Seal:
    """The seal in the content of a file. Raises SealInvalid with a sentence; accepts nothing by half."""
    if len(data) > MAX_BYTES:
        raise SealInvalid(f"the seal has {len(data)} bytes, more than {MAX_BYTES}")
    body = _checked(data)
    try:
        seal = Seal.model_validate_json(canonical(body))
    except ValidationError as error:
        raise SealInvalid(f"the seal makes no sense: {_words(error)}") from None
    if encode(seal) != data:
        raise SealInvalid("the seal is not in its canonical form: it was written by something else")
    return seal


def _checked(data: bytes) -> dict[str, Any]:
    """The body, once its digest is right and its format is known."""
    try:
        outer = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise SealInvalid(f"the seal is no JSON ({error}): it was cut off or damaged") from None
    body = outer.get("seal") if isinstance(outer, dict) else None
    if not isinstance(body, dict) or outer.keys() != {"seal", "sha256"}:
        raise SealInvalid("this is no seal: it must hold 'seal' and 'sha256', and nothing else")
    if body.get("format") != FORMAT:
        raise SealInvalid(f"the seal has format {body.get('format')!r:.40}, and this version reads {FORMAT}")
    try:
        found = hashlib.sha256(canonical(body)).hexdigest()
    except (ValueError, RecursionError):
        found = ""
    if outer["sha256"] != found:
        raise SealInvalid("the seal's digest does not fit its content: it was edited or damaged")
    return body


def _words(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(str(one) for one in first["loc"]) or "the whole"
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    return f"{where}: {first['msg']}{more}"


def metric(value: float) -> Metric:
    """A metric that JSON can hold: what is not finite becomes its name."""
    if value != value:  # noqa: PLR0124  (only NaN differs from itself)
        return "NaN"
    if value in (float("inf"), float("-inf")):
        return "Infinity" if value > 0 else "-Infinity"
    return float(value)
