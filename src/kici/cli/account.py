"""`kici org`, `kici orchestrators`, `kici pat`: what the commands go to, and tokens for others."""

import asyncio
from typing import Annotated, Any

import typer
from msgspec import structs

from kici.cli import config as stored
from kici.cli.client import Client, find_target
from kici.cli.errors import FAILED, errors_as_exit_codes
from kici.cli.output import emit, table
from kici.spec.errors import InvalidInput, NotFound

app = typer.Typer(add_completion=False, no_args_is_help=True)
org_app = typer.Typer(add_completion=False, no_args_is_help=True, help="Organizations of this account.")
orchestrators_app = typer.Typer(
    add_completion=False, no_args_is_help=True, help="Orchestrator clusters of the organization."
)
pat_app = typer.Typer(add_completion=False, no_args_is_help=True, help="Personal access tokens.")
app.add_typer(org_app, name="org")
app.add_typer(orchestrators_app, name="orchestrators")
app.add_typer(pat_app, name="pat")

JsonOption = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]
DataDirOption = Annotated[str | None, typer.Option("--data-dir", help="Of a running `kici up`.")]
OrgOption = Annotated[str | None, typer.Option("--org", help="Name or id; else the active one.")]
Json = dict[str, Any]


def pick_org(orgs: list[Json], wanted: str) -> Json:
    """By id, or by name whatever the case. Raises NotFound, InvalidInput."""
    found = [org for org in orgs if wanted in {org["id"], org["alias"]}] or [
        org for org in orgs if org["name"].lower() == wanted.lower()
    ]
    if not found:
        names = ", ".join(org["name"] for org in orgs) or "none"
        raise NotFound(f"no organization {wanted!r}; yours: {names}")
    if len(found) > 1:
        raise InvalidInput(f"{wanted!r} is the name of several: {', '.join(org['id'] for org in found)}")
    return found[0]


async def chosen_org(client: Client, wanted: str | None) -> str:
    """The org's id: `--org`, else the active one."""
    if wanted is None:
        return await client.org_id()
    return pick_org((await client.get("/api/v1/user"))["orgs"], wanted)["id"]


@org_app.command("list")
def list_orgs(as_json: JsonOption = False, data_dir: DataDirOption = None) -> None:
    """Organizations of this account; `*` is the active one.

    Example: kici org list
    """

    async def body() -> list[Json]:
        target = find_target(data_dir=data_dir)
        async with Client(target) as client:
            user = await client.get("/api/v1/user")
        return [{**org, "active": org["id"] == target.org_id} for org in user["orgs"]]

    with errors_as_exit_codes():
        orgs = asyncio.run(body())
        if as_json:
            emit({"orgs": orgs})
        else:
            table(
                ("", "name", "role", "id"),
                (("*" if org["active"] else "", org["name"], org["role"], org["id"]) for org in orgs),
                squeezed=("name",),
            )


@org_app.command("use")
def use_org(
    name: Annotated[str, typer.Argument(help="Name, whatever the case, or id.")],
    as_json: JsonOption = False,
) -> None:
    """Make an organization the active one.

    Example: kici org use example
    """

    async def body() -> Json:
        async with Client(find_target()) as client:
            return pick_org((await client.get("/api/v1/user"))["orgs"], name)

    with errors_as_exit_codes():
        org = asyncio.run(body())
        stored.save(structs.replace(stored.load(), org_id=org["id"]))
        if as_json:
            emit({"org": org})
        else:
            print(f"Active organization: {org['name']}")


@org_app.command("current")
def current_org(as_json: JsonOption = False, data_dir: DataDirOption = None) -> None:
    """The active organization. Exit 1 when there is none.

    Example: kici org current
    """

    async def body() -> Json | None:
        target = find_target(data_dir=data_dir)
        async with Client(target) as client:
            orgs = (await client.get("/api/v1/user"))["orgs"]
        return next((org for org in orgs if org["id"] == target.org_id), None)

    with errors_as_exit_codes():
        org = asyncio.run(body())
        if as_json:
            emit({"org": org})
        else:
            print(org["name"] if org else "No active organization: `kici org use NAME`")
        if org is None:
            raise SystemExit(FAILED)


@orchestrators_app.command("list")
def list_orchestrators(
    org: OrgOption = None, as_json: JsonOption = False, data_dir: DataDirOption = None
) -> None:
    """Clusters with their versions; `*` is where `kici run remote` goes when nothing else is said.

    Example: kici orchestrators list
    """

    async def body() -> Json:
        async with Client(find_target(data_dir=data_dir)) as client:
            org_id = await chosen_org(client, org)
            found = await client.get(f"/api/v1/orgs/{org_id}/orchestrators")
        default = stored.load().default_clusters.get(org_id) or found["defaultCluster"]
        return {"clusters": found["clusters"], "default": default}

    with errors_as_exit_codes():
        found = asyncio.run(body())
        if as_json:
            emit(found)
        elif not found["clusters"]:
            print("No orchestrator has connected yet.")
        else:
            table(
                ("", "cluster", "state", "versions"),
                (
                    (
                        "*" if cluster["name"] == found["default"] else "",
                        cluster["name"],
                        "connected" if cluster["connected"] else "away",
                        ", ".join(cluster["versions"]),
                    )
                    for cluster in found["clusters"]
                ),
            )


@orchestrators_app.command("use")
def use_orchestrator(
    name: Annotated[str, typer.Argument(help="Name of a cluster.")],
    org: OrgOption = None,
    as_json: JsonOption = False,
) -> None:
    """Save the cluster that `kici run remote` goes to.

    Example: kici orchestrators use production
    """

    async def body() -> str:
        async with Client(find_target()) as client:
            org_id = await chosen_org(client, org)
            found = await client.get(f"/api/v1/orgs/{org_id}/orchestrators")
        names = [cluster["name"] for cluster in found["clusters"]]
        if name not in names:
            raise NotFound(f"no cluster {name!r}; there are: {', '.join(names) or 'none'}")
        return org_id

    with errors_as_exit_codes():
        org_id = asyncio.run(body())
        config = stored.load()
        clusters = {**config.default_clusters, org_id: name}
        stored.save(structs.replace(config, default_clusters=clusters))
        if as_json:
            emit({"orgId": org_id, "default": name})
        else:
            print(f"Default cluster: {name}")


@pat_app.callback()
def pat() -> None:
    """Personal access tokens."""


@pat_app.command("create")
def create_pat(
    name: Annotated[str, typer.Option("--name", help="What it is for.")],
    agent: Annotated[
        str | None,
        typer.Option("--agent", help="For a software agent: its label, which stands on all it does."),
    ] = None,
    expires_in_days: Annotated[int, typer.Option("--expires-in-days", min=1, max=3650)] = 120,
    as_json: JsonOption = False,
    data_dir: DataDirOption = None,
) -> None:
    """Make a token. It is shown this once.

    Example: kici pat create --name laptop --expires-in-days 30
    """

    async def body() -> Json:
        wanted: Json = {"name": name, "expiresInDays": expires_in_days}
        if agent is not None:
            wanted |= {"kind": "agent", "agentLabel": agent}
        async with Client(find_target(data_dir=data_dir)) as client:
            return await client.post("/api/v1/pats", wanted)

    with errors_as_exit_codes():
        made = asyncio.run(body())
        if as_json:
            emit(made)
        else:
            print(made["token"])
