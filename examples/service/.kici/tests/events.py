from kici import fixture, pr, push

push_main = fixture("push-main", event=push(), branch="main")
opened = fixture("opened", event=pr(target="main"))
