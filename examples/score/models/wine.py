"""The cultivar of a wine, by thirteen chemical measurements; also by `lambda.invoke`, without a token."""

from score.models import Model, Number

wine = Model(
    name="wine",
    subject=("sub",),
    scope="wine:score",
    task="classification",
    features={
        name: Number(low=0, high=10_000)
        for name in (
            "alcohol",
            "malic_acid",
            "ash",
            "alcalinity_of_ash",
            "magnesium",
            "total_phenols",
            "flavanoids",
            "nonflavanoid_phenols",
            "proanthocyanins",
            "color_intensity",
            "hue",
            "od280/od315_of_diluted_wines",
            "proline",
        )
    },
    forms=("values",),
    direct=True,
    decimals=4,
    about="The cultivar of a wine",
)
