from kici import Fixture, PushEvent, fixture, push


@fixture("api-only")
def api_only() -> PushEvent:
    return PushEvent(target_branch="main", changed_files=["services/api/__init__.py"])


library: Fixture = fixture("everything", event=push())
