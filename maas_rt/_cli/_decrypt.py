"""Write an encrypted model.mrt in clear. Running one does not need this: load, run and serve take the key. Needs the extra: pip install "maas-rt[trust]".

maas-rt decrypt model.enc.mrt -o model.mrt --key reader.pem
"""

from __future__ import annotations

import argparse

from ._opening import KEY_HELP, add_required_signature


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL.mrt")
    parser.add_argument("-o", "--output", required=True, metavar="FILE", help="the plain file")
    parser.add_argument("--key", required=True, action="append", metavar="KEY", help=KEY_HELP)
    add_required_signature(parser)


def execute(args: argparse.Namespace) -> int:
    from .. import trust

    was_signed = trust.decrypt(args.model, args.output, args.key, require_signature=args.require_signature)
    print(f"wrote {args.output}")
    if was_signed:
        held = "held" if args.require_signature else "was not checked (--require-signature)"
        print(f"its signature was one of the encrypted file, {held}, and is left out: maas-rt sign {args.output}")
    return 0
