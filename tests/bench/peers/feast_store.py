# mypy: ignore-errors
"""Feast's store with a 2 KB body as one feature, of `a` and of 100 others.

Its online store is DynamoDB at the null endpoint; with FEAST_STORE=sqlite it is a file that the process itself reads.
"""

import datetime
import os
import tempfile
from pathlib import Path

from feast import Entity, FeatureStore, FeatureView, Field, FileSource, RepoConfig, ValueType
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from feast.types import String
from several_ids import IDS

folder = Path(tempfile.mkdtemp(dir=os.environ["BENCH_FOLDER"]))
is_sqlite = os.environ.get("FEAST_STORE") == "sqlite"
dynamodb = {"type": "dynamodb", "region": "us-east-1", "endpoint_url": os.environ["AWS_ENDPOINT_URL"]}
config = RepoConfig(
    project="bench",
    provider="local" if is_sqlite else "aws",
    registry=str(folder / "registry.db"),
    online_store={"type": "sqlite", "path": str(folder / "online.db")} if is_sqlite else dynamodb,
    offline_store={"type": "file"},
    entity_key_serialization_version=3,
)
store = FeatureStore(config=config)
entity = Entity(name="prediction", join_keys=["prediction"], value_type=ValueType.STRING)
source = FileSource(path=str(folder / "none.parquet"), timestamp_field="t")
view = FeatureView(
    name="flights", entities=[entity], source=source,
    schema=[Field(name="prediction", dtype=String), Field(name="body", dtype=String)],
    ttl=datetime.timedelta(days=1),
)  # fmt: skip
store.registry.apply_entity(entity, "bench")
store.registry.apply_feature_view(view, "bench")
if is_sqlite:
    store._get_provider().update_infra("bench", [], [view], [], [entity], False)
now = datetime.datetime.now(datetime.UTC)
body = {"body": Value(string_val=Path(os.environ["BENCH_BODY"]).read_text())}
rows = [
    (EntityKey(join_keys=["prediction"], entity_values=[Value(string_val=prediction_id)]), body, now, now)
    for prediction_id in ("a", *IDS)
]
store._get_provider().online_write_batch(config, view, rows, None)
