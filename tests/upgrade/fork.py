"""A fork with its own datasets and environments, and today's main to merge into it, in a repository of three trees.

A merge depends only on the trees of both sides and of the commit that they have in common: no history is needed, so
this works in a shallow clone and without tags. Git is not configured here, as on any adopter's machine.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
BY_HAND = ("datasets", "infra/environments.yaml")  # the user's: Larder has not changed them since its first release
WRITTEN = ("openapi.yaml", "infra/gateway.yaml", "infra/discovery-bucket.yaml", "samconfig.toml")
COMMANDS = (("enrich", "openapi", "--write"), ("infra.environments",))  # listed in UPGRADING.md

CHURN = '''\
"""Who will leave."""

from datetime import timedelta

from enrich.datasets import Dataset, FromKey, Member, Metadata, Served, Source

churn = Dataset(
    served=Served(name="churn-scores", subject=("tenant",), scope="churn:read"),
    about="How likely a customer is to leave",
    source=Source(
        prefix="churn/", format="csv", columns={"tenant": "varchar", "customer": "varchar", "score": "double"}
    ),
    as_of=FromKey("made={}"),
    ttl=timedelta(days=30),
    metadata={
        "customers": Metadata("select customer, cast(name as varchar) as name from crm.customers", on="customer")
    },
    subject={"tenant": "tenant"},
    prediction_id="customer",
    body={"customer": {"id": "customer", "name": "customers.name"}, "score": "round(score, 3)"},
    members={"score": Member("between 0 and 1", 0.25)},
)
'''
OFFERS = '''\
"""What to offer to whom."""

from datetime import timedelta

from enrich.datasets import Dataset, LastModified, Served, Source

offers = Dataset(
    served=Served(name="offers", subject=("sub",), scope=None),
    source=Source(prefix="offers/", format="jsonl", columns={"user": "varchar", "id": "varchar", "skus": "varchar[]"}),
    as_of=LastModified(),
    ttl=timedelta(days=1),
    subject={"sub": "user"},
    prediction_id="id",
    body={"skus": "skus"},
)
'''
ENVIRONMENTS = """\
service: forecasts
version: v1
environments:
  trial:
    stack: forecasts-trial
    region: eu-west-1
    issuer: https://login.trial.example.com/
    audience: forecasts
    parameters:
      DeletionProtection: "false"
      Waf: "false"
  live:
    stack: forecasts-live
    region: eu-west-1
    issuer: https://login.example.com/
    audience: forecasts
    parameters:
      LogRetentionDays: 30
"""
# Changes of a later release, also in generated files: (file, text, another text)
LATER = (
    ("enrich/openapi/service.yaml", '  version: "1"\n', '  version: "1"\n  contact: {name: a later release}\n'),
    ("enrich/openapi/paths.py", "summary: ", "summary: Now "),
    ("infra/discovery_bucket.py", '"NoncurrentDays": 30', '"NoncurrentDays": 60'),
    ("infra/environments.py", '"resolve_s3 = true",', '"resolve_s3 = true",\n            "disable_rollback = false",'),
)


def git(place: Path, *words: str, **variables: str) -> str:
    """Run git in a repository, without the configuration of this machine; return its output.

    Raises:
        AssertionError: it failed; the message has its output.
    """
    who = ("-c", "user.name=test", "-c", "user.email=test@example.com")
    env = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}  # a hook's repository
    env |= {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1", **variables}
    done = subprocess.run(["git", *who, *words], cwd=place, env=env, capture_output=True, text=True)
    assert done.returncode == 0, f"git {' '.join(words)}: {done.stdout}{done.stderr}"
    return done.stdout


def run(place: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run a module of a checkout, with the datasets of that checkout."""
    env = {name: value for name, value in os.environ.items() if name != "LARDER_PROJECT"}
    env |= {"PYTHONPATH": str(place), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run([sys.executable, "-m", *words], cwd=place, env=env, capture_output=True, text=True)


def write_generated(place: Path) -> None:
    """Generate the files that depend on the user's files, with the documented commands."""
    for words in COMMANDS:
        done = run(place, *words)
        assert done.returncode == 0, done.stdout + done.stderr


def find_release() -> str | None:
    """Return the tag of the last release before this commit; None in a checkout without tags."""
    found = git(ROOT, "tag", "--merged", "HEAD", "--no-contains", "HEAD", "--sort=-v:refname", "--list", "v[0-9]*")
    return found.split("\n")[0] or None


def make_fork(place: Path, base: str | None, *, later: bool) -> None:
    """Make a repository with the branches `main`, today's checkout, and `fork`, which is checked out.

    Args:
        place: an empty folder.
        base: the commit that the fork was made from; None: today's checkout.
        later: whether `main` has further changes, of the kinds that a later release will have.
    """
    git(place, "init", "--quiet", "--initial-branch=base")
    _copy_commit(base, place) if base else _copy_checkout(place)
    _commit(place, "the release")
    git(place, "switch", "--quiet", "--create", "main")
    if base:
        git(place, "rm", "-r", "--quiet", ".")
        _copy_checkout(place)
        for name in BY_HAND:  # in a fork of Larder, where this test runs, too, today's files are those of the fork
            shutil.rmtree(place / name) if (place / name).is_dir() else (place / name).unlink(missing_ok=True)
        git(place, "checkout", "base", "--", *BY_HAND)
    if later:
        for name, text, another in LATER:
            before = (place / name).read_text()
            assert text in before, f"{name} no longer has {text!r}: change what a later release changes"
            (place / name).write_text(before.replace(text, another))
        write_generated(place)
    _commit(place, "a later main")
    git(place, "switch", "--quiet", "--create", "fork", "base")
    adopt(place)
    _commit(place, "our datasets and environments")


def adopt(place: Path) -> None:
    """Do what a user does: own datasets instead of the example, own environments, generated files."""
    for path in (place / "datasets").glob("*.py"):
        path.unlink()
    (place / "datasets" / "churn_scores.py").write_text(CHURN)
    (place / "datasets" / "offers.py").write_text(OFFERS)
    (place / "infra" / "environments.yaml").write_text(ENVIRONMENTS)
    write_generated(place)


def _commit(place: Path, message: str) -> None:
    git(place, "add", "--all")
    git(place, "commit", "--quiet", "--allow-empty", "--message", message)


def _copy_checkout(place: Path) -> None:
    """Copy the checkout without the files that git ignores."""
    for name in filter(None, git(ROOT, "ls-files", "-co", "--exclude-standard", "-z").split("\0")):
        if (ROOT / name).is_file():
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, place / name)


def _copy_commit(commit: str, place: Path) -> None:
    """Copy the tree of a commit, with a temporary index."""
    index = str(place / ".git" / "index-of-the-release")
    git(ROOT, "read-tree", commit, GIT_INDEX_FILE=index)
    git(ROOT, "checkout-index", "--all", f"--prefix={place}/", GIT_INDEX_FILE=index)
