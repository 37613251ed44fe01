"""`kici-agent serve|--version|--check-config`. Settings come from the environment (AG-91)."""

import argparse
import os
import sys

from kici.agent.settings import AgentSettings, completed
from kici.runtime import logging
from kici.runtime.buildinfo import build_info
from kici.runtime.settings import BadSettings, load, variable
from kici.spec.errors import KiciError


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="kici-agent", description="Runs KiCI jobs, one at a time, for the orchestrator it connects to."
    )
    parser.add_argument("command", nargs="?", choices=["serve"], default="serve")
    parser.add_argument("--version", action="version", version=f"kici-agent {build_info().version}")
    parser.add_argument(
        "--check-config",
        action="store_true",
        help="check settings and required programs, print them, do nothing",
    )
    options = parser.parse_args()
    try:
        settings = completed(load(AgentSettings, os.environ), os.environ)
    except BadSettings as error:
        for problem in error.problems:
            print(f"kici-agent: {problem}", file=sys.stderr)
        sys.exit(2)
    # Nothing that this process starts needs it, and nothing should find it.
    for name in ("KICI_AGENT_TOKEN", "KICI_AGENT_TOKEN_FILE"):
        os.environ.pop(name, None)
    sys.exit(_check(settings) if options.check_config else _serve(settings))


def _check(settings: AgentSettings) -> int:
    from kici.agent.app import check_tools
    from kici.agent.facts import all_labels, host_facts

    try:
        warnings = check_tools(os.environ)
        labels = all_labels(settings.labels, host_facts())
    except KiciError as error:
        print(f"kici-agent: {error}", file=sys.stderr)
        return 2
    for name in settings.__struct_fields__:
        value = "***" if name == "agent_token" and settings.agent_token else getattr(settings, name)
        print(f"{variable(name)}={value}")
    print(f"labels: {', '.join(labels)}")
    for warning in warnings:
        print(f"warning: {warning}")
    return 0


def _serve(settings: AgentSettings) -> int:
    import uvloop

    from kici.agent.app import check_tools, hide_memory, serve

    hide_memory()
    logging.configure("agent", settings.agent_id, level=settings.log_level, style=settings.log_format)
    log = logging.get_logger(__name__)
    try:
        for warning in check_tools(os.environ):
            log.warning("agent.start_check", warning=warning)
        return uvloop.run(serve(settings, dict(os.environ)))
    except KiciError as error:
        log.error("agent.not_started", error=str(error), code=error.code)
        return 2
