"""Access: API keys, JSON Web Tokens, what they grant, and how much a client may ask. No server, no clock."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import stat
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from maas_rt._cli import main
from maas_rt._errors import Error, InvalidArgumentError
from maas_rt.service._access import Access, bearer, challenge
from maas_rt.service._errors import Kind, ServiceError
from maas_rt.service._grants import ALL, Client, Grant, Verb, read_grants
from maas_rt.service._jwks import UrlKeys, read_key_set
from maas_rt.service._keys import new_key, parse_time, read_keys, revoke_key, show_time
from maas_rt.service._limiter import Limiter, Limits
from maas_rt.service._shared_limiter import ClientTable, SharedLimiter
from tests.service import _certificates
from tests.service._certificates import KEYS, jwk, key_set

SECOND = 1_000_000_000
NOW = 1_800_000_000 * SECOND  # after all files of a test were written, which is settled by then


def refused(
    kind: Kind, access: Access, token: str | None, now: int = NOW, verb: Verb = Verb.INFER, model: str = "m"
) -> str:
    with pytest.raises(ServiceError) as caught:
        access.check(token, verb, model, now)
    assert caught.value.kind is kind, caught.value
    return str(caught.value)


# ---- grants


@pytest.mark.parametrize(
    ("written", "model", "fits"),
    [
        ("infer", "anything", True),
        ("infer:*", "", True),
        ("infer:team-*", "team-a", True),
        ("infer:team-*", "team", False),
        ("infer:*-v*-x", "a-v1-x", True),
        ("infer:*-v*-x", "a-v-x", True),
        ("infer:*-v*-x", "a-x", False),
        ("infer:ab*ba", "aba", False),  # one b cannot end both
        ("infer:a.c", "abc", False),  # no regular expression
        ("infer:[ab]", "a", False),
        ("infer:a:b", "a:b", True),
        ("infer:M", "m", False),
        ("read", "m", False),
    ],
)
def test_grants(written: str, model: str, fits: bool) -> None:
    assert Grant.read(written).covers(Verb.INFER, model) is fits
    assert Grant.read(str(Grant.read(written))) == Grant.read(written)


@given(st.text("ab*", max_size=8), st.text("ab", max_size=10))
def test_patterns_are_what_a_regular_expression_says(pattern: str, name: str) -> None:
    import re

    expected = re.fullmatch(".*".join(map(re.escape, pattern.split("*"))), name) is not None
    assert Grant(Verb.READ, pattern).covers(Verb.READ, name) is expected


def test_a_hostile_pattern_takes_no_time() -> None:
    assert not Grant(Verb.READ, "*a" * 2000 + "b").covers(Verb.READ, "a" * 4000)


def test_what_concerns_the_whole_server_needs_a_grant_on_all_models() -> None:
    some = Client("c", read_grants(["admin:a*", "metrics:a*", "read:a*"]))
    assert [some.may(verb) for verb in (Verb.ADMIN, Verb.METRICS, Verb.READ, Verb.INFER)] == [False, False, True, False]
    assert all(Client("c", ALL).may(verb) for verb in Verb)


@pytest.mark.parametrize("text", ["", "write", "Infer", "infer:", ":m", "infer ", "*"])
def test_what_is_no_grant(text: str) -> None:
    with pytest.raises(InvalidArgumentError, match="grant|names no models"):
        Grant.read(text)


@pytest.mark.parametrize(
    ("header", "token"), [(None, None), ("Bearer abc", "abc"), ("bearer   abc ", "abc"), ("BEARER a.b.c", "a.b.c")]
)
def test_the_authorization_header(header: str | None, token: str | None) -> None:
    assert bearer(header) == token


@pytest.mark.parametrize("header", ["", "Bearer", "Bearer ", "Basic dXNlcjpwYXNz", "abc", "Bearerabc"])
def test_other_schemes_are_unauthenticated(header: str) -> None:
    with pytest.raises(ServiceError, match="must be Bearer TOKEN") as caught:
        bearer(header)
    assert caught.value.kind is Kind.UNAUTHENTICATED
    assert "dXNlcjpwYXNz" not in str(caught.value)


# ---- API keys


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "keys.json"


def make(file: Path, name: str = "shop", *allow: str, **more: Any) -> str:
    return new_key(file, name, read_grants(allow or ("infer:team-*", "read")), NOW, **more)


def test_a_key_is_good_for_what_it_grants_and_no_more(file: Path) -> None:
    token = make(file)
    access = Access(file)
    client = access.check(token, Verb.INFER, "team-a", NOW)
    assert client.name == f"key:{token.split('_')[1]}"
    assert access.check(token, Verb.READ, None, NOW) == client
    told = refused(Kind.FORBIDDEN, access, token, model="other")
    assert told == refused(Kind.FORBIDDEN, access, token, model="nobody").replace("nobody", "other")
    refused(Kind.FORBIDDEN, access, token, verb=Verb.ADMIN, model="team-a")


def test_the_file_has_the_hash_alone_and_is_its_owners(file: Path) -> None:
    token = make(file)
    text = file.read_text()
    assert token not in text and token.split("_", 2)[2] not in text
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert len(base64.urlsafe_b64decode(token.split("_", 2)[2] + "=")) == 32
    assert os.listdir(file.parent) == ["keys.json"]


def test_no_token_no_answer(file: Path) -> None:
    token = make(file)
    other = make(file.with_name("other.json"))
    access = Access(file)
    wrong = token[:-1] + ("A" if token[-1] != "A" else "B")
    for each in (
        None,
        "",
        "x",
        "mrt_",
        wrong,
        other,
        token + "=",
        token.upper(),
        token + "\n",
        "é" * 70,
        "\ud800",
        "a" * 100_000,
    ):
        text = refused(Kind.UNAUTHENTICATED, access, each)
        assert not each or len(each) < 5 or each not in text


def test_secrets_are_in_no_repr(file: Path) -> None:
    token = make(file)
    access = Access(file)
    client = access.check(token, Verb.READ, None, NOW)
    (key,) = read_keys(file).values()
    shown = " ".join(map(repr, (access, client, key, vars(access))))
    assert token.split("_", 2)[2] not in shown


def test_a_key_expires(file: Path) -> None:
    token = make(file, expires=NOW // SECOND + 60)
    access = Access(file)
    access.check(token, Verb.READ, None, NOW + 60 * SECOND - 1)
    assert "is expired" in refused(Kind.UNAUTHENTICATED, access, token, NOW + 60 * SECOND)


def test_a_key_is_revoked_and_added_without_a_restart(file: Path) -> None:
    token = make(file)
    access = Access(file)
    access.check(token, Verb.READ, None, NOW)
    revoke_key(file, "shop", NOW)
    assert "is revoked" in refused(Kind.UNAUTHENTICATED, access, token, NOW + SECOND)
    second = make(file, "shop")  # the name is free again
    access.check(second, Verb.READ, None, NOW + 2 * SECOND)


def test_a_change_is_seen_though_the_files_times_and_size_are_the_same(file: Path) -> None:
    """A change in the tick of the clock in which it was read."""
    token = make(file)
    access = Access(file)
    written = file.stat()
    access.check(token, Verb.READ, None, written.st_mtime_ns)
    text = file.read_bytes()
    with open(file, "r+b") as stream:  # in place: the same inode
        stream.write(
            text.replace(b'"read"', b'"REaD"')
            .replace(b'"infer:team-*"', b'"infer:team-b"')
            .replace(b'"REaD"', b'"read"')
        )
    os.utime(file, ns=(written.st_atime_ns, written.st_mtime_ns))
    refused(Kind.FORBIDDEN, access, token, written.st_mtime_ns + SECOND, model="team-a")


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"keys": 3}', b'{"keys": [{"id": "x"}]}', None])
def test_a_bad_file_never_replaces_a_good_one(
    file: Path, content: bytes | None, caplog: pytest.LogCaptureFixture
) -> None:
    token = make(file)
    access = Access(file)
    good = file.read_bytes()
    if content is None:
        file.unlink()
    else:
        file.write_bytes(content)
    for number in range(1, 4):
        access.check(token, Verb.READ, None, NOW + number * SECOND)
    assert len(caplog.records) == 1 and "what was read before goes on" in caplog.text
    file.write_bytes(good)
    revoke_key(file, "shop", NOW)
    refused(Kind.UNAUTHENTICATED, access, token, NOW + 9 * SECOND)


def test_two_who_change_the_file_lose_nothing(file: Path) -> None:
    make(file, "first")
    threads = [threading.Thread(target=make, args=(file, f"n{number}")) for number in range(8)]
    threads += [threading.Thread(target=revoke_key, args=(file, "first", NOW))]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    keys = {key.name: key for key in read_keys(file).values()}
    assert len(keys) == 9 and keys["first"].revoked is not None


def key_fields(**changes: Any) -> dict[str, Any]:
    return {"id": "0" * 16, "name": "n", "sha256": "0" * 64, "allow": ["read"], **changes}


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        ([key_fields(id="x")], "16 and sha256 64"),
        ([key_fields(sha256=7)], "must be texts"),
        ([key_fields(sha256="0" * 63)], "16 and sha256 64"),
        ([key_fields(allow="read")], "a list of grants"),
        ([key_fields(allow=["write"])], "'write' is no grant"),
        ([key_fields(expires=7)], "expires must be a time"),
        ([key_fields(expires="soon")], "'soon' is no time"),
        ([key_fields(limits={"rate": True})], "rate must be a number"),
        ([key_fields(limits={"rate": -1})], "rate of a client"),
        ([key_fields(limits={"speed": 1})], "rate, burst and in_flight"),
        ([key_fields(secret="x")], "of others"),
        ([key_fields(), key_fields()], "two keys"),
        ([7], "must be an object"),
    ],
)
def test_what_is_wrong_in_the_file_is_told_in_a_sentence(file: Path, keys: list[Any], sentence: str) -> None:
    file.write_text(json.dumps({"keys": keys}))
    with pytest.raises(InvalidArgumentError, match=sentence) as caught:
        Access(file)
    assert str(caught.value).startswith(f"{file}: keys[") and "\n" not in str(caught.value)


def test_an_all_zero_hash_is_nobodys(file: Path) -> None:
    file.write_text(json.dumps({"keys": [key_fields()]}))
    refused(Kind.UNAUTHENTICATED, Access(file), "mrt_" + "0" * 16 + "_" + "A" * 43)
    refused(Kind.UNAUTHENTICATED, Access(file), "x")


def test_a_file_that_others_may_write_is_not_believed(file: Path) -> None:
    make(file)
    file.chmod(0o620)
    with pytest.raises(InvalidArgumentError, match="chmod go-w"):
        Access(file)
    file.chmod(0o644)  # as Kubernetes mounts a secret
    Access(file)


def test_a_file_that_is_not_there_is_told(file: Path) -> None:
    with pytest.raises(InvalidArgumentError, match=r"keys.json\) cannot be read: No such file"):
        Access(file)
    with pytest.raises(Error, match="cannot be written: No such file"):
        make(file.parent / "no" / "keys.json")
    with pytest.raises(InvalidArgumentError, match="does not exist"):
        revoke_key(file, "shop", NOW)
    assert not file.exists()


def test_the_modes_of_a_file_stay_when_it_is_replaced(file: Path) -> None:
    make(file)
    file.chmod(0o640)
    make(file, "other")
    assert stat.S_IMODE(file.stat().st_mode) == 0o640


def test_times() -> None:
    assert show_time(parse_time("2026-11-30T12:00:01Z")) == "2026-11-30T12:00:01Z"
    assert show_time(parse_time("2026-11-30")) == "2026-11-30T00:00:00Z"
    for wrong in ("", "tomorrow", "2026-13-01", "2026-11-30T12:00:00", "2026-11-30T12:00:00+01:00"):
        with pytest.raises(InvalidArgumentError, match="is no time"):
            parse_time(wrong)


def test_the_command_makes_lists_and_revokes(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keys = ["--keys", str(file)]
    assert (
        main(
            [
                "token",
                "new",
                "shop",
                *keys,
                "--allow",
                "infer:team-*",
                "--allow",
                "read",
                "--expires",
                "90d",
                "--rate",
                "5",
            ]
        )
        == 0
    )
    out, err = capsys.readouterr()
    token = out.strip()
    assert token.startswith("mrt_") and "\n" not in token and token not in err and "not shown again" in err
    (key,) = read_keys(file).values()
    assert key.limits == Limits(5.0)
    assert key.expires is not None and key.created is not None and key.expires - key.created == 90 * 86400
    assert main(["token", "list", *keys]) == 0
    table = capsys.readouterr().out
    assert "shop" in table and "valid" in table and "infer:team-*, read" in table and key.digest.hex() not in table
    assert main(["token", "revoke", key.id, *keys]) == 0
    assert main(["token", "list", *keys]) == 0
    assert "revoked" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["new", "shop", "--allow", "write"], "'write' is no grant"),
        (["new", "a b", "--allow", "read"], "no name of a key"),
        (["new", "shop", "--allow", "read", "--expires", "0d"], "not in the future"),
        (["new", "shop", "--allow", "read", "--expires", "2001-01-01"], "not in the future"),
        (["new", "shop", "--allow", "read", "--expires", "later"], "is no time"),
        (["new", "shop", "--allow", "read", "--rate", "-5"], "rate of a client"),
        (["new", "shop", "--allow", "read", "--rate", "nan"], "rate of a client"),
        (["new", "shop", "--allow", "read", "--in-flight", "-1"], "must be 1 or more"),
        (["revoke", "shop"], "does not exist"),
        (["list"], "No such file"),
    ],
)
def test_what_the_command_refuses(
    file: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], sentence: str
) -> None:
    assert main(["token", *arguments, "--keys", str(file)]) == 1
    out, err = capsys.readouterr()
    assert sentence in err and err.count("\n") == 1 and out == "" and not file.exists()


# ---- JSON Web Tokens

ISSUER = "https://login.example"


@pytest.fixture
def issuers(tmp_path: Path) -> Path:
    (tmp_path / "keys.jwks").write_bytes(key_set(jwk("RS256"), jwk("ES256"), jwk("EdDSA")))
    path = tmp_path / "issuers.toml"
    path.write_text(f'[[issuer]]\nissuer = "{ISSUER}"\naudience = "models"\njwks = "keys.jwks"\n')
    return path


def claims(**changes: Any) -> dict[str, Any]:
    seconds = NOW // SECOND
    found = {
        "iss": ISSUER,
        "aud": "models",
        "sub": "alice",
        "exp": seconds + 600,
        "scope": "openid infer:team-* read",
        **changes,
    }
    return {name: value for name, value in found.items() if value is not None}


@pytest.mark.parametrize("algorithm", list(KEYS))
def test_a_signed_token_is_good_for_its_scopes(issuers: Path, algorithm: str) -> None:
    access = Access(issuers=issuers)
    token = _certificates.token(algorithm, claims())
    assert access.check(token, Verb.INFER, "team-a", NOW).name == f"jwt:{ISSUER}#alice"
    refused(Kind.FORBIDDEN, access, token, model="other")
    refused(Kind.FORBIDDEN, access, token, verb=Verb.ADMIN)


def test_two_subjects_are_never_one_client(issuers: Path) -> None:
    access = Access(issuers=issuers)

    def name(**changes: Any) -> str:
        return access.check(_certificates.token("ES256", claims(**changes)), Verb.READ, None, NOW).name

    long = ["x" * 200 + end for end in "ab"]
    hashed = name(sub=long[0])
    assert hashed.startswith(f"jwt:{ISSUER}#sha256:") and len(hashed) < 128
    asked: list[dict[str, Any]] = [{"sub": text} for text in (*long, hashed.partition("#")[2], "x" * 128)]
    asked += [{"sub": None, "jti": "1"}, {"sub": None, "jti": "2"}, {"sub": None, "azp": "app"}]
    assert len({name(**each) for each in asked}) == len(asked)
    assert name(sub=long[0]) == hashed == name(sub=long[0], jti="3")  # of all the subject's tokens


def test_scopes_may_be_a_list_and_other_claims(issuers: Path) -> None:
    issuers.write_text(issuers.read_text() + 'claim = "roles"\nallow = ["metrics"]\n')
    access = Access(issuers=issuers)
    token = _certificates.token("ES256", claims(roles=["admin", 7, "infer:a b", None]))
    assert set(map(str, access.check(token, Verb.ADMIN, None, NOW).grants)) == {"metrics", "admin", "infer:a b"}
    refused(Kind.FORBIDDEN, access, token, verb=Verb.READ)
    for none in (None, 7, {"a": 1}, True):
        access.check(_certificates.token("ES256", claims(roles=none)), Verb.METRICS, None, NOW)


def unsigned(header: dict[str, Any], payload: dict[str, Any], signature: bytes = b"") -> str:
    parts = [json.dumps(header).encode(), json.dumps(payload).encode(), signature]
    return ".".join(base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in parts)


def test_forged_tokens(issuers: Path) -> None:
    from cryptography.hazmat.primitives import hashes, hmac, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    access = Access(issuers=issuers)
    good = _certificates.token("ES256", claims())
    access.check(good, Verb.READ, None, NOW)
    head, body, signature = good.split(".")
    other = claims(scope="admin")
    payload = unsigned({}, other).split(".")[1]
    refused(Kind.UNAUTHENTICATED, access, f"{head}.{payload}.{signature}")
    refused(Kind.UNAUTHENTICATED, access, f"{head}.{body}.")
    refused(Kind.UNAUTHENTICATED, access, f"{head}.{body}.{signature[:-4]}")
    refused(Kind.UNAUTHENTICATED, access, _certificates.token("ES256", other, ec.generate_private_key(ec.SECP256R1())))
    for name in ("none", "None", "NONE", "", None, 7, ["ES256"], {"ES256": 1}):
        for kid in ("es256", None):
            refused(Kind.UNAUTHENTICATED, access, unsigned({"alg": name, "kid": kid}, other))
            refused(Kind.UNAUTHENTICATED, access, unsigned({"alg": name, "kid": kid}, other, b"x"))
    # The public key as the secret of an HMAC, in every form in which somebody could feed it to one.
    public = KEYS["RS256"].public_key()
    pem = public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    for secret in (pem, pem.strip(), json.dumps(jwk("RS256")).encode()):
        signing = unsigned({"alg": "HS256", "kid": "rs256", "typ": "JWT"}, other).rpartition(".")[0]
        mac = hmac.HMAC(secret, hashes.SHA256())
        mac.update(signing.encode())
        forged = signing + "." + base64.urlsafe_b64encode(mac.finalize()).rstrip(b"=").decode()
        refused(Kind.UNAUTHENTICATED, access, forged)
    # A key, or where to get one, in the header.
    for field in ({"jwk": jwk("EdDSA")}, {"jku": "https://evil.example"}, {"x5u": "https://evil.example"}):
        refused(
            Kind.UNAUTHENTICATED,
            access,
            _certificates.token("ES256", other, ec.generate_private_key(ec.SECP256R1()), **field),
        )
    refused(Kind.UNAUTHENTICATED, access, _certificates.token("ES256", claims(), crit=["x"], x=1))
    # A good key, but not with this algorithm or under this name.
    refused(Kind.UNAUTHENTICATED, access, _certificates.token("RS256", claims(), kid="es256"))
    refused(Kind.UNAUTHENTICATED, access, _certificates.token("PS256", claims(), KEYS["RS256"], kid="rs256"))
    refused(Kind.UNAUTHENTICATED, access, _certificates.token("ES256", claims(), kid="nobody"))


@pytest.mark.parametrize(
    "text", ["", "a", "a.b", "a.b.c", "a.b.c.d.e", "..", "e30.e30.", "W10.W10.W10", "é.é.é", "a" * 9000, "\ud800.a.b"]
)
def test_what_is_no_token(issuers: Path, text: str) -> None:
    refused(Kind.UNAUTHENTICATED, Access(issuers=issuers), text)


def test_an_issuer_is_one_text(issuers: Path) -> None:
    token = unsigned({"alg": "ES256", "kid": "es256"}, claims(iss=[ISSUER]))
    assert "its issuer is" in refused(Kind.UNAUTHENTICATED, Access(issuers=issuers), token)


def test_deep_json_in_a_token(issuers: Path) -> None:
    deep = base64.urlsafe_b64encode(b"[" * 2900).rstrip(b"=").decode()
    refused(Kind.UNAUTHENTICATED, Access(issuers=issuers), f"{deep}.{deep}.")


@pytest.mark.parametrize(
    ("changes", "seconds", "why"),
    [
        ({}, 600 + 59.9, None),  # a clock that is off by a minute
        ({}, 600 + 60, "expired"),
        ({"nbf": NOW // SECOND + 59}, 0, None),
        ({"nbf": NOW // SECOND + 61}, 0, "not valid yet"),
        ({"iat": NOW // SECOND + 30}, 0, None),  # 30 s ahead of us
        ({"iat": NOW // SECOND + 90}, 0, "not valid yet"),
        ({"exp": None}, 0, "no claim exp"),
        ({"exp": "tomorrow"}, 0, "exp is no time"),
        ({"exp": True}, 0, "exp is no time"),
        ({"exp": float("inf")}, 0, "exp is no time"),
        ({"exp": 10**300}, 0, None),
        ({"exp": 10**400}, 0, "exp is no time"),
        ({"exp": float("nan")}, 0, "exp is no time"),
        ({"nbf": [1]}, 0, "nbf is no time"),
        ({"aud": None}, 0, "no claim aud"),
        ({"aud": "others"}, 0, "another audience"),
        ({"aud": ["others", "models"]}, 0, None),
        ({"aud": []}, 0, "no claim aud"),
        ({"iss": None}, 0, "its issuer is None"),
        ({"iss": "https://login.example/"}, 0, "its issuer is"),
    ],
)
def test_claims(issuers: Path, changes: dict[str, Any], seconds: float, why: str | None) -> None:
    import re

    access, now = Access(issuers=issuers), NOW + int(seconds * SECOND)
    token = _certificates.token("ES256", claims(**changes))
    for _ in range(2):  # the second time it is remembered
        if why is None:
            access.check(token, Verb.READ, None, now)
        else:
            assert re.search(why, refused(Kind.UNAUTHENTICATED, access, token, now))


def test_a_token_that_is_remembered_expires_and_its_key_can_be_withdrawn(issuers: Path) -> None:
    access = Access(issuers=issuers)
    token = _certificates.token("ES256", claims())
    access.check(token, Verb.READ, None, NOW)
    refused(Kind.UNAUTHENTICATED, access, token, NOW + 700 * SECOND)
    (issuers.parent / "keys.jwks").write_bytes(key_set(jwk("RS256")))
    refused(Kind.UNAUTHENTICATED, access, token, NOW + 2 * SECOND)
    (issuers.parent / "keys.jwks").write_bytes(b"half a fi")
    access.check(_certificates.token("RS256", claims()), Verb.READ, None, NOW + 4 * SECOND)


def test_keys_of_a_set_are_pinned_to_one_algorithm(tmp_path: Path) -> None:
    def algorithms(
        *entries: dict[str, Any], allowed: tuple[str, ...] = ("RS256", "PS256", "ES256", "EdDSA")
    ) -> list[str]:
        return [key.algorithm for key in read_key_set(key_set(*entries), allowed)]

    bare = {name: value for name, value in jwk("RS256").items() if name != "alg"}
    assert algorithms(bare) == ["RS256"]
    assert algorithms(bare, allowed=("PS256", "RS256")) == ["PS256"]
    assert algorithms(jwk("ES256"), {**bare, "use": "enc"}, {"kty": "oct", "k": "c2VjcmV0", "alg": "HS256"}, {}) == [
        "ES256"
    ]
    for useless in (
        {"kty": "oct", "k": "c2VjcmV0"},
        {**bare, "alg": "ES256"},
        {**bare, "n": "AQAB"},
        {**bare, "n": 7},
        {**jwk("ES256"), "x": "AA"},
    ):
        with pytest.raises(InvalidArgumentError, match="none of its 1 keys"):
            algorithms(useless)
    for wrong in (b"", b"[]", b'{"keys": {}}', b'{"keys": []}', b"[" * 5000):
        with pytest.raises(InvalidArgumentError):
            read_key_set(wrong, ("RS256",))


def test_a_key_that_is_too_short_is_not_used() -> None:
    import jwt
    from cryptography.hazmat.primitives.asymmetric import rsa

    short = rsa.generate_private_key(65537, 1024).public_key()
    entry = {**jwt.get_algorithm_by_name("RS256").to_jwk(short, as_dict=True), "kid": "short"}
    with pytest.raises(InvalidArgumentError, match="none of its"):
        read_key_set(key_set(entry), ("RS256",))


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "a table"),
        ("x = ", "is not TOML"),
        ("issuer = 3", "a table"),
        ("[[issuer]]\nissuer = 'a'\naudience = 'b'", "issuer 1: it must have"),
        ("[[issuer]]\nissuer = 'a'\naudience = 'b'\njwks = 'keys.jwks'\ncolour = 1", "it must have"),
        ("[[issuer]]\nissuer = 'a'\naudience = []\njwks = 'keys.jwks'", "audience is empty"),
        ("[[issuer]]\nissuer = 'a'\naudience = 3\njwks = 'keys.jwks'", "list of texts"),
        (
            "[[issuer]]\nissuer = 'a'\naudience = 'b'\njwks = 'keys.jwks'\nalgorithms = ['HS256']",
            "algorithms has HS256",
        ),
        ("[[issuer]]\nissuer = 'a'\naudience = 'b'\njwks = 'keys.jwks'\nalgorithms = ['none']", "algorithms has none"),
        ("[[issuer]]\nissuer = 'a'\naudience = 'b'\njwks = 'nothing'", "cannot be read"),
        ("[[issuer]]\nissuer = 'a'\naudience = 'b'\njwks = 'http://login.example/keys'", "must be https"),
        ("[[issuer]]\nissuer = 'a'\naudience = 'b'\njwks = 'file:///etc/passwd'", "must be https"),
        ("[[issuer]]\nissuer = 'a'\naudience = 'b'\njwks = 'https://[x'", "must be https"),
        ("[[issuer]]\nissuer = 'a'\naudience = 'b'\njwks = 'keys.jwks'\nallow = ['fly']", "no grant"),
        ("[[issuer]]\nissuer = 'a'\naudience = 'b'\njwks = 'keys.jwks'\n" * 2, "twice"),
    ],
)
def test_what_is_wrong_with_issuers_is_told(issuers: Path, text: str, sentence: str) -> None:
    issuers.write_text(text)
    with pytest.raises(InvalidArgumentError, match=sentence):
        Access(issuers=issuers)


def test_keys_from_a_url() -> None:
    """Nobody waits for them, and no token makes us ask more often than every 30 s."""
    answers: list[bytes | OSError] = [OSError("no route"), key_set(jwk("RS256")), key_set(jwk("RS256"), jwk("ES256"))]
    asked: list[str] = []

    def fetch(url: str) -> bytes:
        asked.append(url)
        answer = answers[min(len(asked), len(answers)) - 1]
        if isinstance(answer, OSError):
            raise answer
        return answer

    keys = UrlKeys("https://login.example/keys", ("RS256", "ES256"), fetch)

    def at(seconds: int) -> list[str] | None:
        keys.get(NOW + seconds * SECOND)
        keys.join(10)
        found = keys.get(NOW + seconds * SECOND)
        return None if found is None else [key.algorithm for key in found]

    assert at(0) is None  # it failed
    assert at(29) is None and len(asked) == 1
    assert at(30) == ["RS256"]
    assert not keys.missed(NOW + 31 * SECOND) and len(asked) == 2
    assert keys.missed(NOW + 60 * SECOND)  # a token names a key that may be new
    keys.join(10)
    assert at(61) == ["RS256", "ES256"] and len(asked) == 3
    answers.append(OSError("gone"))
    assert at(400) == ["RS256", "ES256"] and len(asked) == 4  # the issuer cannot be reached: its keys go on
    assert at(24 * 3600 + 100) is None  # but not for ever


@pytest.mark.parametrize(
    ("path", "algorithms", "told"),
    [
        ("/keys", ["ES256"], ""),
        ("/away", None, "leads on to"),
        ("/big", None, "larger than"),
        ("/none", None, "Not Found"),
    ],
)
def test_keys_are_fetched(path: str, algorithms: list[str] | None, told: str, caplog: pytest.LogCaptureFixture) -> None:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answers = {"/keys": (200, key_set(jwk("ES256"))), "/away": (302, b""), "/big": (200, b" " * (2 << 20))}
            status, body = answers.get(self.path, (404, b""))
            self.send_response(status)
            self.send_header("Location", "/keys")
            self.end_headers()
            with contextlib.suppress(ConnectionError):
                self.wfile.write(body)

        def log_message(self, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            keys = UrlKeys(f"http://127.0.0.1:{server.server_port}{path}", ("ES256",))
            keys.get(NOW)
            keys.join(20)
            found = keys.get(NOW)
        finally:
            server.shutdown()
            thread.join()
    assert (None if found is None else [key.algorithm for key in found]) == algorithms
    assert told in caplog.text and (not told or len(caplog.records) == 1)


def test_a_token_of_an_issuer_whose_keys_are_not_here_yet_may_come_again(tmp_path: Path) -> None:
    path = tmp_path / "issuers.toml"
    path.write_text(f'[[issuer]]\nissuer = "{ISSUER}"\naudience = "models"\njwks = "http://127.0.0.1:9/keys"\n')
    access = Access(issuers=path)
    with pytest.raises(ServiceError) as caught:
        access.check(_certificates.token("ES256", claims()), Verb.READ, None, NOW)
    assert (caught.value.kind, caught.value.retry_after) == (Kind.NOT_READY, 1)


def test_keys_and_issuers_side_by_side(file: Path, issuers: Path) -> None:
    token = make(file)
    access = Access(file, issuers)
    access.check(token, Verb.READ, None, NOW)
    access.check(_certificates.token("ES256", claims()), Verb.READ, None, NOW)
    refused(Kind.UNAUTHENTICATED, access, "mrt_x")
    refused(Kind.UNAUTHENTICATED, access, "x")


def test_open_access_names_its_clients_by_their_addresses() -> None:
    client = Access().find(None, NOW, address="127.0.0.1")
    assert client == Client("address:127.0.0.1", ALL, is_known=False) and client.owner == ""


def test_challenges() -> None:
    assert challenge(ServiceError(Kind.UNAUTHENTICATED, ""), None) == 'Bearer realm="maas-rt"'
    assert (
        challenge(ServiceError(Kind.UNAUTHENTICATED, ""), "Bearer x") == 'Bearer realm="maas-rt", error="invalid_token"'
    )
    assert (
        challenge(ServiceError(Kind.FORBIDDEN, ""), "Bearer x") == 'Bearer realm="maas-rt", error="insufficient_scope"'
    )
    assert challenge(ServiceError(Kind.NOT_FOUND, ""), None) is None


# ---- limits


def shared(limits: Limits) -> SharedLimiter:
    """Of the second of three workers."""
    return SharedLimiter(limits, ClientTable(3), 1)


either = pytest.mark.parametrize("made", [Limiter, shared], ids=["alone", "shared"])


def taken(limiter: Limiter | SharedLimiter, client: str, now: int, limits: Limits | None = None) -> float:
    """0, or the seconds to wait."""
    try:
        limiter.admit(client, now, limits).end()
    except ServiceError as error:
        assert error.kind is Kind.RATE_LIMITED and error.retry_after is not None
        return error.retry_after
    return 0


@either
def test_a_burst_and_then_the_rate(made: Any) -> None:
    limiter = made(Limits(rate=10, burst=3))
    assert [taken(limiter, "a", NOW) for _ in range(4)] == [0, 0, 0, pytest.approx(0.1)]
    assert taken(limiter, "b", NOW) == 0  # another client's bucket
    assert taken(limiter, "a", NOW + SECOND // 20) == pytest.approx(0.05)  # a refusal costs nothing
    assert [taken(limiter, "a", NOW + SECOND // 10) for _ in range(2)] == [0, pytest.approx(0.1)]
    assert [taken(limiter, "a", NOW + 60 * SECOND) for _ in range(4)] == [
        0,
        0,
        0,
        pytest.approx(0.1),
    ]  # no more than a burst is saved


@either
@given(rate=st.floats(0.01, 1000), burst=st.integers(1, 20), gaps=st.lists(st.floats(0, 3), max_size=60))
def test_no_more_than_burst_and_rate(made: Any, rate: float, burst: int, gaps: list[float]) -> None:
    limiter, now, admitted = made(Limits(rate, burst)), NOW, 0
    for gap in gaps:
        now += int(gap * SECOND)
        admitted += taken(limiter, "a", now) == 0
    assert admitted <= burst + (now - NOW) / SECOND * rate * (1 + 1e-6) + 1e-6


@either
def test_a_clock_that_is_set_back_locks_nobody_out(made: Any) -> None:
    limiter = made(Limits(rate=1, burst=5))
    assert all(taken(limiter, "a", NOW) == 0 for _ in range(5))
    assert taken(limiter, "a", NOW - 3600 * SECOND) <= 1


@either
def test_requests_at_once(made: Any) -> None:
    limiter = made(Limits(in_flight=2))
    first = limiter.admit("a", NOW)
    with limiter.admit("a", NOW):
        assert taken(limiter, "a", NOW) == 1
        assert taken(limiter, "b", NOW) == 0
    assert taken(limiter, "a", NOW) == 0
    first.end()
    first.end()
    assert taken(limiter, "a", NOW, Limits(in_flight=1)) == 0  # none is left


def test_the_table_is_bounded_and_to_come_under_many_names_wins_nothing() -> None:
    limiter = Limiter(Limits(rate=1, burst=1), clients=50)
    admitted = sum(taken(limiter, f"c{number}", NOW) == 0 for number in range(1000))
    assert admitted == 51 and len(limiter) == 50  # one each, and one that all others share
    assert taken(limiter, "c0", NOW) > 0  # nobody's bucket was filled by being forgotten
    admitted = sum(taken(limiter, f"d{number}", NOW + 2 * SECOND) == 0 for number in range(1000))
    assert 50 <= admitted <= 51 and len(limiter) == 50  # who is idle makes room


def test_what_one_worker_lets_in_counts_in_all_and_dies_with_it() -> None:
    table = ClientTable(2)
    first, second = (SharedLimiter(Limits(rate=1, burst=4, in_flight=3), table, number) for number in range(2))
    held = [first.admit("a", NOW), second.admit("a", NOW), second.admit("a", NOW)]
    assert taken(first, "a", NOW) == taken(second, "a", NOW) == 1  # three are in flight
    held[1].withdraw()
    assert [taken(first, "a", NOW), taken(second, "a", NOW)] == [0, 0]  # of the burst two were left with that
    assert taken(second, "a", NOW) > 0 and taken(first, "b", NOW) == 0
    late = NOW + 60 * SECOND
    held.append(first.admit("a", late))
    assert taken(second, "a", late) == 1
    table.end(1)  # the second worker is killed: one of the three was its own
    assert taken(first, "a", late) == 0
    for each in held:
        each.end()
    assert taken(first, "a", late, Limits(in_flight=1)) == 0
    assert taken(first, "a", late, Limits()) == 0  # nobody limits it, and nobody counts it


def test_the_table_of_all_workers_is_bounded_too() -> None:
    table = ClientTable(2, clients=64)
    limiters = [SharedLimiter(Limits(rate=1, burst=1), table, number) for number in range(2)]
    admitted = sum(taken(limiters[number % 2], f"c{number}", NOW) == 0 for number in range(2000))
    assert admitted == 64 + 8  # one each, and one of each set that others share
    later = NOW + 2 * SECOND
    admitted = sum(taken(limiters[number % 2], f"d{number}", later) == 0 for number in range(2000))
    assert admitted == 64 + 8  # who is idle makes room


_ASKING = """
import sys
from maas_rt.service._limiter import Limits
from maas_rt.service._shared_limiter import ClientTable, SharedLimiter

descriptor, number = map(int, sys.argv[1:])
limiter = SharedLimiter(Limits(rate=0.001, burst=3000), ClientTable(2, descriptor=descriptor), number)
admitted = 0
for _ in range(2500):
    try:
        limiter.admit("a", 10**18).end()
        admitted += 1
    except Exception:
        pass
print(admitted)
"""


def test_workers_count_together_at_the_same_time() -> None:
    table = ClientTable(2)
    asking = [
        subprocess.Popen(
            [sys.executable, "-c", _ASKING, str(table.descriptor), str(number)],
            pass_fds=[table.descriptor],
            stdout=subprocess.PIPE,
        )
        for number in range(2)
    ]
    assert sum(int(each.communicate(timeout=60)[0]) for each in asking) == 3000
    assert taken(SharedLimiter(Limits(in_flight=1), table, 0), "a", NOW) == 0  # none is in flight


@pytest.mark.parametrize(
    "fields", [{"rate": -1}, {"rate": float("nan")}, {"rate": 1e-9}, {"rate": 1e12}, {"burst": -1}, {"in_flight": -1}]
)
def test_what_are_no_limits(fields: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgumentError):
        Limits(**fields)
