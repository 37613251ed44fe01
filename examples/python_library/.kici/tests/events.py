from kici import fixture, push, tag

push_main = fixture("push-main", event=push(branches="main"))
release_tag = fixture("release-tag", event=tag(patterns="v*"), branch="v2.1.0")
