"""Signatures and encryption with real keys: who is trusted, what is refused, and that it is refused before it is used."""

from __future__ import annotations

import base64
import datetime
import pickle
import re
import subprocess
import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

cryptography = pytest.importorskip("cryptography", reason="needs the extra: pip install 'maas-rt[trust]'")

from cryptography import x509  # noqa: E402
from cryptography.hazmat.primitives import hashes, serialization  # noqa: E402
from cryptography.hazmat.primitives.asymmetric import ec, rsa  # noqa: E402
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey  # noqa: E402
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey  # noqa: E402
from cryptography.x509.oid import ExtendedKeyUsageOID as Purpose  # noqa: E402

import maas_rt  # noqa: E402
from maas_rt import _container, trust  # noqa: E402
from maas_rt._container import SectionKind  # noqa: E402
from maas_rt.trust import _chains, _encryption, _keys, _signature  # noqa: E402
from tests import _tiny  # noqa: E402

DATA = _tiny.mlp()
X = np.ones((1, 16), np.float32)
Y = _tiny.reference_mlp(X)
NOW = datetime.datetime.now(datetime.timezone.utc)
DAY = datetime.timedelta(days=1)
KINDS = {
    "Ed25519": Ed25519PrivateKey.generate,
    "ECDSA P-256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "ECDSA P-384": lambda: ec.generate_private_key(ec.SECP384R1()),
    "ECDSA P-521": lambda: ec.generate_private_key(ec.SECP521R1()),
}
LOCK = {"lock": False}  # whatever the machine's limit; csrc/tests/test_encryption.cc looks at the memory


def private_pem(key: Any, password: bytes | None = None) -> bytes:
    protection = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    pem: bytes = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, protection)
    return pem


def public_pem(key: Any) -> bytes:
    pem: bytes = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return pem


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, with a model, a signer and a reader."""
    (tmp_path / "model.mrt").write_bytes(DATA)
    for name, key in (("signer", Ed25519PrivateKey.generate()), ("reader", X25519PrivateKey.generate())):
        (tmp_path / f"{name}.pem").write_bytes(private_pem(key))
        (tmp_path / f"{name}.pub.pem").write_bytes(public_pem(key))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def works(model: maas_rt.Model) -> bool:
    return bool(np.allclose(model(X), Y, rtol=1e-5, atol=1e-6))


def rehashed(data: bytes | bytearray) -> bytes:
    """The bytes with all hashes made right again, as one who changes a file would."""
    sections = _container.read(bytes(data), verify_sections=False).sections
    return b"".join(_container.write(_container.Section(s.kind, bytes(s.data), s.target, s.flags) for s in sections))


# ---- signatures by key ----


@pytest.mark.parametrize("kind", KINDS)
def test_a_signed_file_loads_for_those_who_trust_its_key(folder: Path, kind: str) -> None:
    key, other = KINDS[kind](), KINDS[kind]()
    signer = trust.sign("model.mrt", "signed.mrt", key=key)
    assert str(signer).startswith(f"{kind} key SHA256:")
    for keys in (public_pem(key), key.public_key(), [other.public_key(), public_pem(key)]):
        assert works(maas_rt.load("signed.mrt", require_signature=keys))
        assert works(maas_rt.load(Path("signed.mrt").read_bytes(), require_signature=keys, code="signed"))
    assert works(maas_rt.load("signed.mrt"))  # a signature is no lock
    with pytest.raises(
        maas_rt.SignatureError, match=f"signed.mrt is refused: it is signed by {kind} key SHA256:.*not among"
    ):
        maas_rt.load("signed.mrt", require_signature=public_pem(other))
    with pytest.raises(maas_rt.SignatureError, match="'model.mrt' has no signature"):
        maas_rt.load("model.mrt", require_signature=public_pem(key))
    trust.sign("signed.mrt", key=other)  # in place, and instead of the first
    assert works(maas_rt.load("signed.mrt", require_signature=public_pem(other)))
    report = trust.check("signed.mrt", public_pem(other))
    assert report.holds and report.accepted is not None and len(report.signers) == 1


def test_what_was_changed_after_it_was_signed_is_refused(folder: Path) -> None:
    trust.sign("model.mrt", key="signer.pem")
    data = Path("model.mrt").read_bytes()
    sections = _container.read(data).sections
    for section in sections:
        changed = bytearray(data)
        changed[section.offset + section.size // 2] ^= 1
        with pytest.raises(maas_rt.FormatError):
            maas_rt.load(bytes(changed), require_signature="signer.pub.pem")
        if section.kind != SectionKind.SIGNATURE:
            with pytest.raises(maas_rt.SignatureError, match="the file was changed"):
                maas_rt.load(rehashed(changed), require_signature="signer.pub.pem")
    # The signature of another file, which is right there.
    Path("other.mrt").write_bytes(_tiny.softmax())
    trust.sign("other.mrt", key="signer.pem")
    other = _container.read("other.mrt").sections
    mixed = [_container.Section(s.kind, bytes(s.data)) for s in (*sections[:-1], other[-1])]
    with pytest.raises(maas_rt.SignatureError, match="the file was changed"):
        maas_rt.load(b"".join(_container.write(mixed)), require_signature="signer.pub.pem")


def test_a_signature_section_that_is_no_such_is_refused(folder: Path) -> None:
    trust.sign("model.mrt", key="signer.pem")
    container = _container.read("model.mrt")
    section = bytes(container.section(SectionKind.SIGNATURE))
    trusted = _keys.read_trusted("signer.pub.pem")
    assert _signature.check_table(container.signed, section, trusted).root is None
    for size in range(len(section)):
        with pytest.raises(maas_rt.SignatureError):
            _signature.check_table(container.signed, section[:size], trusted)
    for at in range(8 * len(section)):
        flipped = bytearray(section)
        flipped[at // 8] ^= 1 << at % 8
        with pytest.raises(maas_rt.SignatureError):
            _signature.check_table(container.signed, bytes(flipped), trusted)
    with pytest.raises(maas_rt.SignatureError):
        _signature.check_table(container.signed, section + b"\0", trusted)


def test_one_of_several_signatures_is_enough(folder: Path) -> None:
    signers = [_keys.Signer(make()) for make in KINDS.values()]
    sections = [_container.Section(s.kind, bytes(s.data)) for s in _container.read(DATA).sections]
    size = _signature.section_size(signers)
    data = b"".join(_container.write(_container.signed(sections, size, lambda t: _signature.sign_table(t, signers))))
    for signer in signers:
        assert works(maas_rt.load(data, require_signature=signer.public))
    with pytest.raises(maas_rt.SignatureError, match="Ed25519 .*; .* P-256 .*; .* P-384 .*; .* P-521 "):
        maas_rt.load(data, require_signature="signer.pub.pem")


def test_keys_are_read_from_many_places_and_private_ones_are_refused(folder: Path, monkeypatch: Any) -> None:
    trust.sign("model.mrt", key="signer.pem")
    (folder / "keys").mkdir()
    (folder / "keys" / "a.pub").write_bytes(
        public_pem(Ed25519PrivateKey.generate()) + b"\n# b\n" + Path("signer.pub.pem").read_bytes()
    )
    (folder / "keys" / "README").write_text("not a key")
    for keys in ("keys", folder / "keys", ["keys"], ("signer.pub.pem", folder / "keys" / "a.pub")):
        model = maas_rt.load("model.mrt", require_signature=keys)
        assert works(model) and works(pickle.loads(pickle.dumps(model)))
    (folder / "empty").mkdir()
    (folder / "rsa.pem").write_bytes(public_pem(rsa.generate_private_key(65537, 2048)))
    (folder / "text.pem").write_text("hello")
    for keys, says in (
        ("empty", "names no key"),
        ([], "names no key"),
        ("signer.pem", "holds a private key; expected a public key"),
        ("rsa.pem", "RSAPublicKey; signatures are made with Ed25519 or ECDSA"),
        ("reader.pub.pem", "X25519PublicKey; signatures are made with"),
        ("text.pem", "holds no PEM block"),
        (7, "holds a int"),
        ("", "is an empty name"),
        (b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----", "cannot be read"),
    ):
        with pytest.raises(maas_rt.InvalidArgumentError, match=says):
            maas_rt.load("model.mrt", require_signature=keys)
    with pytest.raises(maas_rt.Error, match="none.pem could not be read: No such file"):
        maas_rt.load("model.mrt", require_signature="none.pem")
    with pytest.raises(maas_rt.InvalidArgumentError, match="both given"):
        maas_rt.load("model.mrt", require_signature="signer.pub.pem", check_signature=lambda a, b: True)
    for key, says in (
        ("reader.pem", "X25519PrivateKey"),
        ("signer.pub.pem", "no private key"),
        ("text.pem", "no private"),
    ):
        with pytest.raises(maas_rt.InvalidArgumentError, match=says):
            trust.sign("model.mrt", key=key)
    with pytest.raises(maas_rt.InvalidArgumentError, match="the key itself as text"):
        trust.sign("model.mrt", key=Path("signer.pem").read_text())
    (folder / "locked.pem").write_bytes(private_pem(Ed25519PrivateKey.generate(), b"sesame"))
    with pytest.raises(maas_rt.InvalidArgumentError, match="protected by a password: set MAAS_RT_KEY_PASSWORD"):
        trust.sign("model.mrt", key="locked.pem")
    monkeypatch.setenv("MAAS_RT_KEY_PASSWORD", "sesame")
    trust.sign("model.mrt", key="locked.pem")
    trust.sign("model.mrt", key="signer.pem")  # which has none
    monkeypatch.setenv("MAAS_RT_KEY_PASSWORD", "simsim")
    with pytest.raises(maas_rt.InvalidArgumentError, match="no private key that MAAS_RT_KEY_PASSWORD opens"):
        trust.sign("model.mrt", key="locked.pem")


# ---- certificates ----


def certificate(
    name: str,
    key: Any,
    issuer: str,
    issuer_key: Any,
    *,
    authority: bool | None = False,
    path_length: int | None = None,
    begin: datetime.datetime = NOW - DAY,
    end: datetime.datetime = NOW + DAY,
    purposes: Sequence[Any] = (),
    signs: bool | None = None,
    certifies: bool | None = None,
    critical: bool = False,
    digest: Any = hashes.SHA256,
) -> x509.Certificate:
    def named(text: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)])

    builder = x509.CertificateBuilder(
        named(issuer), named(name), key.public_key(), x509.random_serial_number(), begin, end
    )
    if authority is not None:
        builder = builder.add_extension(x509.BasicConstraints(authority, path_length), True)
    if signs is not None or certifies is not None:
        usage = x509.KeyUsage(bool(signs), False, False, False, False, bool(certifies), False, False, False)
        builder = builder.add_extension(usage, True)
    if purposes:
        builder = builder.add_extension(x509.ExtendedKeyUsage(purposes), False)
    if critical:
        builder = builder.add_extension(x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\5\0"), True)
    return builder.sign(issuer_key, None if isinstance(issuer_key, Ed25519PrivateKey) else digest())


@pytest.mark.parametrize("kind", ["Ed25519", "ECDSA P-256"])
def test_a_certificate_chain_to_a_trusted_root(folder: Path, kind: str) -> None:
    root_key, middle_key, key = (KINDS[kind]() for _ in range(3))
    root = certificate("Root", root_key, "Root", root_key, authority=True, certifies=True)
    middle = certificate("Middle", middle_key, "Root", root_key, authority=True, path_length=0)
    leaf = certificate("Models", key, "Middle", middle_key, signs=True, purposes=[Purpose.CODE_SIGNING])
    pem = serialization.Encoding.PEM
    (folder / "chain.pem").write_bytes(leaf.public_bytes(pem) + middle.public_bytes(pem))
    (folder / "key.pem").write_bytes(private_pem(key))
    (folder / "root.crt").write_bytes(root.public_bytes(pem))
    trust.sign("model.mrt", key="key.pem", certificates="chain.pem")
    for keys in ("root.crt", root, middle, leaf, public_pem(key)):
        assert works(maas_rt.load("model.mrt", require_signature=keys))
    accepted = trust.check("model.mrt", "root.crt").accepted
    assert accepted is not None and accepted.root == "CN=Root" and accepted.signer.startswith("CN=Models (")
    with pytest.raises(maas_rt.SignatureError, match="CN=Models .*is not among the keys"):
        maas_rt.load("model.mrt", require_signature="signer.pub.pem")
    stranger = certificate("Root", key, "Root", key, authority=True)
    with pytest.raises(maas_rt.SignatureError, match="was not signed by CN=Root"):
        maas_rt.load("model.mrt", require_signature=stranger)
    trust.sign("model.mrt", key=key, certificates=[leaf])  # without the one between
    with pytest.raises(maas_rt.SignatureError, match="no trusted certificate vouches for the signer CN=Models"):
        maas_rt.load("model.mrt", require_signature=root)
    assert works(maas_rt.load("model.mrt", require_signature=[root, middle]))
    with pytest.raises(maas_rt.InvalidArgumentError, match="of another key"):
        trust.sign("model.mrt", key=key, certificates=[middle])
    strong = certificate("Models", rsa.generate_private_key(65537, 2048), "Root", root_key)
    signer = _keys.Signer(key, (strong,))
    sections = [_container.Section(s.kind, bytes(s.data)) for s in _container.read(DATA).sections]
    size = _signature.section_size([signer])
    data = b"".join(_container.write(_container.signed(sections, size, lambda t: _signature.sign_table(t, [signer]))))
    with pytest.raises(maas_rt.SignatureError, match="CN=Models is of a key that is not known: .*RSAPublicKey"):
        maas_rt.load(data, require_signature=root)
    # One's own certificate beside somebody else's key id.
    table, section = (
        _container.read("model.mrt").signed,
        bytearray(_container.read("model.mrt").section(SectionKind.SIGNATURE)),
    )
    section[16] ^= 1
    with pytest.raises(maas_rt.SignatureError, match="its certificate is of another key"):
        _signature.check_table(table, bytes(section), _keys.read_trusted([root, middle]))


def test_what_a_certificate_may_not_do(monkeypatch: pytest.MonkeyPatch) -> None:
    root_key, middle_key, key = (Ed25519PrivateKey.generate() for _ in range(3))
    weak_key = rsa.generate_private_key(65537, 1024)
    strong_key = rsa.generate_private_key(65537, 2048)
    root = certificate("Root", root_key, "Root", root_key, authority=True)

    def middle(**options: Any) -> x509.Certificate:
        return certificate("Middle", middle_key, "Root", root_key, **{"authority": True, **options})

    def leaf(**options: Any) -> x509.Certificate:
        return certificate("Models", key, "Middle", middle_key, **options)

    good = [leaf(), middle()]
    assert _chains.check_chain(good, [root]) == root
    assert _chains.check_chain([good[0], root, good[1]], [root]) == root  # in any order, with the root or without
    assert (
        _chains.check_chain([leaf(begin=NOW + datetime.timedelta(minutes=1)), middle()], [root]) == root
    )  # clocks differ
    assert _chains.check_chain([leaf(signs=True), middle(signs=True, certifies=True)], [root]) == root
    rsa_root = certificate("Root", strong_key, "Root", strong_key, authority=True)
    rsa_middle = certificate("Middle", middle_key, "Root", strong_key, authority=True)
    assert _chains.check_chain([leaf(), rsa_middle], [rsa_root]) == rsa_root
    below = certificate("Below", key, "Middle", middle_key, authority=True)
    long = certificate("Models", key, "Below", key)
    assert _chains.check_chain([long, below, middle(path_length=1)], [root]) == root
    weak_root = certificate("Root", weak_key, "Root", weak_key, authority=True)
    weak_middle = certificate("Middle", middle_key, "Root", weak_key, authority=True)
    for chain, roots, says in (
        ([leaf(begin=NOW + DAY, end=NOW + 2 * DAY), middle()], [root], "CN=Models is valid from"),
        ([leaf(begin=NOW - 2 * DAY, end=NOW - DAY), middle()], [root], "CN=Models was valid until"),
        ([leaf(), middle(begin=NOW - 2 * DAY, end=NOW - DAY)], [root], "CN=Middle was valid until"),
        ([leaf(), middle(authority=False)], [root], "CN=Middle is no authority"),
        ([leaf(), middle(authority=None)], [root], "CN=Middle is no authority"),
        ([leaf(), middle(signs=True)], [root], "the key of CN=Middle may not sign certificates"),
        ([leaf(signs=False), middle()], [root], "not for signatures"),
        ([leaf(purposes=[Purpose.SERVER_AUTH]), middle()], [root], "not for code signing"),
        ([leaf(), middle(purposes=[Purpose.SERVER_AUTH])], [root], "CN=Middle may not vouch for code signing"),
        (
            [leaf(), *[certificate("Middle", middle_key, "Middle", middle_key, authority=True) for _ in range(7)]],
            [root],
            "too many ways",
        ),
        ([leaf(critical=True), middle()], [root], "critical extension 1.2.3.4"),
        ([leaf(), middle(critical=True)], [root], "critical extension 1.2.3.4"),
        ([long, below, middle(path_length=0)], [root], "CN=Middle may not vouch for so long a chain"),
        ([leaf(), weak_middle], [weak_root], "has only 1024 bits"),
        ([leaf(), rsa_middle], [root], "was not signed by CN=Root"),
        ([leaf()], [root], "no trusted certificate vouches for the signer CN=Models"),
        ([certificate("Models", key, "Models", key)], [root], "no trusted certificate"),
        ([leaf(), middle()], [], "no trusted certificate"),
    ):
        with pytest.raises(maas_rt.SignatureError, match=says):
            _chains.check_chain(chain, roots)
    monkeypatch.setattr(_chains, "_STRONG", (hashes.SHA384,))  # SHA-1 is no longer there to be tried
    with pytest.raises(maas_rt.SignatureError, match="is signed with sha256, which is broken"):
        _chains.check_chain([leaf(), rsa_middle], [rsa_root])


# ---- encryption ----


@pytest.fixture
def big(folder: Path) -> bytes:
    """model.mrt with three chunks of weights, two full ones, and code for no level that exists."""
    b = _tiny.Builder("big")
    values = np.arange(2 * _encryption.CHUNK // 4 + 77, dtype=np.float32)
    x = b.input("x", [4])
    y = b.value("y", [4 + values.size])
    b.kernel("concat", [x, b.constant("c", values)], [y], axis=0)
    sections = b.sections(y)
    data = b"".join(_container.write([*sections, _container.Section(SectionKind.CODE, b"\x7fELF", "x86-64-v9")]))
    Path("model.mrt").write_bytes(data)
    return data


def test_an_encrypted_file_runs_and_comes_back_in_clear(folder: Path, big: bytes) -> None:
    assert trust.encrypt("model.mrt", "sealed.mrt", ["reader.pub.pem"]) is False
    sealed = Path("sealed.mrt").read_bytes()
    assert big[-4:] == b"\x7fELF" and b"concat" in big and b"concat" not in sealed and b"\x7fELF" not in sealed
    model = maas_rt.load("sealed.mrt", key="reader.pem", **LOCK)
    x = np.array([1, 2, 3, 4], np.float32)
    np.testing.assert_array_equal(model(x), maas_rt.load("model.mrt")(x))
    assert model.manifest["name"] == "big"
    Path("sealed.mrt").write_bytes(b"")  # the file is not looked at again
    assert model(x)[-1] == 2 * _encryption.CHUNK // 4 + 76
    Path("sealed.mrt").write_bytes(sealed)
    assert trust.decrypt("sealed.mrt", "again.mrt", "reader.pem") is False
    assert Path("again.mrt").read_bytes() == big
    trust.encrypt("model.mrt", "other.mrt", ["reader.pub.pem"])
    other = _container.read("other.mrt").sections
    for mine, theirs in zip(_container.read(sealed).sections, other, strict=True):
        assert mine.sha256 != theirs.sha256  # a key of its own
    for options in ({}, {"copy": True}, {"verify": "full"}):
        assert (
            maas_rt.load(sealed, key="reader.pem", **LOCK, **{k: v for k, v in options.items() if k != "copy"})(x)[0]
            == 1
        )
        assert maas_rt.load("sealed.mrt", key="reader.pem", **LOCK, **options)(x)[0] == 1


def test_nonces_never_repeat() -> None:
    seen = {
        _encryption.nonce(s, c, last) for s in range(8) for c in (0, 1, 2, 255, 256, 2**31) for last in (False, True)
    }
    assert len(seen) == 8 * 6 * 2 and all(len(nonce) == 12 for nonce in seen)
    for size in (0, 1, _encryption.CHUNK, _encryption.CHUNK + 1, 3 * _encryption.CHUNK):
        chunks = list(_encryption._chunks(size, _encryption.CHUNK))
        assert [last for _, _, last in chunks] == [False] * (len(chunks) - 1) + [True]
        assert [number for number, _, _ in chunks] == list(range(len(chunks)))
        assert _encryption.plain_size(_encryption.sealed_size(size)) == size


def test_the_signature_of_an_encrypted_file_needs_no_key(folder: Path) -> None:
    trust.sign("model.mrt", "signed.mrt", key="signer.pem")
    assert trust.encrypt("signed.mrt", "sealed.mrt", ["reader.pub.pem"]) is True  # the plain file's signature is gone
    with pytest.raises(maas_rt.SignatureError, match="has no signature"):
        maas_rt.load("sealed.mrt", key="reader.pem", require_signature="signer.pub.pem", **LOCK)
    trust.sign("sealed.mrt", key="signer.pem")
    report = trust.check("sealed.mrt", "signer.pub.pem")
    assert report.holds and report.accepted is not None and report.recipients == ("an X25519 key",)
    assert works(maas_rt.load("sealed.mrt", key="reader.pem", require_signature="signer.pub.pem", **LOCK))
    # An untrusted one is refused without the key being asked for.
    asked = []
    with pytest.raises(maas_rt.SignatureError):
        maas_rt.load("sealed.mrt", key=lambda name: asked.append(name), require_signature=public_pem(Ed25519PrivateKey.generate()))  # fmt: skip
    assert not asked
    assert trust.decrypt("sealed.mrt", "plain.mrt", "reader.pem") is True
    assert Path("plain.mrt").read_bytes() == DATA


def test_a_signature_can_be_required_before_it_is_left_out(folder: Path) -> None:
    """Afterwards nothing tells who vouched for a file: a reader, who has its key, can write another one that opens with it."""
    trust.encrypt("model.mrt", "sealed.mrt", ["reader.pub.pem"])
    asked = []

    def key(name: str) -> bytes:
        asked.append(name)
        return Path("reader.pem").read_bytes()

    stranger = public_pem(Ed25519PrivateKey.generate())
    with pytest.raises(maas_rt.SignatureError, match=r"sealed\.mrt has no signature, and one is required"):
        trust.decrypt("sealed.mrt", "plain.mrt", key, require_signature="signer.pub.pem")
    trust.sign("sealed.mrt", key="signer.pem")
    with pytest.raises(maas_rt.SignatureError, match=r"sealed\.mrt: it is signed by .*, which is not among the keys"):
        trust.decrypt("sealed.mrt", "plain.mrt", key, require_signature=stranger)
    assert not asked and not Path("plain.mrt").exists()
    assert trust.decrypt("sealed.mrt", "plain.mrt", "reader.pem", require_signature="signer.pub.pem") is True
    assert Path("plain.mrt").read_bytes() == DATA
    trust.sign("model.mrt", "signed.mrt", key="signer.pem")
    recipients = ["reader.pub.pem"]
    with pytest.raises(maas_rt.SignatureError, match="not among the keys"):
        trust.encrypt("signed.mrt", "again.mrt", recipients, require_signature=stranger)
    with pytest.raises(maas_rt.SignatureError, match=r"model\.mrt has no signature"):
        trust.encrypt("model.mrt", "again.mrt", recipients, require_signature="signer.pub.pem")
    assert not Path("again.mrt").exists()
    assert trust.encrypt("signed.mrt", "again.mrt", recipients, require_signature="signer.pub.pem") is True


def test_no_bit_of_a_signed_file_is_free(folder: Path) -> None:
    """What lies between its sections, and behind the last one, is under no hash: it is zero, or the file is refused."""
    trust.sign("model.mrt", "signed.mrt", key="signer.pem")
    data = bytearray(Path("signed.mrt").read_bytes())
    sections = _container.read(bytes(data)).sections
    gaps = [
        (one.offset + one.size, other.offset)
        for one, other in pairwise(sections)
        if one.offset + one.size < other.offset
    ]
    assert len(gaps) >= 2
    for begin, end in gaps:
        for at in {begin, (begin + end) // 2, end - 1}:
            data[at] ^= 1
            Path("changed.mrt").write_bytes(data)
            with pytest.raises(maas_rt.FormatError, match="not zero"):
                trust.check("changed.mrt", "signer.pub.pem")
            with pytest.raises(maas_rt.FormatError, match="a gap between sections is not zero"):
                maas_rt.load("changed.mrt", require_signature="signer.pub.pem")
            data[at] ^= 1
    Path("changed.mrt").write_bytes(data)
    assert trust.check("changed.mrt", "signer.pub.pem").accepted is not None


def test_keys_come_from_files_the_environment_commands_and_functions(folder: Path, monkeypatch: Any) -> None:
    secret = bytes(range(32))
    reader, other = X25519PrivateKey.generate(), X25519PrivateKey.generate()
    recipients = [
        "reader.pub.pem",
        reader.public_key(),
        trust.Recipient(shared=secret, id="kms://models/7"),
        trust.Recipient(public=other.public_key(), id="other"),
    ]
    trust.encrypt("model.mrt", "sealed.mrt", recipients)
    (folder / "raw.key").write_bytes(secret)
    (folder / "hex.key").write_text(secret.hex() + "\n")
    (folder / "base64.key").write_bytes(base64.b64encode(secret))
    monkeypatch.setenv("MODEL_KEY", secret.hex())
    command = f"command:{sys.executable} -c \"import os; print({{'kms://models/7': '{secret.hex()}'}}[os.environ['MAAS_RT_KEY_ID']])\""
    asked: list[str] = []

    def kms(name: str) -> bytes:
        asked.append(name)
        return {"kms://models/7": secret}[name]

    sources = ["reader.pem", folder / "reader.pem", "file:reader.pem", reader, other, secret, "raw.key", "hex.key"]
    sources += ["base64.key", "env:MODEL_KEY", command, kms, [X25519PrivateKey.generate(), bytes(32), "reader.pem"]]
    for source in sources:
        assert works(maas_rt.load("sealed.mrt", key=source, **LOCK)), source
    assert asked == ["", "kms://models/7"]  # once for each id
    monkeypatch.setenv("LETTERS", "a password of thirty-two letters")
    for source, error, says in (
        (X25519PrivateKey.generate(), maas_rt.DecryptionError, "sealed.mrt is refused: .* for an X25519 key and an X25519 key and a shared key 'kms://models/7' and an X25519 key 'other', and no key that was given is one"),
        (bytes(32), maas_rt.DecryptionError, "no key that was given"),
        (lambda name: bytes(32), maas_rt.DecryptionError, "no key that was given"),
        ("none.key", maas_rt.Error, "none.key could not be read"),
        ("env:NO_SUCH", maas_rt.Error, "environment's NO_SUCH, which is not set"),
        ("env:LETTERS", maas_rt.InvalidArgumentError, "environment's LETTERS is no key: expected 32 bytes, as hex"),
        ("signer.pem", maas_rt.InvalidArgumentError, "Ed25519PrivateKey; files are decrypted with X25519"),
        ("signer.pub.pem", maas_rt.InvalidArgumentError, "no private key"),
        (b"short", maas_rt.InvalidArgumentError, "the key is no key: expected 32 bytes"),
        (f"command:{sys.executable} -c 'import sys; sys.exit(\"denied\")'", maas_rt.Error, "ended with 1: denied"),
        ("command:no-such-program-at-all", maas_rt.Error, "failed: .*No such file"),
        ("command:'", maas_rt.Error, "failed: No closing quotation"),
        (kms_down, maas_rt.Error, "the key's function failed: TimeoutError: no route to the KMS"),
        (lambda name: "text", maas_rt.InvalidArgumentError, "returns is a str; expected bytes"),
    ):  # fmt: skip
        with pytest.raises(error, match=says):
            maas_rt.load("sealed.mrt", key=source, **LOCK)
    for source in (7, [], [7]):
        with pytest.raises(maas_rt.InvalidArgumentError, match="key"):
            maas_rt.load("sealed.mrt", key=source)
    with pytest.raises(maas_rt.DecryptionError, match="is encrypted; load it with a key"):
        maas_rt.load("sealed.mrt")
    with pytest.raises(maas_rt.InvalidArgumentError, match="is not encrypted; give no key"):
        maas_rt.load("model.mrt", key="reader.pem")
    with pytest.raises(maas_rt.InvalidArgumentError, match="lock is 1"):
        maas_rt.load("sealed.mrt", key="reader.pem", lock=1)  # type: ignore[arg-type]


def kms_down(name: str) -> bytes:
    raise TimeoutError("no route to the KMS")


def test_a_model_is_sent_to_another_process_without_its_key(folder: Path) -> None:
    trust.encrypt("model.mrt", "sealed.mrt", ["reader.pub.pem"])
    model = maas_rt.load("sealed.mrt", key="reader.pem", **LOCK)
    data = pickle.dumps(model)
    assert b"PRIVATE KEY" not in data
    assert works(pickle.loads(data))
    program = f"import pickle, sys; m = pickle.loads({data!r}); print(m.inputs[0].name)"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd="/", check=False)
    assert run.stdout == "x\n", run.stderr
    key = serialization.load_pem_private_key(Path("reader.pem").read_bytes(), None)
    with pytest.raises(maas_rt.InvalidArgumentError, match="its key would go with it"):
        pickle.dumps(maas_rt.load("sealed.mrt", key=key, **LOCK))


def test_recipients_and_files_that_make_no_sense(folder: Path) -> None:
    for recipients, says in (
        ([], "for 1 to 64 keys, not 0"),
        (["reader.pub.pem"] * 65, "not 65"),
        (["signer.pub.pem"], "is no X25519 public key"),
        (["reader.pem"], "is no X25519 public key"),
    ):
        with pytest.raises(maas_rt.InvalidArgumentError, match=says):
            trust.encrypt("model.mrt", "sealed.mrt", recipients)
        assert not Path("sealed.mrt").exists()
    for options in ({}, {"shared": bytes(31)}, {"shared": bytes(32), "id": "x" * 20000}):
        with pytest.raises(maas_rt.InvalidArgumentError):
            trust.Recipient(**options)  # type: ignore[arg-type]
    trust.encrypt("model.mrt", "sealed.mrt", ["reader.pub.pem"])
    for text in ("0f" * 32, base64.b64encode(bytes(32)).decode(), Path("reader.pem").read_text()):
        with pytest.raises(maas_rt.InvalidArgumentError, match="the key itself as text") as caught:
            maas_rt.load("sealed.mrt", key=text, lock=False)
        assert text not in str(caught.value) and text not in repr(trust.Recipient(shared=bytes(32)))
    trust.decrypt("sealed.mrt", "clear.mrt", "reader.pem")
    assert Path("clear.mrt").stat().st_mode & 0o777 == 0o600
    assert _chains.printable("CN=a\n\x1b[2J") == "CN=a\\0A\\1B[2J"
    with pytest.raises(maas_rt.InvalidArgumentError, match="encrypted already"):
        trust.encrypt("sealed.mrt", "twice.mrt", ["reader.pub.pem"])
    with pytest.raises(maas_rt.InvalidArgumentError, match="model.mrt is not encrypted"):
        trust.decrypt("model.mrt", "plain.mrt", "reader.pem")


def test_decrypting_to_a_file_refuses_what_loading_does(folder: Path, big: bytes) -> None:
    trust.encrypt("model.mrt", "sealed.mrt", ["reader.pub.pem"])
    sealed = Path("sealed.mrt").read_bytes()
    weights = _container.read(sealed).find(SectionKind.WEIGHTS)
    assert weights is not None
    step = _encryption.CHUNK + _encryption.TAG

    def tampered(change: Any) -> bytes:
        data = bytearray(sealed)
        change(data)
        return rehashed(data)

    def flip(data: bytearray) -> None:
        data[weights.offset + step] ^= 1

    def swap(data: bytearray) -> None:
        first, second = (
            slice(weights.offset, weights.offset + step),
            slice(weights.offset + step, weights.offset + 2 * step),
        )
        data[first], data[second] = data[second], data[first]

    for change, says in ((flip, "chunk 2 of the weights section"), (swap, "chunk 1 of the weights section")):
        data = tampered(change)
        Path("bad.mrt").write_bytes(data)
        with pytest.raises(maas_rt.FormatError, match=says):
            trust.decrypt("bad.mrt", "plain.mrt", "reader.pem")
        assert not Path("plain.mrt").exists()
        with pytest.raises(maas_rt.FormatError, match=says):
            maas_rt.load("bad.mrt", key="reader.pem", **LOCK)
    sections = [_container.Section(s.kind, bytes(s.data), s.target, s.flags) for s in _container.read(sealed).sections]
    cut = [*sections]
    cut[2] = _container.Section(SectionKind.WEIGHTS, bytes(sections[2].data)[: 2 * step], "", 2)  # type: ignore[arg-type]
    without_code = [s for s in sections if s.kind != SectionKind.CODE]
    for changed in (cut, without_code):
        data = b"".join(_container.write(changed))
        Path("bad.mrt").write_bytes(data)
        with pytest.raises(maas_rt.FormatError, match="chunk 1 of the manifest section cannot be decrypted"):
            trust.decrypt("bad.mrt", "plain.mrt", "reader.pem")
        with pytest.raises(maas_rt.FormatError, match="chunk 1 of the manifest section cannot be decrypted"):
            maas_rt.load(data, key="reader.pem", **LOCK)


def test_every_bit_of_a_signed_and_encrypted_file_counts(folder: Path) -> None:
    """A sample here; `make flips` flips all of a larger file, which holds code."""
    trust.encrypt("model.mrt", "sealed.mrt", ["reader.pub.pem"])
    trust.sign("sealed.mrt", key="signer.pem")
    data = bytearray(Path("sealed.mrt").read_bytes())
    options: dict[str, Any] = {"key": "reader.pem", "require_signature": "signer.pub.pem", **LOCK}
    assert works(maas_rt.load(data, **options))
    for bit in range(0, 8 * len(data), 1009):
        data[bit // 8] ^= 1 << bit % 8
        with pytest.raises((maas_rt.FormatError, maas_rt.SignatureError)):
            maas_rt.load(data, **options)
        data[bit // 8] ^= 1 << bit % 8


def test_an_encryption_section_that_is_no_such_is_refused() -> None:
    content, reader = bytes(range(32)), X25519PrivateKey.generate()
    section = _encryption.write_header(content, [_encryption.Recipient(public=reader.public_key(), id="me")])
    assert _encryption.unwrap(section, [reader]) == content
    for size in range(len(section)):
        with pytest.raises((maas_rt.FormatError, maas_rt.DecryptionError)):
            _encryption.unwrap(section[:size], [reader])
    refused = 0
    for bit in range(8 * len(section)):
        flipped = bytearray(section)
        flipped[bit // 8] ^= 1 << bit % 8
        try:
            assert _encryption.unwrap(bytes(flipped), [reader]) == content  # of the id alone
        except (maas_rt.FormatError, maas_rt.DecryptionError):
            refused += 1
    # In the id, and the bit of an X25519 key that says nothing (RFC 7748), which the chunks are bound to.
    assert refused >= 8 * (len(section) - len("me")) - 1


def test_a_kept_file_still_opens() -> None:
    """The first layout of signature and encryption: two signers, two readers. Never written again."""
    kept = Path(__file__).parents[1] / "data" / "trust"
    signers = re.findall(rb"-----BEGIN.*?-----END PUBLIC KEY-----", (kept / "signers.pub.pem").read_bytes(), re.DOTALL)
    assert len(signers) == 2
    for signer in signers:
        for key in (X25519PrivateKey.from_private_bytes(bytes(range(32))), bytes(range(32, 64))):
            assert works(maas_rt.load(kept / "1.mrt", require_signature=signer, key=key, lock=False))
    assert trust.check(kept / "1.mrt").recipients == ("an X25519 key 'me'", "a shared key 'shared'")


# ---- beside the library ----


def test_the_other_binding_opens_the_same_files(folder: Path) -> None:
    capi = pytest.importorskip("maas_rt.capi", reason="needs the extra: pip install 'maas-rt[capi]'")
    trust.encrypt("model.mrt", "sealed.mrt", ["reader.pub.pem"])
    trust.sign("sealed.mrt", key="signer.pem")
    for source in ("sealed.mrt", Path("sealed.mrt").read_bytes()):
        model = capi.load(source, key="reader.pem", require_signature="signer.pub.pem", code="signed", lock=False)
        np.testing.assert_allclose(model(X), Y, rtol=1e-5, atol=1e-6)
        with pytest.raises(maas_rt.SignatureError, match="which is not among the keys"):
            capi.load(source, require_signature=public_pem(Ed25519PrivateKey.generate()))
        with pytest.raises(maas_rt.DecryptionError, match="is refused: .* no key that was given is one of them"):
            capi.load(source, key=bytes(32), lock=False)
        with pytest.raises(maas_rt.DecryptionError, match="load it with a key"):
            capi.load(source)


def test_without_the_extra_it_is_one_sentence(folder: Path) -> None:
    program = (
        "import sys; sys.modules['cryptography'] = None\n"
        "import maas_rt, maas_rt._cli\n"
        "print(maas_rt.load('model.mrt').inputs[0].name)\n"
        "for options in ({'key': 'k'}, {'require_signature': 'k'}):\n"
        "    try:\n        maas_rt.load('model.mrt', **options)\n"
        "    except maas_rt.MissingExtraError as error:\n        print(error)\n"
        "print(maas_rt._cli.main(['check', 'model.mrt']))"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    sentence = (
        "signatures and encryption needs cryptography, which is not installed: run `pip install 'maas-rt[trust]'`"
    )
    assert run.stdout.splitlines() == ["x", sentence, sentence, "1"]
    assert sentence in run.stderr


def test_a_repository_with_signed_and_encrypted_models(folder: Path) -> None:
    pytest.importorskip("aiohttp", reason="needs the extra: pip install 'maas-rt[serve]'")
    from maas_rt.service import Repository

    (folder / "models").mkdir()
    trust.sign("model.mrt", "models/plain.mrt", key="signer.pem")
    trust.encrypt("model.mrt", "models/sealed.mrt", ["reader.pub.pem"])
    trust.sign("models/sealed.mrt", key="signer.pem")
    served = Repository("models", require_signature=["signer.pub.pem"], key=["reader.pem"], lock=False)
    assert served.names() == ["plain", "sealed"]
    refused = Repository("models", require_signature=["signer.pub.pem"])
    reasons = {entry.name: entry.reason for entry in refused.index()}
    assert refused.names() == ["plain"] and "sealed.mrt' is encrypted; load it with a key" in reasons["sealed"]
    Path("models/plain.mrt").write_bytes(DATA)
    refused = Repository("models", require_signature=["signer.pub.pem"], key=["reader.pem"], lock=False)
    reasons = {entry.name: entry.reason for entry in refused.index()}
    assert refused.names() == ["sealed"] and "plain.mrt' has no signature" in reasons["plain"]


def test_the_page_shows_what_happens(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every command of docs/trust.md, in order, as a reader types them."""
