"""What the routes stand on: built once by app.py."""

from dataclasses import dataclass
from typing import Annotated, Any

from litestar.params import Dependency


@dataclass(slots=True)
class Services:
    people: Any
    orgs: Any
    runs: Any


Platform = Annotated[Services, Dependency(skip_validation=True)]
