"""git's post-receive hook of a repository that KiCI watches. Copied into the repository; stdlib only.

Every pushed ref becomes a delivery that is first a file in the spool folder and then a request. When
nobody answers, the file stays: the next push sends it, or the orchestrator fetches it from the folder when
it is back. A push is never refused and never waits longer than BUDGET_S.
"""

import http.client
import json
import os
import pwd
import subprocess
import sys
import time
import uuid
from urllib.parse import urlsplit

BUDGET_S = 5.0
REQUEST_S = 3.0
SPOOL = "kici-spool"
GONE = {400, 401, 403, 404, 413}  # asking again will not help


def git(*arguments: str) -> str:
    done = subprocess.run(
        ["git", *arguments], capture_output=True, check=False, timeout=BUDGET_S, stdin=subprocess.DEVNULL
    )
    return done.stdout.decode(errors="replace").strip() if done.returncode == 0 else ""


def payload(before: str, after: str, ref: str, repository: str) -> "dict[str, object]":
    """The body that forges send for a push, as far as a bare repository knows it."""
    who = pwd.getpwuid(os.getuid()).pw_name
    body: dict[str, object] = {
        "ref": ref,
        "before": before,
        "after": after,
        "created": not before.strip("0"),
        "deleted": not after.strip("0"),
        "repository": {
            "name": repository,
            "full_name": repository,
            "default_branch": git("symbolic-ref", "--short", "-q", "HEAD"),
        },
        "pusher": {"name": who},
        "sender": {"login": who},
    }
    if after.strip("0"):
        fields = git("log", "-1", "--format=%H%x00%an%x00%ae%x00%aI%x00%B", after, "--").split("\0", 4)
        if len(fields) == 5:
            sha, name, email, at, message = fields
            body["head_commit"] = {
                "id": sha,
                "message": message.strip(),
                "timestamp": at,
                "author": {"name": name, "email": email},
            }
    return body


def keep(spool: str, body: "dict[str, object]") -> None:
    """Complete and on disk, or not there at all."""
    name = f"{time.time_ns():020d}-{uuid.uuid4()}"
    path = os.path.join(spool, f"{name}.json")
    with open(f"{path}.tmp", "w", encoding="utf-8") as file:
        json.dump({"deliveryId": name, "event": "push", "body": body}, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(f"{path}.tmp", path)


def post(url: str, path: str) -> int:
    """The answer's status; OSError when there is none."""
    with open(path, encoding="utf-8") as file:
        kept = json.load(file)
    parts = urlsplit(url)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = kind(parts.hostname or "127.0.0.1", parts.port, timeout=REQUEST_S)
    try:
        connection.request(
            "POST",
            parts.path,
            json.dumps(kept["body"]),
            {
                "Content-Type": "application/json",
                "X-Event-Type": kept["event"],
                "X-Delivery-Id": kept["deliveryId"],
            },
        )
        return connection.getresponse().status
    except http.client.HTTPException as error:
        raise OSError(str(error)) from error
    finally:
        connection.close()


def send_kept(spool: str, url: str, give_up_at: float) -> None:
    waiting = sorted(name for name in os.listdir(spool) if name.endswith(".json"))
    for position, name in enumerate(waiting):
        path = os.path.join(spool, name)
        try:
            if time.monotonic() > give_up_at:
                raise TimeoutError("out of time")
            status = post(url, path)
        except FileNotFoundError:
            continue  # the orchestrator was faster
        except (OSError, ValueError) as error:
            print(
                f"kici: {url} does not answer ({error}); {len(waiting) - position} push(es) are kept in"
                f" {spool} and sent when it is back",
                file=sys.stderr,
            )
            return
        if status < 300:
            os.unlink(path)
        elif status in GONE:
            os.replace(path, f"{path}.refused")
            print(
                f"kici: {url} refused the push with HTTP {status}; it is kept as {path}.refused."
                " Is the source still there? See `kici-admin source list`.",
                file=sys.stderr,
            )
        else:
            print(f"kici: {url} answered HTTP {status}; the push is kept and sent later", file=sys.stderr)
            return


def main() -> None:
    give_up_at = time.monotonic() + BUDGET_S
    with open(
        os.path.join(os.path.dirname(os.path.abspath(__file__)), "kici-post-receive.json"), encoding="utf-8"
    ) as file:
        config = json.load(file)
    spool = os.path.join(os.path.abspath(git("rev-parse", "--git-dir") or "."), SPOOL)
    os.makedirs(spool, exist_ok=True)
    for line in sys.stdin:
        words = line.split()
        if len(words) == 3 and words[2].startswith(("refs/heads/", "refs/tags/")):
            keep(spool, payload(*words, repository=config["repository"]))
    send_kept(spool, config["url"], give_up_at)


if __name__ == "__main__":
    try:
        main()
    except Exception as error:  # a push must never fail because of us
        print(f"kici: the push was not announced: {error}", file=sys.stderr)
