"""The alias of a model says which versions serve. Each change is a pure function and one conditional write.

Since it is one write of one object, a command that is killed at any point leaves a valid alias.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from score.manifest import Alias, ManifestError, Share, dump_alias, parse_alias
from score.paths import alias_key
from score.publish.errors import Refused
from score.publish.versions import Stored, put_if, read_object

Change = Callable[[Alias | None], Alias]


def promote(alias: Alias | None, model: str, version: str) -> Alias:
    """Make a version live. It stops being canary or shadow. Promoting the live version again changes nothing else."""
    if alias is None:
        return Alias(model, version, None, None, None, "", "")
    canary = alias.canary if alias.canary and alias.canary.version != version else None
    shadow = alias.shadow if alias.shadow and alias.shadow.version != version else None
    previous = alias.previous if alias.live == version else alias.live
    return alias._replace(live=version, previous=previous, canary=canary, shadow=shadow)


def rollback(alias: Alias | None) -> Alias:
    """Make the previous version live, for every caller: canary and shadow end.

    The version that was live is not stored as the previous one, so that a repeated rollback does not restore it.

    Raises:
        Refused: there is no previous version.
    """
    alias = _require(alias, "roll back")
    if alias.previous is None:
        raise Refused(
            f"{alias.model}: there is no previous version to roll back to; {alias.live} is live, by {alias.by} at "
            f"{alias.at}; choose a version: ./larder score promote {alias.model} VERSION"
        )
    return alias._replace(live=alias.previous, previous=None, canary=None, shadow=None)


def set_canary(alias: Alias | None, share: Share | None) -> Alias:
    """Let a version answer a share of the subjects; None ends it.

    Raises:
        Refused: there is no live version, the version is live, or the share is not above 0 and up to 1.
    """
    return _require(alias, "set a canary beside")._replace(canary=_check_share(alias, share))


def set_shadow(alias: Alias | None, share: Share | None) -> Alias:
    """Let a version also score a share of the requests, without an effect on answers; None ends it.

    Raises:
        Refused: see `set_canary`.
    """
    return _require(alias, "set a shadow beside")._replace(shadow=_check_share(alias, share))


def read_alias(s3: Any, bucket: str, model: str) -> tuple[Alias | None, Stored | None]:
    """Read the alias of a model, and its object; None if there is none.

    Raises:
        Refused: it is invalid, or the alias of another model.
    """
    place = alias_key(model)
    found = read_object(s3, bucket, place)
    if found is None:
        return None, None
    try:
        alias = parse_alias(found.body, f"s3://{bucket}/{place}")
    except ManifestError as error:
        raise Refused(f"{error}; restore or delete the object; containers keep the last good version") from error
    if alias.model != model:
        raise Refused(f"s3://{bucket}/{place}: is the alias of {alias.model!r}; restore the object, or delete it")
    return alias, found


def write_alias(
    s3: Any, bucket: str, model: str, change: Change, *, by: str, now: datetime | None = None
) -> tuple[Alias, bool]:
    """Change the alias of a model; return it, and whether it was written.

    Args:
        s3: boto3's client.
        bucket: bucket of the models.
        model: the model's name.
        change: current alias (None: there is none) -> new alias.
        by: name of the user, for the alias.
        now: the time; by default the machine's.

    Raises:
        Refused: the change is not possible, or another command has changed the alias in the meantime.
    """
    alias, stored = read_alias(s3, bucket, model)
    changed = change(alias)
    if alias is not None and changed._replace(by=alias.by, at=alias.at) == alias:
        return alias, False
    at = (now or datetime.now(UTC)).astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    changed = changed._replace(by=by, at=at)
    body = dump_alias(changed)
    parse_alias(body, alias_key(model))  # never write an alias that containers would refuse
    is_written = put_if(
        s3, bucket, alias_key(model), body, if_none_match=stored is None, if_match=stored.etag if stored else None
    )
    if not is_written:
        other, _ = read_alias(s3, bucket, model)
        found = f"{other.live} is live, by {other.by} at {other.at}" if other else "it was deleted"
        message = f"{model}: another command changed the alias at the same time: {found}; nothing was written"
        raise Refused(f"{message}; check with ./larder score list {model}")
    return changed, True


def _require(alias: Alias | None, what: str) -> Alias:
    if alias is None:
        raise Refused(f"there is no live version to {what}; first run ./larder score promote MODEL VERSION")
    return alias


def _check_share(alias: Alias | None, share: Share | None) -> Share | None:
    if share is None:
        return None
    if alias and share.version == alias.live:
        raise Refused(f"{alias.model}: {share.version} is live; choose another version (./larder score list)")
    if not 0 < share.share <= 1:
        raise Refused(f"the share is {share.share:g}; expected a number above 0 and up to 1, such as 0.05")
    return share
