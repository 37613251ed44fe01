"""What the routes stand on: built once by app.py."""

from dataclasses import dataclass

from litestar.params import SkipValidation

from kici.platform.oauth.service import OAuthService
from kici.platform.orgs.service import OrgService
from kici.platform.people.service import PeopleService
from kici.platform.remote.service import RemoteService
from kici.platform.runs.service import RunService
from kici.platform.settings import Origins


@dataclass(frozen=True, slots=True)
class Services:
    origins: Origins
    people: PeopleService
    oauth: OAuthService
    orgs: OrgService
    runs: RunService
    remote: RemoteService


Platform = SkipValidation[Services]
