"""Events to try the workflows with: `kici run local push-main`, `kici run remote push-main`.

A fixture is an event, not a test. Steps are tested like any function, with `kici.testing` and pytest.
"""

from kici import fixture, pr, push

push_main = fixture("push-main", event=push(branches="main"))
pull_request = fixture("pull-request", event=pr(target="main"))
