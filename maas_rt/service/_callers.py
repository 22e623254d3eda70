"""What every transport says of a caller in the same way: which network it is in, and what its request is called in logs."""

from __future__ import annotations

import random
import re
from ipaddress import IPv6Address, ip_address, ip_network

_GOOD_ID = re.compile(r"[A-Za-z0-9._:+/=-]{1,128}")


def request_id(given: str | None) -> str:
    """What a client calls its request, where that is fit for logs; else 64 random bits, which are no secret."""
    return given if given is not None and _GOOD_ID.fullmatch(given) else f"{random.getrandbits(64):016x}"


def network_of(remote: str | None) -> str:
    """Of an address, what one client has of them: in IPv6 those with the same first 64 bits. That of a Unix socket is empty."""
    try:
        address = ip_address((remote or "").partition("%")[0])
    except ValueError:
        return ""
    if address.version == 6 and address.ipv4_mapped is None:
        return str(ip_network((int(address) >> 64 << 64, 64)))
    return str(address)


def is_local(network: str) -> bool:
    """Whether one that `network_of` has given is this machine's alone: a loopback address's, or that of a Unix socket."""
    if not network:
        return True
    # Of IPv6's first 2**64 addresses ::1 is the one that anybody has (RFC 4291, sections 2.5.3 and 2.5.5).
    address = ip_network(network).network_address
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return network == "::/64" or (mapped or address).is_loopback
