"""What a client can ask for: each call as plain data, and how its answer is read. Nothing here sends anything.

Source: the Open Inference Protocol, https://github.com/kserve/open-inference-protocol, and the extensions at
https://github.com/triton-inference-server/server/tree/main/docs/protocol.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar
from urllib.parse import quote

from .._errors import InvalidArgumentError
from ..service._errors import Kind, ServiceError, shown
from ..service._headers import REQUEST_ID
from ..service._packing import ENCODINGS, packed, unpacked
from ..service._requests import (
    HEADER_LENGTH,
    InferRequest,
    RequestedOutput,
    decode_response,
    encode_request,
    header_length,
)
from ._arrays import input_tensor
from ._errors import InvalidAnswerError, refusal
from ._regions import InRegion, Outputs
from ._result import InferResult

T = TypeVar("T")
Version = int | str | None
Part = bytes | memoryview
_PACKED_FROM = 1024  # bytes; less is not worth it


@dataclass(frozen=True)
class Answer:
    """An HTTP response; the names of its headers are in small letters."""

    status: int
    reason: str
    headers: Mapping[str, str]
    body: bytes | bytearray | memoryview


@dataclass(frozen=True)
class Call(Generic[T]):
    """An HTTP request.

    Args:
        path: quoted, from the server's root on.
        read: what the answer means. Raises ClientError.
        parts: of the body, one after the other.
        repeatable: to do it twice is as good as to do it once.
    """

    method: str
    path: str
    read: Callable[[Answer], T]
    parts: tuple[Part, ...] = ()
    headers: Mapping[str, str] = field(default_factory=dict)
    repeatable: bool = True

    @property
    def size(self) -> int:
        """Bytes of the body."""
        return sum(map(len, self.parts))


def opened(answer: Answer, limit: int) -> Answer:
    """An answer whose body is as it was before it was packed.

    Raises:
        InvalidAnswerError: it cannot be unpacked, or only to more than `limit` bytes.
    """
    encoding = answer.headers.get("content-encoding", "identity").strip().lower()
    if encoding == "identity" or not len(answer.body):
        return answer
    if encoding not in ENCODINGS:
        raise InvalidAnswerError(f"the answer is packed with {shown(encoding)}, which was not asked for")
    try:
        body = unpacked(answer.body, encoding, limit)
    except ServiceError as error:
        why = f"to no more than {limit} bytes" if error.kind is Kind.TOO_LARGE else f"as {encoding}"
        raise InvalidAnswerError(f"the answer cannot be unpacked {why}") from None
    return Answer(answer.status, answer.reason, answer.headers, body)


# ---- answers --------------------------------------------------------------------------------------------------------


def _checked(answer: Answer) -> None:
    """Raises the error that an answer stands for, if it is none of success."""
    if 200 <= answer.status < 300:
        return
    if answer.status < 400:
        raise InvalidAnswerError(
            f"the server answered {answer.status} {shown(answer.reason)}: this client follows no redirections, give it the right address"
        )
    message = None
    try:
        document = json.loads(bytes(answer.body))
        message = document.get("error") if isinstance(document, dict) else None
    except (ValueError, RecursionError):
        pass
    if not isinstance(message, str):  # another's: a proxy's, say
        text = " ".join(bytes(answer.body[:400]).decode(errors="replace").split())
        message = f"the server answered {answer.status} {answer.reason}" + (f": {shown(text)}" if text else "")
    raise refusal(answer.status, message, answer.headers, answer.headers.get(REQUEST_ID.lower(), ""))


def _document(answer: Answer) -> Any:
    _checked(answer)
    try:
        return json.loads(bytes(answer.body))
    except (ValueError, RecursionError) as error:
        raise InvalidAnswerError(f"the answer is no JSON: {shown(str(error))}") from None


def _object(answer: Answer) -> dict[str, Any]:
    document = _document(answer)
    if not isinstance(document, dict):
        raise InvalidAnswerError(f"the answer is {shown(document)} and should be a JSON object")
    return document


def _list(answer: Answer) -> list[dict[str, Any]]:
    document = _document(answer)
    if not isinstance(document, list) or not all(isinstance(each, dict) for each in document):
        raise InvalidAnswerError(f"the answer is {shown(document)} and should be a list of JSON objects")
    return document


def _done(answer: Answer) -> None:
    _checked(answer)


def _yes(answer: Answer) -> bool:
    """What a health check says: no by 503, and of a model by 404, too."""
    if answer.status in (404, 503):
        return False
    _checked(answer)
    return True


def _result(answer: Answer) -> InferResult:
    _checked(answer)
    try:
        length = header_length(answer.headers.get(HEADER_LENGTH.lower()), len(answer.body))
        response = decode_response(answer.body, length)
    except ServiceError as error:
        raise InvalidAnswerError(f"the answer is no inference: {error}") from None
    result = InferResult(response)
    if len(result) + len(result.in_regions) < len(response.outputs):
        raise InvalidAnswerError("the answer has two outputs of one name")
    return result


# ---- calls ----------------------------------------------------------------------------------------------------------


def live() -> Call[bool]:
    """Whether the server runs."""
    return Call("GET", "/v2/health/live", _yes)


def ready(model: str | None, version: Version) -> Call[bool]:
    """Whether the server is ready, or a model."""
    return Call("GET", "/v2/health/ready" if model is None else _model(model, version) + "/ready", _yes)


def server_metadata() -> Call[dict[str, Any]]:
    """Name, version, extensions."""
    return Call("GET", "/v2", _object)


def metadata(model: str, version: Version) -> Call[dict[str, Any]]:
    """Inputs and outputs."""
    return Call("GET", _model(model, version), _object)


def config(model: str, version: Version) -> Call[dict[str, Any]]:
    """Triton's ModelConfig."""
    return Call("GET", _model(model, version) + "/config", _object)


def statistics(model: str | None, version: Version) -> Call[list[dict[str, Any]]]:
    """Counts and times, an entry a version."""

    def read(answer: Answer) -> list[dict[str, Any]]:
        found = _object(answer).get("model_stats")
        if not isinstance(found, list):
            raise InvalidAnswerError('the answer has no list "model_stats"')
        return found

    return Call("GET", "/v2/models/stats" if model is None else _model(model, version) + "/stats", read)


def index(ready_only: bool) -> Call[list[dict[str, Any]]]:
    """All versions of all models, and their states."""
    return _posted("/v2/repository/index", _list, {"ready": ready_only})


def load(model: str) -> Call[None]:
    """Loads a model, or loads it again."""
    return _posted(_repository(model) + "/load", _done, {})


def unload(model: str) -> Call[None]:
    """Takes a model away."""
    return _posted(_repository(model) + "/unload", _done, {}, repeatable=False)


def labels(model: str) -> Call[dict[str, Any]]:
    """The version of each label."""
    return Call("GET", _repository(model) + "/labels", _object)


def set_label(model: str, label: str, version: int | str) -> Call[dict[str, Any]]:
    """Puts a label on a version."""
    return _posted(f"{_repository(model)}/labels/{_quoted(label, 'label')}", _object, {"version": str(version)})


def rollback(model: str, label: str) -> Call[dict[str, Any]]:
    """Puts a label back."""
    return _posted(f"{_repository(model)}/labels/{_quoted(label, 'label')}/rollback", _object, {}, repeatable=False)


def regions(name: str | None) -> Call[list[dict[str, Any]]]:
    """This client's regions of shared memory, or one."""
    return Call("GET", _region(name) + "/status", _list)


def register_region(name: str, key: str, size: int, offset: int) -> Call[None]:
    """Makes a part of an object of shared memory a region; one that there is already is refused."""
    document = {"key": key, "byte_size": size, "offset": offset}
    return _posted(_region(name) + "/register", _done, document, repeatable=False)


def unregister_regions(name: str | None, all_clients: bool) -> Call[None]:
    """Forgets regions."""
    document = {"parameters": {"all_clients": True}} if all_clients else {}
    return _posted(_region(name) + "/unregister", _done, document)


def infer(
    model: str,
    inputs: Mapping[str, object],
    *,
    outputs: Outputs,
    classes: Mapping[str, int] | None,
    version: Version,
    id: str | None,
    parameters: Mapping[str, Any] | None,
    as_json: bool,
    left: float,
    packing: str | None,
) -> Call[InferResult]:
    """A run of a model. `left`: seconds of its time, which a server that knows no header of ours reads among its parameters."""
    asked = dict(parameters or {})
    if left < math.inf:
        asked.setdefault("timeout", max(1, int(left * 1e6)))
    if not as_json:
        asked.setdefault("binary_data_output", True)
    binary = None if not as_json else False
    tensors = tuple(
        value.input_tensor(name) if isinstance(value, InRegion) else input_tensor(name, value)
        for name, value in inputs.items()
    )
    request = InferRequest(tensors, _requested(outputs, classes, binary), id, asked)
    try:
        sequenced = bool(request.options.sequence_id)
        body = encode_request(request, binary=not as_json)
    except ServiceError as error:
        raise InvalidArgumentError(str(error)) from None
    except (TypeError, ValueError) as error:
        raise InvalidArgumentError(f"the parameters cannot be written as JSON: {error}") from None
    parts: tuple[Part, ...] = tuple(body.parts)
    headers = {"Content-Type": "application/json"}
    if body.header_length is not None:
        headers = {"Content-Type": "application/octet-stream", HEADER_LENGTH: str(body.header_length)}
    if packing is not None and sum(map(len, parts)) >= _PACKED_FROM:
        parts = (packed(b"".join(parts), packing),)
        headers["Content-Encoding"] = packing
    return Call("POST", _model(model, version) + "/infer", _result, parts, headers, repeatable=not sequenced)


def _requested(outputs: Outputs, classes: Mapping[str, int] | None, binary: bool | None) -> tuple[RequestedOutput, ...]:
    classes = classes or {}
    places = outputs if isinstance(outputs, Mapping) else {}
    names = list(dict.fromkeys([*(outputs or ()), *classes]))
    return tuple(_wanted(name, binary, classes.get(name, 0), places.get(name)) for name in names)


def _wanted(name: str, binary: bool | None, classification: int, place: object) -> RequestedOutput:
    if place is None:
        return RequestedOutput(name, binary, classification)
    if not isinstance(place, InRegion):
        raise InvalidArgumentError(f"output {name!r} is to go to a {type(place).__name__}: give an InRegion, or None")
    return RequestedOutput(name, None, classification, place.place)


def _posted(path: str, read: Callable[[Answer], T], document: dict[str, Any], repeatable: bool = True) -> Call[T]:
    return Call("POST", path, read, (json.dumps(document).encode(),), {"Content-Type": "application/json"}, repeatable)


def _model(model: str, version: Version) -> str:
    path = f"/v2/models/{_quoted(model, 'model')}"
    return path if version is None else f"{path}/versions/{_quoted(str(version), 'version')}"


def _region(name: str | None) -> str:
    path = "/v2/systemsharedmemory"
    return path if name is None else f"{path}/region/{_quoted(name, 'region')}"


def _repository(model: str) -> str:
    return f"/v2/repository/models/{_quoted(model, 'model')}"


def _quoted(name: str, what: str) -> str:
    """A name as one step of a path; those that a path gives a meaning of their own are nobody's."""
    if not isinstance(name, str) or name in ("", ".", ".."):
        raise InvalidArgumentError(f"the {what} is {shown(name)} and must be a name")
    try:
        return quote(name, safe="")
    except UnicodeEncodeError:
        raise InvalidArgumentError(f"the {what} {shown(name)} cannot be written in UTF-8") from None
