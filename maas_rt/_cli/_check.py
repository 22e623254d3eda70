"""Say who signed a model.mrt, and whether each section is as it was. Needs the extra: pip install "maas-rt[trust]".

  maas-rt check model.mrt --keys signer.pub.pem
  maas-rt check model.mrt --keys root.crt
  maas-rt check model.mrt --keys signer.pub.pem --bundle model.sig    a signature of the OpenSSF tools

An encrypted file is checked without the key that decrypts it. The exit status is 0 if every section holds and, with
--keys, if a signature by one of these keys does.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from typing import TYPE_CHECKING

from ._arrays import pluralised, sized

if TYPE_CHECKING:
    from ..trust import Report


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL.mrt")
    parser.add_argument(
        "--keys",
        action="append",
        metavar="PEM",
        help="public keys, or certificates that may vouch for signers: a file or a folder; may be repeated",
    )
    parser.add_argument("--bundle", metavar="FILE", help="a detached signature, as the OpenSSF tools write them")
    parser.add_argument("--json", action="store_true", help="print everything as one JSON object")


def execute(args: argparse.Namespace) -> int:
    from .. import trust
    from .._errors import InvalidArgumentError

    if args.bundle and not args.keys:
        raise InvalidArgumentError("--bundle is checked with --keys: give the signer's public key or certificate")
    report = trust.check(args.model, args.keys, bundle=args.bundle)
    good = report.holds and (args.keys is None or report.accepted is not None)
    if args.json:
        print(json.dumps({**dataclasses.asdict(report), "good": good}, indent=2))
    else:
        print(_text(args.model, report))
    return 0 if good else 1


def _text(model: str, report: Report) -> str:
    lines = [f"{model}: {'encrypted for ' + ' and '.join(report.recipients) if report.recipients else 'not encrypted'}"]
    lines += [f"{'claims':<9} to be signed by {signer}" for signer in report.signers]
    if report.accepted is not None:
        lines.append(f"{'trusted':<9} {report.accepted}")
    else:
        lines.append(f"{'untrusted':<9} {report.refused}")
    for section in report.sections:
        target = section.target if section.target.isprintable() else ascii(section.target)
        what = f"{section.name} {target}".rstrip()
        lines.append(
            f"{'section':<9} {what}: {sized(section.bytes)}, {'holds' if section.holds else 'DOES NOT HAVE ITS HASH'}"
        )
    bad = sum(not section.holds for section in report.sections)
    if bad:
        lines.append(f"{'changed':<9} {bad} of {pluralised(len(report.sections), 'section')}: do not use the file")
    return "\n".join(lines)
