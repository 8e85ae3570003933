"""What is not a tensor, as JSON: no pickle, so reading it runs nothing. Pure.

Python values that JSON lacks are tagged objects, ``{"$tuple": [...]}``; tensors are handed to the caller and
leave their name behind.
"""

from __future__ import annotations

import base64
import json
import math
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch

from mlenv.ckpt.errors import SealInvalid, StateInvalid

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_ARRAY: Final = 16 << 20
"""Bytes of one numpy array: bigger ones belong into tensors, which are written in parallel."""


def dumps(value: Any) -> str:
    """JSON text; the order of names is kept, because a dictionary's order may matter to who gets it back."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False)


def encode(value: Any, path: str, take: Callable[[str, torch.Tensor], None]) -> Any:
    """`value` as JSON-ready data; `take` gets each tensor in it. Raises StateInvalid, naming the place."""
    if value is None or isinstance(value, bool | str) or type(value) is int:
        return value
    if isinstance(value, torch.Tensor):
        take(path, value)
        return {"$tensor": path}
    if type(value) is float:
        return value if math.isfinite(value) else {"$float": repr(value)}
    if isinstance(value, dict):
        return _encode_dict(value, path, take)
    if isinstance(value, list | tuple):
        listed = [encode(one, f"{path}.{number}", take) for number, one in enumerate(value)]
        return listed if isinstance(value, list) else {"$tuple": listed}
    return _encode_rest(value, path)


def _encode_dict(value: dict[Any, Any], path: str, take: Callable[[str, torch.Tensor], None]) -> Any:
    if all(isinstance(key, str) and not key.startswith("$") for key in value):
        return {key: encode(one, f"{path}.{key}", take) for key, one in value.items()}
    return {
        "$dict": [[encode(key, path, take), encode(one, f"{path}.{key}", take)] for key, one in value.items()]
    }


def _encode_rest(value: Any, path: str) -> Any:
    if isinstance(value, bytes | bytearray):
        return {"$bytes": base64.b64encode(value).decode()}
    if isinstance(value, np.ndarray | np.generic) and value.dtype.kind in "biufc":
        return _encode_array(np.asarray(value), path, scalar=isinstance(value, np.generic))
    if isinstance(value, set | frozenset):
        return {"$set": sorted(encode(one, path, _no_tensor) for one in value)}
    if isinstance(value, torch.dtype):
        return {"$dtype": str(value).removeprefix("torch.")}
    raise StateInvalid(
        f"{path} is a {type(value).__module__}.{type(value).__qualname__}, which a checkpoint cannot keep: "
        "state_dict() must hold numbers, text, bytes, tensors, arrays, and lists, tuples and dicts of them"
    )


def _no_tensor(path: str, tensor: torch.Tensor) -> None:
    del tensor
    raise StateInvalid(f"{path} is a set of tensors, which has no order to be restored in")


def _encode_array(array: Any, path: str, *, scalar: bool) -> Any:
    if array.nbytes > MAX_ARRAY:
        raise StateInvalid(
            f"{path} is an array of {array.nbytes} bytes; keep more than {MAX_ARRAY} in a tensor"
        )
    data = base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()
    return {"$array": [array.dtype.str, list(array.shape), data, scalar]}


def encode_tensor(tensor: torch.Tensor) -> Any:
    """A small tensor, bit for bit."""
    data = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    name = str(tensor.dtype).removeprefix("torch.")
    return {"$small": [name, list(tensor.shape), base64.b64encode(data).decode()]}


def decode(value: Any, give: Callable[[str], Any]) -> Any:
    """The reverse of `encode`; `give` finds a tensor by its name. Raises SealInvalid for what it is not."""
    if isinstance(value, list):
        return [decode(one, give) for one in value]
    if not isinstance(value, dict):
        return value
    tag = next(iter(value)) if len(value) == 1 else ""
    if not tag.startswith("$"):
        return {key: decode(one, give) for key, one in value.items()}
    try:
        return _decode_tagged(tag, value[tag], give)
    except (ValueError, TypeError, AttributeError, KeyError, RuntimeError) as error:
        raise SealInvalid(f"a value tagged {tag} cannot be read: {error}") from None


def _decode_tagged(  # noqa: PLR0911  (one line for each tag)
    tag: str, inner: Any, give: Callable[[str], Any]
) -> Any:
    match tag:
        case "$tensor":
            return give(inner)
        case "$float":
            return float(inner)
        case "$tuple":
            return tuple(decode(one, give) for one in inner)
        case "$dict":
            return {decode(key, give): decode(one, give) for key, one in inner}
        case "$set":
            return {decode(one, give) for one in inner}
        case "$bytes":
            return base64.b64decode(inner, validate=True)
        case "$array":
            return _decode_array(*inner)
        case "$small":
            return _decode_small(*inner)
        case "$dtype":
            return dtype(inner)
    raise KeyError("nobody knows this tag")


def _decode_array(kind: str, shape: list[int], data: str, scalar: bool) -> Any:  # noqa: FBT001  (as encoded)
    number = np.dtype(kind)
    if number.kind not in "biufc":
        raise ValueError(f"{kind} is no kind of number")
    array = np.frombuffer(base64.b64decode(data, validate=True), number).reshape(shape).copy()
    return array[()] if scalar else array


def _decode_small(name: str, shape: list[int], data: str) -> torch.Tensor:
    raw = torch.frombuffer(bytearray(base64.b64decode(data, validate=True)), dtype=torch.uint8)
    return raw.view(dtype(name)).reshape(shape).clone()


def dtype(name: str) -> torch.dtype:
    """The dtype of this name, without ``torch.``. Raises TypeError and AttributeError for any other."""
    found = getattr(torch, name)
    if not isinstance(found, torch.dtype):
        raise TypeError(f"{name} is no dtype")
    return found
