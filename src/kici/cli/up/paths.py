"""Where `kici up` keeps things. One data directory holds everything that must survive."""

import os
from dataclasses import dataclass
from pathlib import Path


def default_data_dir() -> Path:
    """`~/.local/share/kici`; for root `/var/lib/kici`, because the embedded PostgreSQL then runs under a
    user of its own that must not need access to `/root`."""
    if os.geteuid() == 0:
        return Path("/var/lib/kici")
    base = os.environ.get("XDG_DATA_HOME") or os.path.expanduser("~/.local/share")
    return Path(base) / "kici"


@dataclass(frozen=True, slots=True)
class DataDir:
    root: Path

    @classmethod
    def of(cls, chosen: str | None) -> "DataDir":
        return cls(Path(chosen).expanduser().resolve() if chosen else default_data_dir())

    @property
    def lock(self) -> Path:
        return self.root / "lock"

    @property
    def state(self) -> Path:
        return self.root / "state.json"

    @property
    def bootstrap(self) -> Path:
        return self.root / "bootstrap.json"

    @property
    def api_token(self) -> Path:
        return self.root / "api-token"

    @property
    def admin_token(self) -> Path:
        return self.root / "admin-token"

    @property
    def agent_token(self) -> Path:
        return self.root / "agent-token"

    @property
    def postgres(self) -> Path:
        return self.root / "postgres"

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    @property
    def sample(self) -> Path:
        return self.root / "sample"
