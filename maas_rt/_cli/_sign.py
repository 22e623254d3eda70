"""Sign a model.mrt: its table, which holds the hash of every section. Needs the extra: pip install "maas-rt[trust]".

  openssl genpkey -algorithm ed25519 -out signer.pem && openssl pkey -in signer.pem -pubout -out signer.pub.pem
  maas-rt sign model.mrt --key signer.pem
  maas-rt check model.mrt --keys signer.pub.pem

With --bundle the model stays as it is, and the signature is a file that the OpenSSF tools (model_signing verify) read.
A key's password is taken from MAAS_RT_KEY_PASSWORD.
"""

from __future__ import annotations

import argparse

from .._errors import InvalidArgumentError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL.mrt")
    parser.add_argument(
        "--key", required=True, metavar="PEM", help="private key: Ed25519, or ECDSA P-256, P-384, P-521"
    )
    parser.add_argument(
        "--certificates",
        action="append",
        metavar="PEM",
        help="the key's certificate, then those of its issuers; may be repeated",
    )
    parser.add_argument("-o", "--output", metavar="FILE", help="the signed file (default: the model itself)")
    parser.add_argument("--bundle", metavar="FILE", help="write a detached signature instead (ECDSA keys)")


def execute(args: argparse.Namespace) -> int:
    from .. import trust

    if args.bundle and args.output:
        raise InvalidArgumentError(
            "--output and --bundle are both given: a detached signature leaves the model as it is"
        )
    if args.bundle:
        signer = trust.write_bundle(args.model, args.bundle, key=args.key, certificates=args.certificates)
    else:
        signer = trust.sign(args.model, args.output, key=args.key, certificates=args.certificates)
    print(f"signed {args.model} as {signer}")
    print(f"wrote {args.bundle or args.output or args.model}")
    return 0
