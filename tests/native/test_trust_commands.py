"""`maas-rt sign | check | encrypt | decrypt`: what they print and return, what docs/trust.md shows, and the OpenSSF tools beside them."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("cryptography", reason="needs the extra: pip install 'maas-rt[trust]'")

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

import maas_rt
from maas_rt import _container, trust
from maas_rt._cli import main
from maas_rt._container import SectionKind
from tests import _tiny
from tests.native.test_trust import DAY, KINDS, NOW, certificate, private_pem, public_pem

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "trust.md").read_text(encoding="utf-8")
Output = pytest.CaptureFixture[str]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "model.mrt").write_bytes(_tiny.mlp())
    np.savez(tmp_path / "in.npz", x=np.ones((1, 16), np.float32))
    makers = {"signer": Ed25519PrivateKey.generate, "reader": X25519PrivateKey.generate, "ec": KINDS["ECDSA P-256"]}
    for name, make in makers.items():
        key = make()
        (tmp_path / f"{name}.pem").write_bytes(private_pem(key))
        (tmp_path / f"{name}.pub.pem").write_bytes(public_pem(key))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def said(output: Output, *arguments: str, status: int = 0) -> str:
    """What a command prints."""
    code = main(list(arguments))
    captured = output.readouterr()
    assert code == status, captured
    return captured.err if status and not captured.out else captured.out


def shown(kind: str) -> list[str]:
    return re.findall(rf"```{kind}\n(.*?)```", PAGE, re.DOTALL)


def test_the_way_there_and_back(folder: Path, capsys: Output) -> None:
    text = said(capsys, "sign", "model.mrt", "--key", "signer.pem", "-o", "signed.mrt")
    assert re.fullmatch(r"signed model.mrt as Ed25519 key SHA256:\S{43}\nwrote signed.mrt\n", text)
    text = said(capsys, "check", "signed.mrt", "--keys", "signer.pub.pem")
    assert text.startswith("signed.mrt: not encrypted\nclaims    to be signed by Ed25519 key SHA256:")
    assert "\ntrusted   Ed25519 key SHA256:" in text and text.count(", holds\n") == 4 and "weights: " in text
    assert "untrusted no key was given" in said(capsys, "check", "signed.mrt")
    assert "untrusted it is not signed" in said(capsys, "check", "model.mrt")
    assert "untrusted it is not signed" in said(capsys, "check", "model.mrt", "--keys", "signer.pub.pem", status=1)
    assert "which is not among the keys" in said(capsys, "check", "signed.mrt", "--keys", "ec.pub.pem", status=1)
    assert said(capsys, "encrypt", "signed.mrt", "-o", "sealed.mrt", "--to", "reader.pub.pem") == (
        "wrote sealed.mrt\nits signature was one of the plain file, was not checked (--require-signature), and is left out: "
        "maas-rt sign sealed.mrt\n"
    )
    said(capsys, "sign", "sealed.mrt", "--key", "ec.pem")
    text = said(capsys, "check", "sealed.mrt", "--keys", "ec.pub.pem", "--keys", "signer.pub.pem")
    assert text.startswith("sealed.mrt: encrypted for an X25519 key\nclaims    to be signed by ECDSA P-256 key")
    facts = json.loads(said(capsys, "check", "sealed.mrt", "--keys", "ec.pub.pem", "--json"))
    assert facts["good"] and [s["encrypted"] for s in facts["sections"]] == [True, True, True, False, False]
    opening = ("--require-signature", "ec.pub.pem", "--key", "reader.pem")
    for command in (
        ("run", "--input", "in.npz"),
        ("inspect",),
        ("profile", "--runs", "1"),
        ("bench", "--seconds", "0.01"),
    ):
        said(capsys, command[0], "sealed.mrt", *command[1:], *opening)
        assert "is encrypted; load it with a key" in said(capsys, command[0], "sealed.mrt", *command[1:], status=1)
        wrong = (*command[1:], "--key", "reader.pem", "--require-signature", "signer.pub.pem")
        assert "which is not among the keys" in said(capsys, command[0], "sealed.mrt", *wrong, status=1)
    assert "gemm_f32" in said(capsys, "inspect", "sealed.mrt", *opening)
    text = said(capsys, "decrypt", "sealed.mrt", "-o", "plain.mrt", "--key", "reader.pem")
    assert text == (
        "wrote plain.mrt\nits signature was one of the encrypted file, was not checked (--require-signature), and is left out: "
        "maas-rt sign plain.mrt\n"
    )
    how = ("-o", "plain.mrt", "--key", "reader.pem", "--require-signature")
    assert "of the encrypted file, held, and is left out" in said(capsys, "decrypt", "sealed.mrt", *how, "ec.pub.pem")
    assert Path("plain.mrt").read_bytes() == Path("model.mrt").read_bytes()
    changed = bytearray(Path("sealed.mrt").read_bytes())
    weights = _container.read(bytes(changed)).find(SectionKind.WEIGHTS)
    assert weights is not None
    changed[weights.offset] ^= 1
    Path("sealed.mrt").write_bytes(changed)
    text = said(capsys, "check", "sealed.mrt", "--keys", "ec.pub.pem", status=1)
    assert "weights: " in text and "DOES NOT HAVE ITS HASH" in text and "changed   1 of 5 sections" in text
    text = said(capsys, "decrypt", "sealed.mrt", "-o", "bad.mrt", "--key", "reader.pem", status=1)
    assert text.startswith("maas-rt decrypt: error: ") and text.count("\n") == 1 and not Path("bad.mrt").exists()
    Path("sealed.mrt").write_bytes(changed[:-1])
    assert "truncated or damaged" in said(capsys, "check", "sealed.mrt", status=1)


def test_shared_keys_and_mistakes(folder: Path, capsys: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODEL_KEY", "00" * 31 + "07")
    said(capsys, "encrypt", "model.mrt", "-o", "sealed.mrt", "--key", "env:MODEL_KEY", "--key-id", "team")
    assert "encrypted for a shared key 'team'" in said(capsys, "check", "sealed.mrt")
    said(capsys, "run", "sealed.mrt", "--input", "in.npz", "--key", "env:MODEL_KEY")
    monkeypatch.setenv("MODEL_KEY", "00" * 32)
    text = said(capsys, "run", "sealed.mrt", "--input", "in.npz", "--key", "env:MODEL_KEY", status=1)
    assert text == (
        "maas-rt run: error: sealed.mrt is refused: the file is encrypted for a shared key 'team', and no key that was given is one of them\n"
    )
    for arguments, says in (
        (("encrypt", "model.mrt", "-o", "x.mrt"), "nobody could read the file"),
        (("encrypt", "model.mrt", "-o", "x.mrt", "--to", "reader.pub.pem", "--key-id", "team"), "--key-id names"),
        (("encrypt", "model.mrt", "-o", "x.mrt", "--key", "reader.pem"), "no shared key: give its public one"),
        (("encrypt", "sealed.mrt", "-o", "x.mrt", "--to", "reader.pub.pem"), "encrypted already"),
        (("decrypt", "model.mrt", "-o", "x.mrt", "--key", "reader.pem"), "is not encrypted"),
        (("sign", "model.mrt", "--key", "signer.pem", "-o", "x.mrt", "--bundle", "x.sig"), "both given"),
        (("sign", "model.mrt", "--key", "signer.pem", "--bundle", "x.sig"), "take ECDSA keys, and this one is Ed25519"),
        (("sign", "in.npz", "--key", "signer.pem"), "in.npz is not a model.mrt"),
        (("sign", "none.mrt", "--key", "signer.pem"), "none.mrt could not be read"),
        (("sign", "model.mrt", "--key", "none.pem"), "none.pem could not be read"),
        (("check", "model.mrt", "--bundle", "x.sig"), "--bundle is checked with --keys"),
        (("check", "model.mrt", "--bundle", "none.sig", "--keys", "ec.pub.pem"), "none.sig could not be read"),
        (("check", "in.npz",), "in.npz is not a model.mrt"),
    ):  # fmt: skip
        text = said(capsys, *arguments, status=1)
        assert says in text and text.count("\n") == 1, text
        assert not Path("x.mrt").exists() and not Path("x.sig").exists()


# ---- the page ----


@pytest.mark.skipif(shutil.which("openssl") is None, reason="there is no openssl on the path to make keys with")
def test_the_commands_of_the_page(folder: Path, capsys: Output) -> None:
    lines = [line for block in shown("sh") for line in block.splitlines()]
    assert len(lines) == 16
    for line in lines:
        if line.startswith("maas-rt "):
            said(capsys, *shlex.split(line)[1:])
        else:
            subprocess.run(shlex.split(line), check=True, capture_output=True)
    assert Path("plain.mrt").read_bytes() == _tiny.mlp()


def test_the_blocks_of_the_page(folder: Path) -> None:
    class Kms:
        def generate_data_key(self, name: str) -> tuple[bytes, str]:
            return bytes(range(32)), f"{name}:wrapped"

        def decrypt(self, wrapped: str) -> bytes:
            assert wrapped == "models:wrapped"
            return bytes(range(32))

    trust.sign("model.mrt", key="signer.pem")
    names: dict[str, Any] = {"maas_rt": maas_rt, "trust": trust, "kms": Kms()}
    for block in shown("python"):
        exec(block, names)
    assert names["model"].inputs[0].name == "x" and names["wrapped"] == "models:wrapped"


@pytest.mark.skipif(
    shutil.which("cc") is None or not Path("/usr/include/openssl/evp.h").exists(),
    reason="there is no C compiler, or OpenSSL's header is not in /usr/include",
)
def test_a_c_program_decrypts_with_openssl(folder: Path) -> None:
    (block,) = shown("c")
    key = bytes(range(32))
    program = f"""
#include <maas_rt.h>
#include <openssl/evp.h>
#include <openssl/kdf.h>
#include <stdio.h>
#include <string.h>
{block}
/* One shared key, as FORMAT.md lays it out. */
static int32_t unwrap_key(void* user, const void* section, size_t bytes) {{
  const unsigned char* at = section;
  unsigned char shared[32], wrapping[32], nonce[12] = {{0}};
  size_t size = 32;
  for (int i = 0; i < 32; ++i) shared[i] = (unsigned char)i;
  if (bytes < 128 || at[40] != 2) return 0;
  EVP_PKEY_CTX* c = EVP_PKEY_CTX_new_id(EVP_PKEY_HKDF, NULL);
  const int derived = EVP_PKEY_derive_init(c) == 1 && EVP_PKEY_CTX_set_hkdf_md(c, EVP_sha256()) == 1 &&
                      EVP_PKEY_CTX_set1_hkdf_salt(c, at + 48, 32) == 1 && EVP_PKEY_CTX_set1_hkdf_key(c, shared, 32) == 1 &&
                      EVP_PKEY_CTX_add1_hkdf_info(c, (const unsigned char*)"maas_rt 1 shared key", 20) == 1 &&
                      EVP_PKEY_derive(c, wrapping, &size) == 1;
  EVP_PKEY_CTX_free(c);
  return derived && open_chunk(wrapping, nonce, "", 0, at + 80, 48, user);
}}
int main(void) {{
  unsigned char content[32];
  mrt_load_options options = {{sizeof options}};
  mrt_program* program = NULL;
  options.unwrap_key = unwrap_key;
  options.open_chunk = open_chunk;
  options.key_user = content;
  options.unlocked = 1;
  if (mrt_program_load("sealed.mrt", &options, &program) != MRT_OK) return printf("%s\\n", mrt_last_error()), 1;
  printf("%s\\n", mrt_program_manifest(program));
  mrt_program_free(program);
  return 0;
}}
"""
    trust.encrypt("model.mrt", "sealed.mrt", [trust.Recipient(shared=key)])
    Path("program.c").write_text(program)
    package = ROOT / "maas_rt"
    flags = [
        "-std=c11",
        "-Wall",
        "-Wno-missing-field-initializers",
        "-I",
        str(ROOT / "csrc/include"),
        "-L",
        str(package),
    ]
    command = ["cc", *flags, "program.c", "-o", "program", "-lmaas_rt", "-lcrypto", f"-Wl,-rpath,{package}"]
    subprocess.run(command, check=True)
    run = subprocess.run(["./program"], capture_output=True, text=True, check=False)
    assert run.returncode == 0 and json.loads(run.stdout)["name"] == "mlp", run


# ---- the OpenSSF model-signing tools ----


@pytest.fixture
def theirs() -> Any:
    return pytest.importorskip("model_signing", reason="needs the extra dev: pip install model-signing pyopenssl")


def accepts(model: Path | str, bundle: Path | str, keys: Any) -> bool:
    """Whether our check takes a detached signature of a file or a folder."""
    from maas_rt.trust._bundle import check_bundle
    from maas_rt.trust._keys import read_trusted

    try:
        check_bundle(model, bundle, read_trusted(keys))
    except maas_rt.SignatureError:
        return False
    return True


def test_the_openssf_tools_take_our_signatures(folder: Path, theirs: Any, capsys: Output) -> None:
    from click.testing import CliRunner
    from model_signing._cli import main as command

    for curve in (ec.SECP256R1, ec.SECP384R1, ec.SECP521R1):
        key = ec.generate_private_key(curve())
        Path("ec.pem").write_bytes(private_pem(key))
        Path("ec.pub.pem").write_bytes(public_pem(key))
        said(capsys, "sign", "model.mrt", "--key", "ec.pem", "--bundle", "model.sig")
        verify = ["verify", "key", "model.mrt", "--signature", "model.sig", "--public_key", "ec.pub.pem"]
        done = CliRunner().invoke(command, verify)
        assert done.exit_code == 0 and "succeeded" in done.output.lower(), done.output
        theirs.verifying.Config().use_elliptic_key_verifier(public_key=Path("ec.pub.pem")).verify(
            "model.mrt", "model.sig"
        )
        said(capsys, "check", "model.mrt", "--keys", "ec.pub.pem", "--bundle", "model.sig")
    good = Path("model.mrt").read_bytes()
    Path("model.mrt").write_bytes(good[:-1] + b"?")
    verifier = theirs.verifying.Config().use_elliptic_key_verifier(public_key=Path("ec.pub.pem"))
    with pytest.raises(ValueError):
        verifier.verify("model.mrt", "model.sig")
    assert "is not the file that was signed" in said(
        capsys, "check", "model.mrt", "--keys", "ec.pub.pem", "--bundle", "model.sig", status=1
    )
    # A folder, with the signature in it, and files that do not count.
    make_folder(folder / "whole", good)
    trust.write_bundle("whole", "whole/model.sig", key="ec.pem")
    theirs.verifying.Config().use_elliptic_key_verifier(public_key=Path("ec.pub.pem")).verify(Path("whole"), Path("whole/model.sig"))  # fmt: skip
    assert accepts("whole", "whole/model.sig", "ec.pub.pem")


def make_folder(path: Path, model: bytes) -> None:
    (path / "more").mkdir(parents=True)
    (path / "model.mrt").write_bytes(model)
    (path / "README.md").write_text("# A model")
    (path / "more" / "labels.txt").write_text("a\nb\n")
    (path / "more-than-that").write_text("sorted by parts, not by letters")
    (path / ".gitignore").write_text("*.sig")


def test_we_take_the_signatures_of_the_openssf_tools(folder: Path, theirs: Any) -> None:
    hashing = theirs.hashing.Config
    make_folder(folder / "whole", Path("model.mrt").read_bytes())
    for model in ("model.mrt", "whole"):
        for config in (
            hashing(),
            hashing().use_file_serialization(hashing_algorithm="blake2"),
            hashing().use_shard_serialization(shard_size=1000),
            hashing().use_shard_serialization(hashing_algorithm="blake2", shard_size=100_000),
        ):
            if model == "whole":
                config.set_ignored_paths(paths=["README.md"])
            signing = (
                theirs.signing.Config().use_elliptic_key_signer(private_key=Path("ec.pem")).set_hashing_config(config)
            )
            signing.sign(Path(model), Path("their.sig"))
            assert accepts(model, "their.sig", "ec.pub.pem"), (model, config)
            assert not accepts(model, "their.sig", "signer.pub.pem")
    # What a folder's signature says of its files.
    for change in (
        lambda: Path("whole/more/labels.txt").write_text("b\na\n"),
        lambda: Path("whole/more/labels.txt").unlink(),
        lambda: Path("whole/more/extra").write_text("not signed"),
        lambda: Path("whole/model.mrt").write_bytes(Path("whole/model.mrt").read_bytes() + b"\0"),
    ):
        shutil.rmtree("whole")
        make_folder(folder / "whole", Path("model.mrt").read_bytes())
        assert accepts("whole", "their.sig", "ec.pub.pem")
        Path("whole/README.md").write_text("ignored")
        assert accepts("whole", "their.sig", "ec.pub.pem")
        change()
        assert not accepts("whole", "their.sig", "ec.pub.pem")


def test_certificates_both_ways(folder: Path, theirs: Any) -> None:
    root_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    root = certificate("Root", root_key, "Root", root_key, authority=True, certifies=True, begin=NOW - 2 * DAY)
    leaf = certificate("Models", key, "Root", root_key, signs=True)
    for name, each in (("root", root), ("leaf", leaf)):
        Path(f"{name}.crt").write_bytes(each.public_bytes(serialization.Encoding.PEM))
    Path("key.pem").write_bytes(private_pem(key))
    trust.write_bundle("model.mrt", "our.sig", key="key.pem", certificates="leaf.crt")
    verifier = theirs.verifying.Config().use_certificate_verifier(certificate_chain=[Path("root.crt")])
    verifier.verify(Path("model.mrt"), Path("our.sig"))
    signer = theirs.signing.Config().use_certificate_signer(
        private_key=Path("key.pem"), signing_certificate=Path("leaf.crt"), certificate_chain=[Path("root.crt")]
    )
    signer.sign(Path("model.mrt"), Path("their.sig"))
    for bundle in ("our.sig", "their.sig"):
        assert accepts("model.mrt", bundle, "root.crt") and accepts("model.mrt", bundle, "leaf.crt")
        assert not accepts("model.mrt", bundle, "ec.pub.pem")


def test_a_detached_signature_that_was_changed_is_refused(folder: Path) -> None:
    trust.write_bundle("model.mrt", "model.sig", key="ec.pem")
    assert accepts("model.mrt", "model.sig", "ec.pub.pem")
    text = Path("model.sig").read_bytes()
    for at in range(0, len(text), 13):  # each character, as another one of base64 or JSON
        Path("bad.sig").write_bytes(text[:at] + bytes([text[at] ^ 1]) + text[at + 1 :])
        if not accepts("model.mrt", "bad.sig", "ec.pub.pem"):
            continue
        # What remains good is what was signed: a key that nobody reads, or the last bits of base64 that say nothing.
        changed, first = json.loads(Path("bad.sig").read_bytes()), json.loads(text)
        assert changed["dsseEnvelope"]["payload"] == first["dsseEnvelope"]["payload"]
    for content in (
        b"",
        b"[]",
        b"{}",
        b"\xff",
        b'{"mediaType": 1}',
        text[:-2],
        json.dumps({**json.loads(text), "dsseEnvelope": {}}).encode(),
    ):
        Path("bad.sig").write_bytes(content)
        assert not accepts("model.mrt", "bad.sig", "ec.pub.pem")
