"""A model behind Ray Serve, two replicas of one thread each: `MODEL=digits.mrt serve run ray_serve:app`.

POST {"x": [[0.5, ...]]}, numbers by the names of its inputs, and get its outputs by theirs.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from ray import serve
from starlette.requests import Request

import maas_rt


@serve.deployment(num_replicas=2, ray_actor_options={"num_cpus": 1})
class Model:
    """model.mrt, loaded once in each replica."""

    def __init__(self, path: str) -> None:
        self.model = maas_rt.load(path, threads=1)

    async def __call__(self, request: Request) -> dict[str, Any]:
        """One inference."""
        given = await request.json()
        inputs = {info.name: np.asarray(given[info.name], info.dtype) for info in self.model.inputs}
        return {name: array.tolist() for name, array in self.model.run(inputs).items()}


app = Model.bind(os.path.abspath(os.environ["MODEL"]))
