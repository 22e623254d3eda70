"""A model behind Ray Serve: `serve run ray_serve:app` answers POST / with JSON arrays by name, for JSON arrays by name."""

import numpy as np
from ray import serve
from starlette.requests import Request

import maas_rt


@serve.deployment(ray_actor_options={"num_cpus": 1}, max_ongoing_requests=1)
class Model:
    def __init__(self, path: str = "model.mrt") -> None:
        self.model = maas_rt.load(path, threads=1)

    async def __call__(self, request: Request) -> dict[str, list]:
        body = await request.json()
        inputs = {info.name: np.array(body[info.name], info.dtype) for info in self.model.inputs}
        return {name: array.tolist() for name, array in self.model.run(inputs).items()}


app = Model.bind()
