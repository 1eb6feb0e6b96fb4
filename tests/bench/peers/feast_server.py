# mypy: ignore-errors
"""Feast's feature server, unchanged, in one process: a 2 KB body as one feature, without tokens.

Its online store is DynamoDB at the null endpoint; with FEAST_STORE=sqlite it is a file that the server itself reads.
"""

import datetime
import os
import socket
import sys
import tempfile
from pathlib import Path

import uvicorn
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, RepoConfig, ValueType
from feast.feature_server import get_app
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from feast.types import String

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
entity_key = EntityKey(join_keys=["prediction"], entity_values=[Value(string_val="a")])
now = datetime.datetime.now(datetime.UTC)
body = Path(os.environ["BENCH_BODY"]).read_text()
store._get_provider().online_write_batch(config, view, [(entity_key, {"body": Value(string_val=body)}, now, now)], None)

listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], file=sys.stderr, flush=True)
server = uvicorn.Server(uvicorn.Config(get_app(store), access_log=False, log_level="error"))
server.run(sockets=[listener])
