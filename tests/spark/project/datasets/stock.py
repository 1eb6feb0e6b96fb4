"""Units in stock, by shop and product."""

from datetime import timedelta

from enrich.datasets import Dataset, FromKey, Metadata, Served, Source, Tolerated

stock = Dataset(
    served=Served(name="stock", subject=("shop",), scope="stock:read"),
    source=Source(
        prefix="stock/",
        format="parquet",
        columns={"shop": "varchar", "sku": "varchar", "units": "double", "moment": "timestamp"},
        output="snapshot",
        snapshot_files="each",
    ),
    as_of=FromKey("day={}"),
    ttl=timedelta(days=7),
    metadata={"products": Metadata("select sku, title from products", on="sku", max_age=timedelta(days=1))},
    subject={"shop": "shop"},
    prediction_id="sku",
    body={"title": "products.title", "units": "units", "moment": "moment"},
    tolerated=Tolerated(share=0.5),
)
