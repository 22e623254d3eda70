"""Where the service listens, and what it asks for before others can reach it; TLS contexts."""

from __future__ import annotations

import os
import socket
import ssl
import stat
import threading
from pathlib import Path

import pytest

from maas_rt._errors import InvalidArgumentError
from maas_rt.service._listen import Listen, close_all, open_sockets, shown
from maas_rt.service._tls import TlsFiles, server_context
from tests.service._certificates import Authority, private_pem

SECOND = 1_000_000_000


def urls(listen: Listen, has_tokens: bool = False, has_tls: bool = False) -> list[str]:
    sockets = open_sockets(listen, has_tokens, has_tls)
    try:
        return [shown(each, "http") for each in sockets]
    finally:
        close_all(sockets)


def has_ipv6() -> bool:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


def test_this_machine_alone_by_default_at_one_port() -> None:
    found = urls(Listen(port=0))
    ports = {url.rpartition(":")[2] for url in found}
    assert len(ports) == 1 and ports != {"0"}
    hosts = [url.rpartition(":")[0] for url in found]
    assert hosts == ["http://127.0.0.1"] + (["http://[::1]"] if has_ipv6() else [])


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "127.1.2.3"])
def test_other_names_of_this_machine_alone(host: str) -> None:
    assert urls(Listen((host,), 0))


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "::ffff:0.0.0.0"])
def test_what_others_reach_needs_tokens_and_tls(host: str) -> None:
    if ":" in host and not has_ipv6():
        pytest.skip("this machine has no IPv6")
    for tokens, tls, missing in (
        (False, False, r"tokens \(--keys or --jwt\) and TLS"),
        (True, False, "needs TLS"),
        (False, True, r"needs tokens \(--keys or --jwt\):"),
    ):
        with pytest.raises(InvalidArgumentError, match=missing):
            open_sockets(Listen((host,), 0), tokens, tls)
        with pytest.raises(InvalidArgumentError, match=missing):  # one of several
            open_sockets(Listen(("127.0.0.1", host), 0), tokens, tls)
    if not host.startswith("::f"):  # which IPv6's own sockets do not take
        assert urls(Listen((host,), 0), True, True)
        assert urls(Listen((host,), 0, insecure=True))


@pytest.mark.parametrize("host", ["", "no.such.name.invalid", "300.1.1.1", "::1::", "a b", "\udcff", "x" * 300, "a..b"])
def test_what_is_no_address(host: str) -> None:
    with pytest.raises(InvalidArgumentError, match="host") as caught:
        open_sockets(Listen((host,), 0), True, True)
    assert "\n" not in str(caught.value)


def test_an_address_of_another_machine() -> None:
    with pytest.raises(InvalidArgumentError, match="cannot listen on 203.0.113.7:0.*choose another --host or --port"):
        open_sockets(Listen(("203.0.113.7",), 0), True, True)


@pytest.mark.parametrize("port", [-1, 65536, 99999])
def test_what_is_no_port(port: int) -> None:
    with pytest.raises(InvalidArgumentError, match="0 to 65535"):
        Listen(port=port)


def test_a_port_that_is_taken() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(InvalidArgumentError, match=f"cannot listen on 127.0.0.1:{port}: .*in use"):
            open_sockets(Listen(("127.0.0.1",), port), False, False)
        # Nothing stays open of those that could be had.
        free = socket.create_server(("127.0.0.2", 0))
        other = free.getsockname()[1]
        free.close()
        with pytest.raises(InvalidArgumentError):
            open_sockets(Listen(("127.0.0.2", "127.0.0.1"), port), False, False)
        socket.create_server(("127.0.0.2", other)).close()


def test_a_unix_socket_is_its_users_alone(tmp_path: Path) -> None:
    path = tmp_path / "s"
    sockets = open_sockets(Listen(unix=path), False, False)
    assert [each.family for each in sockets] == [socket.AF_UNIX]
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    with pytest.raises(InvalidArgumentError, match="another server listens"):
        open_sockets(Listen(unix=path), False, False)
    close_all(sockets)
    assert not path.exists()


def test_what_a_dead_server_left_is_replaced_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    close_all(open_sockets(Listen(unix=path), False, False))
    path.write_text("dear data")
    with pytest.raises(InvalidArgumentError, match="is no socket"):
        open_sockets(Listen(unix=path), False, False)
    assert path.read_text() == "dear data"
    with pytest.raises(InvalidArgumentError, match="cannot listen on"):
        open_sockets(Listen(unix=tmp_path / "no" / "s"), False, False)
    with pytest.raises(InvalidArgumentError, match="cannot listen on"):
        open_sockets(Listen(unix=tmp_path / ("x" * 200)), False, False)


# ---- TLS


@pytest.fixture
def files(tmp_path: Path) -> TlsFiles:
    found = TlsFiles(tmp_path / "cert.pem", tmp_path / "key.pem")
    Authority("one").issue("server", found.certificate, found.key)
    return found


def handshake(server: ssl.SSLContext, client: ssl.SSLContext, name: str | None = None) -> ssl.SSLSocket:
    """The client's side, connected; the server's is closed."""
    here, there = socket.socketpair()

    def serve() -> None:
        try:
            with server.wrap_socket(there, server_side=True) as connection:
                connection.sendall(connection.recv(1))
        except OSError:
            there.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        here.settimeout(10)
        connection = client.wrap_socket(here, server_hostname=name)
        connection.send(b"x")
        connection.recv(1)  # TLS 1.3 tells only now that a client's certificate was not taken
        return connection
    except BaseException:
        here.close()
        raise
    finally:
        thread.join(10)


def trusting(*authorities: Path | None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE if not authorities else ssl.CERT_REQUIRED
    for each in authorities:
        context.load_verify_locations(each)
    return context


def serial(connection: ssl.SSLSocket) -> int:
    from cryptography import x509

    raw = connection.getpeercert(binary_form=True)
    assert raw is not None
    connection.close()
    return x509.load_der_x509_certificate(raw).serial_number


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_versions_that_are_taken(files: TlsFiles, version: ssl.TLSVersion) -> None:
    client = trusting()
    client.minimum_version = client.maximum_version = version
    connection = handshake(server_context(files), client)
    assert connection.version() == version.name.replace("_", ".")
    name, _, _ = connection.cipher() or ("", "", 0)
    assert "GCM" in name or "CHACHA20" in name
    connection.close()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
def test_versions_that_are_refused(files: TlsFiles, version: ssl.TLSVersion) -> None:
    client = trusting()
    client.minimum_version = client.maximum_version = version
    client.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.raises(ssl.SSLError, match="(?i)protocol.version"):
        handshake(server_context(files), client)


def test_a_cipher_without_forward_secrecy_is_refused(files: TlsFiles) -> None:
    client = trusting()
    client.maximum_version = ssl.TLSVersion.TLSv1_2
    client.set_ciphers("AES128-SHA256:ECDHE-ECDSA-AES128-SHA")
    with pytest.raises(OSError):
        handshake(server_context(files), client)


@pytest.mark.parametrize("name", [None, "localhost"])
def test_a_certificate_that_changes_is_used_from_the_next_handshake_on(
    files: TlsFiles, name: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    now = 1_800_000_000 * SECOND
    context = server_context(files, lambda: now)
    first = serial(handshake(context, trusting(), name))
    cert, key = files.certificate.read_bytes(), files.key.read_bytes()
    second = Authority("two").issue("server", files.certificate, files.key)
    new = files.certificate.read_bytes(), files.key.read_bytes()
    files.key.write_bytes(key)  # half of the change
    now += SECOND
    assert serial(handshake(context, trusting(), name)) == first
    assert "what was read before goes on" in caplog.text
    for broken in (b"", cert[:100], b"-----BEGIN CERTIFICATE-----\nx\n-----END CERTIFICATE-----\n"):
        files.certificate.write_bytes(broken)
        now += SECOND
        assert serial(handshake(context, trusting(), name)) == first
    files.certificate.write_bytes(new[0])
    files.key.write_bytes(new[1])
    now += SECOND
    assert serial(handshake(context, trusting(), name)) == second


def test_clients_need_a_certificate_of_an_authority_that_is_taken_now(tmp_path: Path, files: TlsFiles) -> None:
    now = [1_800_000_000 * SECOND]
    good, other = Authority("good"), Authority("other")
    files = TlsFiles(files.certificate, files.key, good.write(tmp_path / "clients.pem"))

    def client(authority: Authority | None, version: ssl.TLSVersion) -> ssl.SSLContext:
        context = trusting()
        context.minimum_version = context.maximum_version = version
        if authority is not None:
            authority.issue("client", tmp_path / "c.pem", tmp_path / "k.pem")
            context.load_cert_chain(tmp_path / "c.pem", tmp_path / "k.pem")
        return context

    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        good.write(tmp_path / "clients.pem")
        context = server_context(files, lambda: now[0])
        held = client(good, version)
        handshake(context, held).close()
        for wrong in (None, other):
            with pytest.raises(OSError):
                handshake(context, client(wrong, version))
        other.write(tmp_path / "clients.pem")
        now[0] += SECOND
        handshake(context, client(other, version)).close()
        with pytest.raises(OSError):  # nor by a session that it had before
            handshake(context, held)
        now[0] += SECOND


def test_files_that_cannot_be_used(tmp_path: Path, files: TlsFiles) -> None:
    missing = tmp_path / "missing.pem"
    with pytest.raises(InvalidArgumentError, match="cannot be read: No such file"):
        server_context(TlsFiles(missing, files.key))
    with pytest.raises(InvalidArgumentError, match="belong together"):
        server_context(TlsFiles(files.key, files.certificate))
    other = TlsFiles(tmp_path / "c2.pem", tmp_path / "k2.pem")
    authority = Authority("x")
    authority.issue("server", other.certificate, other.key)
    with pytest.raises(InvalidArgumentError, match="belong together"):
        server_context(TlsFiles(files.certificate, other.key))
    with pytest.raises(InvalidArgumentError, match="holds no certificates"):
        server_context(TlsFiles(files.certificate, files.key, files.key))
    other.key.write_bytes(private_pem(authority.key, b"secret"))
    with pytest.raises(InvalidArgumentError, match="the TLS key is encrypted"):
        server_context(TlsFiles(files.certificate, other.key))
