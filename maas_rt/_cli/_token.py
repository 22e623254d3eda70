"""Make, list and revoke the API keys of a server.

  maas-rt token new shop --keys keys.json --allow infer:team-* --allow read --expires 90d
  maas-rt token list --keys keys.json
  maas-rt token revoke shop --keys keys.json
  maas-rt serve models/ --keys keys.json

The token is printed once: the file holds its hash. A server takes note of a change of the file within a second.
"""

from __future__ import annotations

import argparse
import re
import sys
import time
from pathlib import Path

from .._errors import InvalidArgumentError

_DAY = 86400


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    new = actions.add_parser("new", help="make a key and print its token, once")
    new.add_argument("name", metavar="NAME", help="whose it is, for the list and the log")
    new.add_argument(
        "--allow",
        action="append",
        required=True,
        metavar="VERB[:MODELS]",
        help="infer, read, admin, metrics or shared-memory; on all models, or those that a pattern with * names, as infer:team-*; may be repeated",
    )
    new.add_argument(
        "--expires", metavar="WHEN", help="in so many days, as 90d, or at a time in UTC, as 2027-01-31; default: never"
    )
    new.add_argument(
        "--rate", type=float, default=0.0, metavar="N", help="requests a second in the long run (default: the server's)"
    )
    new.add_argument(
        "--burst", type=int, default=0, metavar="N", help="requests that may come together (default: those of a second)"
    )
    new.add_argument("--in-flight", type=int, default=0, metavar="N", help="requests at once (default: the server's)")
    listing = actions.add_parser("list", help="show the keys, without their tokens")
    revoke = actions.add_parser("revoke", help="end a key")
    revoke.add_argument("key", metavar="ID|NAME", help="of the key")
    for each in (new, listing, revoke):
        each.add_argument("--keys", type=Path, required=True, metavar="KEYS.json", help="the file of the keys")


def execute(args: argparse.Namespace) -> int:
    return {"new": _new, "list": _list, "revoke": _revoke}[args.action](args)


def _new(args: argparse.Namespace) -> int:
    from ..service._grants import read_grants
    from ..service._keys import new_key, show_time
    from ..service._limiter import Limits

    now = time.time_ns()
    expires = None if args.expires is None else _expiry(args.expires, now)
    limits = Limits(args.rate, args.burst, args.in_flight) if args.rate or args.burst or args.in_flight else None
    token = new_key(args.keys, args.name, read_grants(args.allow), now, expires, limits)
    until = "for ever" if expires is None else f"until {show_time(expires)}"
    print(f"{args.name} may {', '.join(args.allow)} {until}; this token is not shown again:", file=sys.stderr)
    print(token)
    return 0


def _list(args: argparse.Namespace) -> int:
    from ..service._keys import read_keys, show_time

    now = time.time_ns()
    rows = [("id", "name", "state", "expires", "allow")]
    for key in read_keys(args.keys).values():
        expires = "never" if key.expires is None else show_time(key.expires)
        rows.append((key.id, key.name, key.state(now), expires, ", ".join(map(str, key.grants))))
    widths = [max(map(len, column)) for column in zip(*rows)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip())
    return 0


def _revoke(args: argparse.Namespace) -> int:
    from ..service._keys import revoke_key

    key = revoke_key(args.keys, args.key, time.time_ns())
    print(f"revoked {key.id} ({key.name})", file=sys.stderr)
    return 0


def _expiry(text: str, now: int) -> int:
    """Seconds since 1970, in the future."""
    from ..service._keys import parse_time

    seconds = now // 10**9
    days = re.fullmatch(r"([0-9]{1,5})d", text)
    expires = seconds + int(days[1]) * _DAY if days else parse_time(text)
    if expires <= seconds:
        raise InvalidArgumentError(f"--expires {text} is not in the future")
    return expires
