# mypy: ignore-errors
"""BentoML, one worker."""

import bentoml
from score_model import load


@bentoml.service(workers=1, traffic={"timeout": 30})
class Iris:
    def __init__(self) -> None:
        self.predict = load()

    @bentoml.api(route="/score")
    def score(self, sepal_length: float, sepal_width: float, petal_length: float, petal_width: float) -> dict:
        row = {
            "sepal_length": sepal_length,
            "sepal_width": sepal_width,
            "petal_length": petal_length,
            "petal_width": petal_width,
        }
        return {"prediction": self.predict(row)}
