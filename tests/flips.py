"""python -m tests.flips [PROCESSES]: every single-bit flip of a signed and encrypted file of about 200 kB, which holds code that says when it is mapped.

Each must be refused, with one sentence, before the code is mapped. Half an hour of one CPU or more; `make flips` runs it.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

import maas_rt
from maas_rt import _container, _kernels, trust
from maas_rt._container import Section, SectionKind
from maas_rt._plan import StepKind
from tests._tiny import Builder

_MARK = b"MAAS_RT_FLIPS_CODE_WAS_MAPPED"
_CODE = r"""
#include <stdlib.h>
__attribute__((constructor)) static void mapped(void) { setenv("%s", "1", 1); }
struct tensor { float* data; };
__attribute__((visibility("default"))) int __tvm_ffi_same(void* self, const void* args, int n, void* result) { return 0; }
"""


def signed_and_encrypted(folder: Path, signer: Ed25519PrivateKey, reader: X25519PrivateKey) -> bytes:
    """The file: 32 thousand weights, and generated code that is mapped when the file is loaded."""
    b = Builder("flips")
    values = np.random.default_rng(0).standard_normal(32768).astype(np.float32)
    x = b.input("x", [4])
    joined = b.value("joined", [4 + values.size])
    y = b.value("y", [4 + values.size])
    b.kernel("concat", [x, b.constant("c", values)], [joined], axis=0)
    b.step(StepKind.CODE, [joined], [y], "same")
    source = folder / "code.c"
    source.write_text(_CODE % _MARK.decode())
    subprocess.run(["cc", "-shared", "-fPIC", "-o", folder / "code.so", source], check=True)
    level = _kernels.describe()["level"]
    code = Section(SectionKind.CODE, (folder / "code.so").read_bytes(), level)
    _container.save(folder / "plain.mrt", [*b.sections(y), code])
    trust.encrypt(folder / "plain.mrt", folder / "flips.mrt", [reader.public_key()])
    trust.sign(folder / "flips.mrt", key=signer)
    return (folder / "flips.mrt").read_bytes()


def flip(data: bytes, reader: bytes, signer: bytes, start: int, step: int) -> tuple[int, dict[str, int], list[str]]:
    """Flips each `step`th bit from `start` on: their number, how many refusals of each kind, and what went wrong."""
    libc = ctypes.CDLL(None)
    libc.getenv.restype = ctypes.c_char_p
    key = X25519PrivateKey.from_private_bytes(reader)
    changed, refusals, wrong = bytearray(data), dict[str, int](), list[str]()
    count = 0
    for bit in range(start, 8 * len(data), step):
        changed[bit // 8] ^= 1 << bit % 8
        count += 1
        try:
            maas_rt.load(changed, key=key, require_signature=signer, lock=False)
            wrong.append(f"bit {bit} is accepted")
        except (maas_rt.FormatError, maas_rt.SignatureError) as error:
            kind = f"{type(error).__name__} {error.status}"
            refusals[kind] = refusals.get(kind, 0) + 1
            if "\n" in str(error):
                wrong.append(f"bit {bit}: {error}")
        if libc.getenv(_MARK) is not None:
            wrong.append(f"bit {bit}: the code was mapped")
            break
        changed[bit // 8] ^= 1 << bit % 8
    return count, refusals, wrong


def main(processes: int, stride: int = 1) -> int:
    if shutil.which("cc") is None:
        raise SystemExit("tests.flips needs a C compiler on the path")
    signer, reader = Ed25519PrivateKey.generate(), X25519PrivateKey.generate()
    public = signer.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    with tempfile.TemporaryDirectory() as folder:
        data = signed_and_encrypted(Path(folder), signer, reader)
    start = time.monotonic()
    context = multiprocessing.get_context("spawn")
    with context.Pool(processes) as pool:
        step = processes * stride
        work = [(data, reader.private_bytes_raw(), public, first * stride, step) for first in range(processes)]
        parts = pool.starmap(flip, work)
    count, wrong = sum(part[0] for part in parts), [each for part in parts for each in part[2]]
    refusals = {kind: sum(part[1].get(kind, 0) for part in parts) for kind in sorted({k for p in parts for k in p[1]})}
    # The file as it is loads, and its code is mapped: the mark means something.
    maas_rt.load(data, key=reader, require_signature=public, lock=False)
    libc = ctypes.CDLL(None)
    libc.getenv.restype = ctypes.c_char_p
    assert libc.getenv(_MARK) == b"1"
    print(f"{count} flips of {len(data)} bytes in {time.monotonic() - start:.0f} s: {refusals}")
    print("\n".join(wrong[:20]) if wrong else "each was refused before code was mapped")
    return 1 if wrong or (stride == 1 and count != 8 * len(data)) else 0


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:3])) if len(sys.argv) > 1 else main(min(2, os.cpu_count() or 1)))
