# mypy: ignore-errors
"""MLServer with a custom runtime, in the server's process."""

from mlserver import MLModel
from mlserver.types import InferenceRequest, InferenceResponse, ResponseOutput
from score_model import NAMES, load


class Iris(MLModel):
    async def load(self) -> bool:
        self.score = load()
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        values = payload.inputs[0].data.root if hasattr(payload.inputs[0].data, "root") else payload.inputs[0].data
        found = self.score(dict(zip(NAMES, values, strict=True)))
        outputs = [
            ResponseOutput(name="label", shape=[1], datatype="BYTES", data=[found["label"]]),
            ResponseOutput(name="probability", shape=[1], datatype="FP64", data=[found["probability"]]),
        ]
        return InferenceResponse(model_name=self.name, outputs=outputs)
