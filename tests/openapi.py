"""schemathesis against the service's OpenAPI page: `python -m tests.openapi [CASES]` draws at least so many requests (2,000) and reports differences."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.service._serving import fill, serving_beside

_CONFIG = Path(__file__).parent / "service" / "schemathesis.toml"


def check(folder: Path, *options: str) -> tuple[int, str, dict[str, Any]]:
    """Starts a server and asks it: the exit status (0: no difference), what was printed, and the report."""
    models = fill(folder / "models")
    (models / "mlp" / "config.toml").write_text("[labels]\nproduction = 1\ncanary = 2\n")
    report = folder / "report.json"
    with serving_beside(models, shared_memory=True) as server:
        command = [
            sys.executable,
            "-m",
            "schemathesis.cli",
            "--config-file",
            _CONFIG,
            "run",
            f"http://127.0.0.1:{server.port}/openapi.json",
        ]
        how = ["--no-color", "--generation-database", "none", "--report-json-path", report, *options]
        done = subprocess.run([*command, *how], cwd=folder, capture_output=True, text=True, check=False)  # fmt: skip
    found = json.loads(report.read_text()) if report.exists() else {}
    return done.returncode, done.stdout + done.stderr, found


def main() -> int:
    """Doubles what is drawn for each operation until there are enough requests."""
    wanted, examples = int(sys.argv[1]) if len(sys.argv) > 1 else 2000, 40
    while True:
        with tempfile.TemporaryDirectory() as folder:
            status, said, report = check(Path(folder), "--max-examples", str(examples), "--continue-on-failure")
        print(said)
        count = requests(report)
        print(f"{count} requests")
        if status or count >= wanted:
            return status
        examples *= 2


def requests(report: dict[str, Any]) -> int:
    """How many requests a report is of."""
    return int(report["test_cases"]["generated"])


if __name__ == "__main__":
    sys.exit(main())
