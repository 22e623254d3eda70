"""docs/deploy/ray_serve.py on a real Ray, in an environment of its own (0.5 GB that nothing else here needs)."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

from tests import _tiny

ROOT = Path(__file__).parents[2]
PYTHON = ROOT / ".venv-ray" / "bin" / "python"
PROGRAM = """
import json, socket, sys, urllib.request
from pathlib import Path
import ray
from ray import serve
import ray_serve

with socket.socket() as probe:
    probe.bind(("127.0.0.1", 0))
    port = probe.getsockname()[1]
ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, configure_logging=False)
serve.start(http_options={"host": "127.0.0.1", "port": port})
serve.run(ray_serve.app)
body = json.dumps({"x": [[0.1 * n for n in range(16)]]}).encode()
answers = [json.load(urllib.request.urlopen(f"http://127.0.0.1:{port}/", body)) for _ in range(4)]
states = serve.status().applications["default"].deployments["Model"].replica_states
Path(sys.argv[1]).write_text(json.dumps({"answers": answers, "replicas": dict(states)}))
serve.shutdown()
ray.shutdown()
"""


@pytest.mark.skipif(not PYTHON.exists(), reason="make .venv-ray/.installed")
def test_a_model_behind_ray_serve(tmp_path: Path) -> None:
    (tmp_path / "mlp.mrt").write_bytes(_tiny.mlp())
    environment = {**os.environ, "MODEL": str(tmp_path / "mlp.mrt"), "PYTHONPATH": f"{ROOT}/docs/deploy:{ROOT}"}
    environment |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_TMPDIR": "/tmp/mrt-ray"}
    done = subprocess.run(
        [PYTHON, "-c", PROGRAM, str(tmp_path / "told")], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads((tmp_path / "told").read_text())
    wanted = _tiny.reference_mlp(0.1 * np.arange(16, dtype=np.float32)[None])
    assert told["replicas"] == {"RUNNING": 2}
    for answer in told["answers"]:
        np.testing.assert_allclose(answer["y"], wanted, rtol=1e-4, atol=1e-5)
