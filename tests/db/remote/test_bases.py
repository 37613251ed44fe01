"""Which source an author's repository is, and what of it a difference may lie over (AU-124)."""

import subprocess
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from pathlib import Path

import pytest

from kici.orchestrator.lockfiles.git import Repositories
from kici.orchestrator.remote.bases import Bases
from kici.orchestrator.rpc import Caller
from kici.orchestrator.sources.index import SourceIndex
from kici.orchestrator.sources.sealing import Sealer
from kici.orchestrator.sources.service import NewGeneric, NewLocal, SourceChange, Sources
from kici.protocol.platform_v1 import Actor
from kici.protocol.remote_v1 import BaseBody, BaseView
from kici.runtime.database import Wakeups
from kici.spec.errors import InvalidInput
from tests.db.ingress.builders import ORG
from tests.db.ingress.running import Repo
from tests.support.postgres import Database

pytestmark = pytest.mark.postgres

OTHER_ORG = "org_other0000000"
NOWHERE = "f" * 40
NOTHING = BaseView(source=None, commits=[])


@dataclass
class Desk:
    bases: Bases
    sources: Sources
    repo: Repo
    commits: list[str]

    async def find(self, *addresses: str, commits: list[str] | None = None, org_id: str = ORG) -> BaseView:
        caller = Caller(org_id=org_id, actor=Actor(kind="user", id="u1", display_name="Ada"))
        body = BaseBody(addresses=list(addresses), commits=self.commits if commits is None else commits)
        return await self.bases.find(body, caller)


@pytest.fixture
async def desk(orchestrator_db: Database, tmp_path: Path) -> AsyncGenerator[Desk]:
    """A source `shop` of ORG with two commits."""
    engine = orchestrator_db.engine
    sealer = Sealer(bytes(32), "source-verification")
    index = SourceIndex(engine, sealer)
    sources = Sources(engine, sealer, index, Wakeups(orchestrator_db.url, ("sources", "registry")))
    repositories = Repositories()
    repo = Repo(tmp_path / "shop")
    commits = [repo.commit("One", {"a": "1"}), repo.commit("Two", {"a": "2"})]
    await sources.add(ORG, NewLocal(name="shop", path=str(repo.path)))
    yield Desk(Bases(index, repositories), sources, repo, commits)
    await repositories.close()


async def test_a_source_is_found_by_where_it_is(desk: Desk, tmp_path: Path) -> None:
    path = str(desk.repo.path)
    found = BaseView(source="shop", commits=desk.commits)
    for address in (
        path,
        f"{path}/",
        f"{path}/.git",
        f"file://{path}",
        f"ssh://git@forge.example:2222{path}",
        f"git@forge.example:{path}",
    ):
        assert await desk.find(address) == found, address
    (tmp_path / "alias").symlink_to(path)
    await desk.sources.change(ORG, "shop", SourceChange(path=str(tmp_path / "alias")))
    assert await desk.find(path) == found
    for address in (f"{path}s", f"https://forge.example{path}", "shop", "", "-", f"../{path}"):
        assert await desk.find(address) == NOTHING, address


async def test_nobody_learns_of_another_organizations_sources(desk: Desk) -> None:
    """AU-124: neither by its address nor by its name."""
    path = str(desk.repo.path)
    assert await desk.find(path, org_id=OTHER_ORG) == NOTHING
    assert await desk.bases.home(OTHER_ORG, "shop", desk.commits[1]) is None
    home = await desk.bases.home(ORG, "shop", desk.commits[1])
    assert home is not None
    assert (home.path, home.repository) == (path, "shop")
    for wrong in (path, "", "shop\0"):
        assert await desk.bases.home(ORG, wrong, desk.commits[1]) is None


async def test_only_what_can_be_checked_out_counts(desk: Desk) -> None:
    path = str(desk.repo.path)
    await desk.sources.change(ORG, "shop", SourceChange(enabled=False))
    assert await desk.find(path) == NOTHING
    assert await desk.bases.home(ORG, "shop", desk.commits[1]) is None
    await desk.sources.change(ORG, "shop", SourceChange(enabled=True))
    assert (await desk.find(path)).source == "shop"
    await desk.sources.remove(ORG, "shop")
    await desk.sources.add(ORG, NewGeneric(name="shop", verification_method="none"))
    assert await desk.find(path) == NOTHING
    assert await desk.bases.home(ORG, "shop", desk.commits[1]) is None


async def test_commits_count_while_a_branch_or_tag_has_them(desk: Desk) -> None:
    """What was forced away may be collected at any time."""
    path, git = str(desk.repo.path), desk.repo.git
    one, two = desk.commits
    git("reset", "-q", "--hard", one)
    blob = git("rev-parse", "HEAD:a")
    assert await desk.find(path, commits=[NOWHERE, two, one, blob]) == BaseView(
        source="shop", commits=[one]
    )
    assert await desk.bases.home(ORG, "shop", two) is None
    git("tag", "kept", two)
    assert await desk.find(path, commits=[two]) == BaseView(source="shop", commits=[two])


async def test_a_repository_without_its_history_is_no_base(desk: Desk, tmp_path: Path) -> None:
    shallow = tmp_path / "shallow.git"
    subprocess.run(
        ["git", "clone", "-q", "--bare", "--depth=1", f"file://{desk.repo.path}", str(shallow)], check=True
    )
    await desk.sources.add(ORG, NewLocal(name="shallow", path=str(shallow)))
    assert await desk.find(str(shallow)) == NOTHING


async def test_a_repository_that_is_gone_is_no_base(desk: Desk) -> None:
    desk.repo.path.rename(desk.repo.path.with_name("elsewhere"))
    assert await desk.find(str(desk.repo.path)) == NOTHING


@pytest.mark.parametrize(
    "body",
    [
        BaseBody(addresses=[], commits=["main"]),
        BaseBody(addresses=[], commits=["--all"]),
        BaseBody(addresses=[], commits=["a" * 40] * 257),
        BaseBody(addresses=["/srv"] * 65, commits=[]),
    ],
)
async def test_questions_are_checked(desk: Desk, body: BaseBody) -> None:
    with pytest.raises(InvalidInput):
        await desk.bases.find(body, Caller(org_id=ORG, actor=Actor(kind="user", id="u", display_name="")))
