"""Encrypt a model.mrt for those who may run it: AES-256-GCM, with a key drawn for this file. Needs the extra: pip install "maas-rt[trust]".

  openssl genpkey -algorithm x25519 -out reader.pem && openssl pkey -in reader.pem -pubout -out reader.pub.pem
  maas-rt encrypt model.mrt -o model.enc.mrt --to reader.pub.pem
  maas-rt encrypt model.mrt -o model.enc.mrt --key env:MODEL_KEY      a key that both sides have

Sign the encrypted file: then those who cannot read it can check it, too.
"""

from __future__ import annotations

import argparse

from .._errors import InvalidArgumentError
from ._opening import add_required_signature


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL.mrt")
    parser.add_argument("-o", "--output", required=True, metavar="FILE", help="the encrypted file")
    parser.add_argument(
        "--to",
        action="append",
        default=[],
        metavar="PEM",
        help="X25519 public key of one who may read it; may be repeated",
    )
    parser.add_argument("--key", metavar="KEY", help="a shared key of 32 bytes: a file, env:NAME or command:LINE")
    add_required_signature(parser)
    parser.add_argument(
        "--key-id", default="", metavar="TEXT", help="stored in clear beside it, for the provider of the shared key"
    )


def execute(args: argparse.Namespace) -> int:
    from .. import trust

    recipients = [*args.to, *([trust.shared_recipient(args.key, args.key_id)] if args.key else [])]
    if not recipients:
        raise InvalidArgumentError("nobody could read the file: give --to PUBLIC.pem, or --key for a shared key")
    if args.key_id and not args.key:
        raise InvalidArgumentError("--key-id names the shared key: give --key, too")
    was_signed = trust.encrypt(args.model, args.output, recipients, require_signature=args.require_signature)
    print(f"wrote {args.output}")
    if was_signed:
        held = "held" if args.require_signature else "was not checked (--require-signature)"
        print(f"its signature was one of the plain file, {held}, and is left out: maas-rt sign {args.output}")
    return 0
