# mypy: ignore-errors
"""LitServe, one worker."""

import os
from typing import Any

import litserve
from score_model import load


class Iris(litserve.LitAPI):
    def setup(self, device: str) -> None:
        self.score = load()

    def decode_request(self, request):  # an annotation would be a schema
        return request

    def predict(self, x: Any) -> Any:
        return self.score(x)

    def encode_response(self, output):
        return {"prediction": output}


if __name__ == "__main__":
    server = litserve.LitServer(Iris(api_path="/score"), accelerator="cpu", workers_per_device=1)
    server.run(host="127.0.0.1", port=int(os.environ["BENCH_PORT"]), num_api_servers=1, generate_client_file=False)
