"""The species of an iris, by four lengths; the pipeline imputes a missing one."""

from score.models import Keep, Model, Number

iris = Model(
    name="iris",
    subject=("sub",),
    scope="iris:score",
    task="classification",
    features={
        "sepal_length": Number(low=0, high=30, missing=None, about="cm"),
        "sepal_width": Number(low=0, high=30, missing=None, about="cm"),
        "petal_length": Number(low=0, high=30, missing=None, about="cm"),
        "petal_width": Number(low=0, high=30, missing=None, about="cm"),
    },
    forms=("bare",),
    decimals=4,
    keep=Keep(share=1.0),
    about="The species of an iris",
)
