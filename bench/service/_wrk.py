"""The load: wrk, an event loop in C outside of every server (apt install wrk)."""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from bench.service._requests import Requests

SCRIPT = Path(__file__).with_name("load.lua")


@dataclass(frozen=True)
class Outcome:
    """What came of a slice of load. Times are of one request, from its first byte out to its last byte in."""

    requests: int
    seconds: float
    failed: int
    p50_us: float
    p99_us: float

    @property
    def rate(self) -> float:
        """Requests a second."""
        return self.requests / self.seconds


def check() -> None:
    """Raises SystemExit with what to do if wrk is not there."""
    if shutil.which("wrk") is None:
        raise SystemExit("bench.service: the load comes from wrk, which is not installed: apt-get install -y wrk")


def run(url: str, requests: Requests, connections: int, seconds: float, rate: float = 0.0) -> Outcome:
    """A slice of load.

    Args:
        rate: requests a second that are offered; 0: as many as are answered. wrk's connections wait for their answers, so that what is
            offered falls short of it where answers take long: there are to be many more connections than are busy.
    """
    pause = [str(1000.0 * connections / rate)] if rate else []
    command = [
        "wrk",
        "-t",
        "1",
        "-c",
        str(connections),
        "-d",
        f"{max(1, round(seconds))}s",
        "-s",
        str(SCRIPT),
        url,
        "--",
    ]
    done = subprocess.run(
        [*command, str(requests.folder), str(requests.count), *pause], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"wrk ended with {done.returncode}: {(done.stderr or done.stdout).strip()[-200:]}")
    return Outcome(**json.loads(done.stdout.strip().splitlines()[-1]))
