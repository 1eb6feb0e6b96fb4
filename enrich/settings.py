"""Read the settings of a deployment from the environment variables that `infra/` sets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


class SettingsError(ValueError):
    """An environment variable is missing; the message names it and how to set it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Names of the deployment's resources."""

    table: str
    ledger: str
    bucket: str  # Larder's own: rejects/, metadata/, fingerprints/, parts/, work/
    outputs: str  # the bucket that the model writes to
    queue: str  # URL of the queue that feeds enrich
    workgroup: str
    environment: str = "dev"
    version: str = "unversioned"  # of the deployed code, recorded with each run
    bus: str = ""  # EventBridge bus to which events of runs are sent; empty: no events
    job: str = ""  # Glue job that executes runs that are too large for one function; empty: there is none

    @classmethod
    def from_env(cls, env: Mapping[str, str]) -> Settings:
        """Read the `LARDER_*` variables.

        Raises:
            SettingsError: a variable without a default is missing or empty.
        """
        required = ("table", "ledger", "bucket", "outputs", "queue", "workgroup")
        missing = [f"LARDER_{name.upper()}" for name in required if not env.get(f"LARDER_{name.upper()}")]
        if missing:
            raise SettingsError(
                f"environment variables not set: {', '.join(missing)}; infra/template.yaml sets them on the function, "
                "and `./larder env STACK` prints those of a deployed stack"
            )
        given = {name: env[f"LARDER_{name.upper()}"] for name in required}
        return cls(
            **given,
            environment=env.get("LARDER_ENVIRONMENT", "dev"),
            version=env.get("LARDER_VERSION", "unversioned"),
            bus=env.get("LARDER_BUS", ""),
            job=env.get("LARDER_JOB", ""),
        )
