"""What `maas-rt serve` is told by flags, the environment and a file, and what --check says of it."""

from __future__ import annotations

import argparse
import socket
import time
from pathlib import Path
from typing import Any

import pytest

from maas_rt._cli import _serve, main
from maas_rt._errors import InvalidArgumentError
from maas_rt.service._grants import read_grants
from maas_rt.service._keys import new_key
from tests import _tiny
from tests.service._certificates import Authority

PREFIX = "MAAS_RT_SERVE_"


@pytest.fixture
def models(tmp_path: Path) -> Path:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "mlp.mrt").write_bytes(_tiny.mlp("batch"))
    return tmp_path / "models"


def _options(*flags: str, **environment: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    _serve.add_arguments(parser)
    args = parser.parse_args(flags)
    return args.layers.resolve(args, {"HOME": "/", **{PREFIX + name: text for name, text in environment.items()}})


def test_a_flag_goes_before_the_environment_and_that_before_the_file_and_that_before_the_default(
    tmp_path: Path,
) -> None:
    config = tmp_path / "serve.toml"
    config.write_text(
        'directory = "a"\nport = 1\nthreads = 1\ndrain-delay = 2.5\nhost = ["h1", "h2"]\nno-console = true\n'
    )
    found = _options("--config", str(config), "--port", "3", PORT="2", THREADS="2")
    assert (found.directory, found.port, found.threads, found.drain_delay) == ("a", 3, 2, 2.5)
    assert (found.host, found.console, found.watch, found.keys) == (["h1", "h2"], False, 0.0, None)
    found = _options("b", "--host", "h3", CONFIG=str(config), NO_CONSOLE="false", KEYS="k.json")
    assert (found.directory, found.host, found.console, found.keys) == ("b", ["h3"], True, Path("k.json"))
    found = _options(HOST="h4\nh5", INSECURE="TRUE", RATE="0.5", LOG_FORMAT="json", MAX_BODY="1")
    assert (found.host, found.insecure, found.rate, found.log_format) == (["h4", "h5"], True, 0.5, "json")
    assert (found.max_body, found.directory, found.port, found.console) == (1 << 20, None, 8000, True)


@pytest.mark.parametrize(
    ("text", "environment", "said"),
    [
        ("", {"KEY_FILE": "x"}, "the environment has MAAS_RT_SERVE_KEY_FILE, which is none of"),
        ("", {"PORT": "99999"}, "MAAS_RT_SERVE_PORT: '99999' is no port; expected 0 to 65535"),
        ("", {"RATE": "fast"}, "MAAS_RT_SERVE_RATE is 'fast' and must be a number"),
        ("", {"INSECURE": "perhaps"}, "MAAS_RT_SERVE_INSECURE is 'perhaps' and must be true or false"),
        ("", {"LOG_FORMAT": "xml"}, "MAAS_RT_SERVE_LOG_FORMAT is 'xml' and must be one of text, json"),
        ("kyes = 'x'", {}, "has 'kyes', which is none of"),
        ("check = true", {}, "has 'check', which is none of"),
        ("port = -5", {}, "'-5' is no port"),
        ("port = [1, 2]", {}, "must be a text or a number"),
        ("port = true", {}, "must be a text or a number"),
        ("insecure = 1", {}, "is 1 and must be true or false"),
        ("[tls]\ncert = 1", {}, "has 'tls', which is none of"),
        ("port = ", {}, "is not TOML"),
    ],
)
def test_what_is_not_known_or_not_taken_is_told(tmp_path: Path, text: str, environment: Any, said: str) -> None:
    config = tmp_path / "serve.toml"
    config.write_text(text)
    with pytest.raises(InvalidArgumentError) as caught:
        _options("--config", str(config), **environment)
    assert said in str(caught.value) and "\n" not in str(caught.value)[:80]


def test_a_config_that_is_not_there_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "--config", str(tmp_path / "none.toml")]) == 1
    assert "none.toml cannot be read: No such file or directory" in capsys.readouterr().err
    assert main(["serve"]) == 1
    assert "which folder is to be served?" in capsys.readouterr().err


def test_a_check_says_what_would_be_served_and_leaves_nothing_behind(
    models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    command = ["serve", str(models), "--host", "127.0.0.1", "--port", str(port), "--check"]
    assert main(command) == 0
    said = capsys.readouterr().err
    assert "serving mlp, versions 1" in said and f"would listen on http://127.0.0.1:{port}/v2" in said
    socket.create_server(("127.0.0.1", port)).close()  # it is free again
    (models / "junk.mrt").write_bytes(b"junk")
    assert main(command) == 1
    said = capsys.readouterr().err
    assert "serving mlp" in said and "not served:" in said and "junk.mrt" in said
    (models / "junk.mrt").unlink()
    authority = Authority("ours")
    authority.issue("server", tmp_path / "cert.pem", tmp_path / "key.pem")
    new_key(tmp_path / "keys.json", "a", read_grants(["read"]), time.time_ns())
    guarded = ["--keys", str(tmp_path / "keys.json"), "--tls-cert", str(tmp_path / "cert.pem")]
    assert main([*command, *guarded, "--tls-key", str(tmp_path / "key.pem")]) == 0
    assert f"would listen on https://127.0.0.1:{port}/v2" in capsys.readouterr().err


@pytest.mark.parametrize("wrong", ["keys", "certificate", "host", "issuers", "repository", "taken"])
def test_a_check_fails_where_the_server_would(
    models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], wrong: str
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "junk").write_text("junk")
    junk = str(tmp_path / "junk")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        flags, said = {
            "keys": (["--keys", junk], "junk"),
            "certificate": (["--tls-cert", junk, "--tls-key", junk], "junk"),
            "host": (["--host", "0.0.0.0"], "needs tokens"),
            "issuers": (["--jwt", junk], "junk"),
            "repository": ([], "holds no model"),
            "taken": (["--host", "127.0.0.1", "--port", str(taken.getsockname()[1])], "in use"),
        }[wrong]
        folder = tmp_path / "empty" if wrong == "repository" else models
        assert main(["serve", str(folder), "--port", "0", "--check", *flags]) == 1
    assert said in capsys.readouterr().err
