"""Where the service listens, and that it does so safely: on this machine alone, unless tokens and TLS guard what is beyond."""

from __future__ import annotations

import errno
import os
import socket
import stat
from collections.abc import Iterable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address
from pathlib import Path

from .._errors import InvalidArgumentError

LOOPBACK = ("127.0.0.1", "::1")
_BACKLOG = 1024
_TRIES = 20  # for a free port that both of IPv4 and IPv6 have


@dataclass(frozen=True)
class Listen:
    """Where to listen.

    Args:
        hosts: addresses, or names of this machine's; empty: 127.0.0.1, and ::1 where there is IPv6.
        port: 0: a free one, the same for all hosts.
        unix: a path for a Unix socket besides; with no hosts, instead.
        insecure: other machines may be answered without tokens and TLS.
    """

    hosts: tuple[str, ...] = ()
    port: int = 8000
    unix: Path | None = None
    insecure: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise InvalidArgumentError(f"port is {self.port} and must be 0 to 65535; 0 picks a free one")


def open_sockets(
    listen: Listen, has_tokens: bool, has_tls: bool, option: str = "--port", reserved: bool = False
) -> list[socket.socket]:
    """Sockets that listen, or none of them. `option`: what the port was given by, for errors; `reserved`: they do not listen, and others of this user
    may at the same addresses (SO_REUSEPORT).

    Raises:
        InvalidArgumentError: an address that is not this machine's, that is taken, or that needs more than it has to be safe.
    """
    found = {host: _addresses(host, listen.port) for host in listen.hosts}
    if not found and listen.unix is None:
        found = {"this machine": [each for host in LOOPBACK for each in _addresses(host, listen.port)]}
    _check_exposure([each for addresses in found.values() for each in addresses], listen, has_tokens, has_tls)
    with ExitStack() as undo:
        sockets = []
        if listen.unix is not None:
            sockets.append(undo.enter_context(_unix_socket(listen.unix)))
        sockets += [undo.enter_context(each) for each in _tcp_sockets(found, listen, option, reserved)]
        undo.pop_all()
    return sockets


def shown(listening: socket.socket, scheme: str) -> str:
    """The URL of a socket that listens."""
    if listening.family == socket.AF_UNIX:
        return f"{scheme}+unix://{listening.getsockname()}"
    return f"{scheme}://{place(*listening.getsockname()[:2])}"


def place(host: str, port: int) -> str:
    """An address and a port, as they are written."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


@dataclass(frozen=True)
class _Address:
    family: int
    sockaddr: tuple[str, int] | tuple[str, int, int, int]

    @property
    def is_here(self) -> bool:
        """Whether only this machine reaches it."""
        address = ip_address(self.sockaddr[0].partition("%")[0])
        mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
        return (mapped or address).is_loopback


def _addresses(host: str, port: int) -> list[_Address]:
    if not host:
        raise InvalidArgumentError("the host is empty: give an address of this machine, or 0.0.0.0 for all of them")
    try:
        infos = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise InvalidArgumentError(
            f"the host {host!r} is no address: {getattr(error, 'strerror', None) or error}; choose another --host"
        ) from None
    return list(dict.fromkeys(_Address(family, sockaddr) for family, _, _, _, sockaddr in infos))  # type: ignore[arg-type]


def _check_exposure(addresses: Iterable[_Address], listen: Listen, has_tokens: bool, has_tls: bool) -> None:
    """Whoever reaches a port may run models, load and unload them: beyond this machine nobody may without a token, or read it on the way."""
    outside = next((each.sockaddr[0] for each in addresses if not each.is_here), None)
    if outside is None or listen.insecure or (has_tokens and has_tls):
        return
    missing = [
        *([] if has_tokens else ["tokens (--keys or --jwt)"]),
        *([] if has_tls else ["TLS (--tls-cert and --tls-key)"]),
    ]
    raise InvalidArgumentError(
        f"{outside} is reached from other machines, which needs {' and '.join(missing)}: give them, "
        "listen on 127.0.0.1, or say --insecure if something else guards it"
    )


def _tcp_sockets(found: dict[str, list[_Address]], listen: Listen, option: str, reserved: bool) -> list[socket.socket]:
    for _ in range(_TRIES):
        sockets: list[socket.socket] = []
        try:
            for addresses in found.values():
                port = listen.port or (sockets[0].getsockname()[1] if sockets else 0)
                sockets += _sockets_of_host(addresses, port, reserved)
            return sockets
        except _Taken as error:
            for each in sockets:
                each.close()
            if listen.port == 0 and error.port:
                continue  # the port that was free at the first address is not at the next
            raise InvalidArgumentError(f"cannot listen on {error}; choose another --host or {option}") from None
    raise InvalidArgumentError(f"no port is free for all of the hosts; choose a {option}")


class _Taken(Exception):
    def __init__(self, address: _Address, port: int, error: OSError) -> None:
        super().__init__(f"{place(address.sockaddr[0], port)}: {error.strerror or error}")
        self.port = port if error.errno == errno.EADDRINUSE else 0


def _sockets_of_host(addresses: list[_Address], port: int, reserved: bool) -> list[socket.socket]:
    """All of a host's addresses that this machine has; localhost is often ::1, too, where there is no IPv6."""
    sockets: list[socket.socket] = []
    missing: _Taken | None = None
    for address in addresses:
        number = port or (sockets[0].getsockname()[1] if sockets else 0)
        try:
            sockets.append(_tcp_socket(address, number, reserved))
        except OSError as error:
            missing = _Taken(address, number, error)
            if error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                for each in sockets:
                    each.close()
                raise missing from None
    if missing is not None and not sockets:
        raise missing
    return sockets


def _tcp_socket(address: _Address, port: int, reserved: bool) -> socket.socket:
    found = socket.socket(address.family, socket.SOCK_STREAM)
    try:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if address.family == socket.AF_INET6:
            found.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)  # "::" is IPv6's alone, on every system
        found.bind((address.sockaddr[0], port, *address.sockaddr[2:]))
        if reserved:  # only now: somebody else's port is taken, whatever he lets others do
            found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        else:
            found.listen(_BACKLOG)
        found.setblocking(False)
    except BaseException:
        found.close()
        raise
    return found


def _unix_socket(path: Path) -> socket.socket:
    """At a path, for the user of this process alone. What a server that is gone left there is replaced, what a live one uses is not."""
    found = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _remove_left_over(path)
        old = os.umask(0o177)
        try:
            found.bind(str(path))
        finally:
            os.umask(old)
        found.listen(_BACKLOG)
        found.setblocking(False)
    except OSError as error:
        found.close()
        raise InvalidArgumentError(
            f"cannot listen on {path}: {error.strerror or error}; choose another --unix"
        ) from None
    except BaseException:
        found.close()
        raise
    return found


def _remove_left_over(path: Path) -> None:
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise InvalidArgumentError(f"{path} is there and is no socket; choose another --unix")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1)
        with suppress(ConnectionRefusedError):
            probe.connect(str(path))
            raise InvalidArgumentError(f"another server listens on {path}; choose another --unix")
    path.unlink()


def unix_paths(sockets: Iterable[socket.socket]) -> list[str]:
    """The paths of those that are open and of a Unix domain."""
    return [each.getsockname() for each in sockets if each.family == socket.AF_UNIX and each.fileno() >= 0]


def close_all(sockets: Sequence[socket.socket]) -> None:
    """Closes those that are open, and takes their paths away."""
    paths = unix_paths(sockets)
    for each in sockets:
        each.close()
    remove(paths)


def remove(paths: Iterable[str]) -> None:
    """Takes paths of Unix sockets away, so that nobody waits at a door behind which nobody is."""
    for path in paths:
        with suppress(FileNotFoundError):
            os.unlink(path)
