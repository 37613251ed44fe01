from kici import fixture, push, tag

changed_app = fixture("changed-app", event=push(branches="main", paths=["app/**"]))
version_tag = fixture("version-tag", event=tag(patterns="v*"), branch="v1.0.0")
