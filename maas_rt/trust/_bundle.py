"""Detached signatures that the OpenSSF model-signing tools read and write (`model_signing sign|verify key|certificate`).

A Sigstore bundle in JSON holds a DSSE envelope, which holds an in-toto statement: the hashes of a model's files.
https://github.com/sigstore/model-transparency, https://github.com/secure-systems-lab/dsse, https://in-toto.io/Statement/v1
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from maas_rt._container import write_whole
from maas_rt._errors import Error, InvalidArgumentError, SignatureError

from ._chains import check_chain, subject
from ._keys import (
    PublicKey,
    Signer,
    Trusted,
    algorithm_of,
    described,
    key_id,
    key_of,
    read_file,
    read_signer,
    verify_der,
)
from ._signature import Accepted

_MEDIA_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"
_PAYLOAD_TYPE = "application/vnd.in-toto+json"
_STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
_PREDICATE_TYPE = "https://model_signing/signature/v1.0"
_HASHES: dict[str, Any] = {"sha256": hashlib.sha256, "blake2b": hashlib.blake2b}
_GIT = (".git", ".gitattributes", ".github", ".gitignore")
_PIECE = 1 << 20
_MOST = 1 << 28  # bytes of a bundle: a folder may have many files


def write_bundle(
    model: str | os.PathLike[str], output: str | os.PathLike[str], *, key: Any, certificates: Any = None
) -> Signer:
    """Writes a detached signature of a model, a file or a folder, which `model_signing verify key` (or `certificate`) accepts.

    Raises:
        InvalidArgumentError: the key is no ECDSA key, which alone those tools take.
        Error: a file cannot be read or written.
    """
    signer = read_signer(key, certificates)
    if not isinstance(signer.key, ec.EllipticCurvePrivateKey):
        raise InvalidArgumentError(
            f"the OpenSSF model-signing tools take ECDSA keys, and this one is {signer.algorithm.name}: sign the file itself with it"
        )
    left_out = [output]
    resources = [
        {"name": name, "algorithm": "sha256", "digest": _digest(Path(model) / name, "sha256").hexdigest()}
        for name in _files(Path(model), _ignored(Path(model), left_out))
    ]
    inside = os.path.relpath(output, model)
    ignored = [*_GIT, *([] if inside.startswith("..") or not Path(model).is_dir() else [inside])]
    root = hashlib.sha256(b"".join(bytes.fromhex(each["digest"]) for each in resources)).hexdigest()
    statement = {
        "_type": _STATEMENT_TYPE,
        "subject": [{"name": Path(os.path.realpath(model)).name, "digest": {"sha256": root}}],
        "predicateType": _PREDICATE_TYPE,
        "predicate": {
            "serialization": {
                "method": "files",
                "hash_type": "sha256",
                "allow_symlinks": False,
                "ignore_paths": ignored,
            },
            "resources": resources,
        },
    }
    payload = json.dumps(statement, indent=2).encode()
    signature = signer.key.sign(_encoded(payload), ec.ECDSA(signer.algorithm.hash()))
    bundle = {
        "mediaType": _MEDIA_TYPE,
        "verificationMaterial": {**_material(signer), "tlogEntries": []},
        "dsseEnvelope": {
            "payload": _base64(payload),
            "payloadType": _PAYLOAD_TYPE,
            "signatures": [{"sig": _base64(signature), "keyid": ""}],
        },
    }
    write_whole(output, [json.dumps(bundle).encode()])
    return signer


def check_bundle(model: str | os.PathLike[str], bundle: str | os.PathLike[str], trusted: Trusted) -> Accepted:
    """Checks a detached signature: that somebody who is trusted made it, and that each file of the model is as it says.

    Raises:
        SignatureError: it does not hold, for the reason that the sentence says.
        Error: a file cannot be read.
    """
    try:
        content = json.loads(read_file(bundle, _MOST))
        envelope, material = content["dsseEnvelope"], content["verificationMaterial"]
        payload = base64.b64decode(envelope["payload"], validate=True)
        value = base64.b64decode(envelope["signatures"][0]["sig"], validate=True)
        kinds = (content["mediaType"], envelope["payloadType"])
        key, accepted = _signer_of(material, trusted)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        if isinstance(error, Error):
            raise
        raise SignatureError(
            f"{os.fspath(bundle)} is no signature by key or certificate of the OpenSSF model-signing tools"
        ) from None
    if kinds != (_MEDIA_TYPE, _PAYLOAD_TYPE):
        raise SignatureError(f"{os.fspath(bundle)} is of another kind ({kinds[0]}, {kinds[1]})")
    if not isinstance(key, ec.EllipticCurvePublicKey) or not verify_der(key, _encoded(payload), value):
        raise SignatureError(f"the signature in {os.fspath(bundle)} was not made by {accepted.signer}")
    try:
        _check_files(Path(model), json.loads(payload), [bundle])
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        if isinstance(error, Error):
            raise
        raise SignatureError(f"the statement in {os.fspath(bundle)} is not understood") from None
    return accepted


def _signer_of(material: dict[str, Any], trusted: Trusted) -> tuple[PublicKey, Accepted]:
    """The key that is to have signed, if it is trusted."""
    if "x509CertificateChain" in material:
        raw = [each["rawBytes"] for each in material["x509CertificateChain"]["certificates"]]
        chain = [x509.load_der_x509_certificate(base64.b64decode(each, validate=True)) for each in raw]
        key: PublicKey = key_of(chain[0])
        known = trusted.key(key_id(key))
        root = None if known is not None else subject(check_chain(chain, trusted.roots))
        return key, Accepted(described(algorithm_of(key), key_id(key), chain if root else ()), root)
    hint = material["publicKey"].get("hint") or ""
    for each in trusted.keys:
        if _hint(each) == hint or (not hint and len(trusted.keys) == 1):
            return each, Accepted(described(algorithm_of(each), key_id(each), ()))
    raise SignatureError(
        f"it is signed by a key with the hint {hint or 'none'}, which is not among those that are trusted"
    )


def _check_files(model: Path, statement: dict[str, Any], left_out: list[Any]) -> None:
    """That the files are those of the statement, no more and no fewer."""
    kinds = (statement["_type"], statement["predicateType"])
    if kinds != (_STATEMENT_TYPE, _PREDICATE_TYPE):
        raise SignatureError(f"the statement is of another kind ({kinds[0]}, {kinds[1]})")
    how, resources = statement["predicate"]["serialization"], statement["predicate"]["resources"]
    root = hashlib.sha256(b"".join(bytes.fromhex(each["digest"]) for each in resources)).hexdigest()
    if [subject["digest"]["sha256"] for subject in statement["subject"]] != [root]:
        raise SignatureError("the statement contradicts itself: its digest is not that of its files")
    shards = how["method"] == "shards"
    if how["method"] not in ("files", "shards"):
        raise SignatureError(f"the statement lists {how['method']}, which is not known")
    seen: dict[str, int] = {}
    for each in resources:
        name, begin, end = each["name"], 0, None
        if shards:
            name, first, last = name.rsplit(":", 2)
            begin, end = int(first), int(last)
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise SignatureError(f"the statement names {name!r}, which is not inside of the model")
        if begin != seen.get(name, 0):
            raise SignatureError(f"the statement leaves out a part of {name!r}")
        path = model / name
        if not path.is_file():
            raise SignatureError(f"the statement names {name!r}, which the model does not have")
        if _digest(path, each["algorithm"], begin, end).hexdigest() != each["digest"].lower():
            raise SignatureError(f"{path} is not the file that was signed")
        seen[name] = path.stat().st_size if end is None else end
    for name, end in seen.items():
        if end != (model / name).stat().st_size:
            raise SignatureError(f"the statement leaves out a part of {name!r}")
    ignored = _ignored(model, [*left_out, *(model / each for each in how.get("ignore_paths") or [])])
    more = sorted(set(_files(model, ignored)) - seen.keys())
    if more:
        raise SignatureError(f"the model has a file that was not signed: {more[0]}")


def _files(model: Path, ignored: set[str]) -> Iterator[str]:
    """The names of a model's files below it, sorted by their parts; "." of a model that is one file."""
    if not model.is_dir():
        yield "."
        return
    found = []
    for folder, folders, names in os.walk(model):
        folders[:] = [each for each in folders if os.path.realpath(os.path.join(folder, each)) not in ignored]
        for name in names:
            path = os.path.join(folder, name)
            if os.path.realpath(path) in ignored:
                continue
            if os.path.islink(path):
                raise InvalidArgumentError(f"{path} is a link, which a signature of files does not cover")
            found.append(PurePosixPath(os.path.relpath(path, model)))
    yield from map(str, sorted(found))


def _ignored(model: Path, more: list[Any]) -> set[str]:
    return {os.path.realpath(each) for each in [*(model / name for name in _GIT), *more]}


def _digest(path: Path, algorithm: str, begin: int = 0, end: int | None = None) -> Any:
    """The hash of a file's bytes from `begin` to `end`. A sharded algorithm is called as "sha256-sharded-1000000000"."""
    name = algorithm.partition("-sharded-")[0]
    if name not in _HASHES:
        raise SignatureError(f"the files are hashed with {algorithm}; {' and '.join(_HASHES)} are known")
    digest = _HASHES[name]()
    try:
        with open(path, "rb") as file:
            file.seek(begin)
            left = os.fstat(file.fileno()).st_size - begin if end is None else end - begin
            while left > 0 and (piece := file.read(min(_PIECE, left))):
                digest.update(piece)
                left -= len(piece)
    except OSError as error:
        raise Error(f"{path} could not be read: {error.strerror or error}") from error
    return digest


def _encoded(payload: bytes) -> bytes:
    """DSSE's pre-authentication encoding: what is signed."""
    return b"DSSEv1 %d %s %d %s" % (len(_PAYLOAD_TYPE), _PAYLOAD_TYPE.encode(), len(payload), payload)


def _material(signer: Signer) -> dict[str, Any]:
    if not signer.certificates:
        return {"publicKey": {"hint": _hint(signer.public)}}
    raw = [{"rawBytes": _base64(each.public_bytes(Encoding.DER))} for each in signer.certificates]
    return {"x509CertificateChain": {"certificates": raw}}


def _hint(key: PublicKey) -> str:
    pem = key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(pem).hexdigest()


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
