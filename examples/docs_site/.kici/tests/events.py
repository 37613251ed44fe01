from kici import dispatch, fixture, push

changed_page = fixture("changed-page", event=push(branches="main", paths=["docs/**"]))
links_now = fixture(
    "links-now", event=dispatch(types="links"), inputs={"depth": "pages"}, workflow="nightly"
)
