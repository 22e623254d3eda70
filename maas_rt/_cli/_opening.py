"""Options of every command that opens a model: whose signature it must have, and the key of an encrypted one."""

from __future__ import annotations

import argparse
from typing import Any

KEY_HELP = "of an encrypted file: an X25519 private key in PEM or a shared key; a file, env:NAME or command:LINE; may be repeated"


def add_required_signature(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--require-signature",
        action="append",
        metavar="PEM",
        help="refuse a file that none of these keys signed: public keys, or certificates that may vouch for signers; a "
        "file or a folder; may be repeated",
    )


def add_opening(parser: argparse.ArgumentParser) -> None:
    add_required_signature(parser)
    parser.add_argument("--key", action="append", metavar="KEY", help=KEY_HELP)
    parser.add_argument(
        "--unlocked",
        action="store_true",
        help="decrypt into memory that may be swapped out, where the system locks no more (see ulimit -l)",
    )


def opening(args: argparse.Namespace) -> dict[str, Any]:
    """The arguments of load that these options are."""
    return {"require_signature": args.require_signature, "key": args.key, "lock": not args.unlocked}
