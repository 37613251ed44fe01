"""What a runner reports, made safe for later hands: secrets masked, texts and lists at known lengths."""

from typing import Any

import msgspec
from msgspec import structs

from kici.protocol.runner_v1 import Annotation, InitResult, JobEnded, RuleResult, StepEnded
from kici.runner.masking import Masker
from kici.spec import messages
from kici.spec.lock import LockJob

MOST_CHARACTERS = 16_384
DRIFT_BYTES = 64 << 10
SUMMARY_BYTES = 1 << 20
MOST_ANNOTATIONS = 100
_MOST_NAMES = 1_000
_MOST_RULES = 1_000
_NAME_CHARACTERS = 1_024


def step_ended(message: StepEnded, masker: Masker) -> StepEnded:
    """Without its output, which its owner checks and masks."""
    changes: dict[str, Any] = {}
    if message.error_message is not None:
        changes["error_message"] = messages.shortened(masker.mask_text(message.error_message))
    if message.drift_summary is not None:
        changes["drift_summary"] = cut(masker.mask_text(message.drift_summary), DRIFT_BYTES)
    if message.summary is not None:
        changes["summary"] = cut(masker.mask_text(message.summary), SUMMARY_BYTES)
    if message.rules:
        changes["rules"] = _rules(message.rules, masker)
    if message.secrets_accessed:
        changes["secrets_accessed"] = [
            name[:_NAME_CHARACTERS] for name in message.secrets_accessed[:_MOST_NAMES]
        ]
    if message.annotations:
        changes["annotations"] = [
            _annotation(note, masker) for note in message.annotations[:MOST_ANNOTATIONS]
        ]
    return shortened(structs.replace(message, **changes) if changes else message)


def job_ended(message: JobEnded, masker: Masker) -> JobEnded:
    changes: dict[str, Any] = {}
    if message.error_message is not None:
        changes["error_message"] = messages.shortened(masker.mask_text(message.error_message))
    if message.rules:
        changes["rules"] = _rules(message.rules, masker)
    if message.init is not None and masker:
        changes["init"] = msgspec.convert(masker.mask_json(msgspec.to_builtins(message.init)), InitResult)
    if message.generated is not None and masker:
        changes["generated"] = msgspec.convert(
            masker.mask_json(msgspec.to_builtins(message.generated)), list[LockJob]
        )
    return shortened(structs.replace(message, **changes) if changes else message)


def shortened(message: Any) -> Any:
    """Texts of the runner at a length that later hands can rely on."""
    long = {
        name: value[:MOST_CHARACTERS]
        for name in ("step_name", "step_type", "group_id", "check_outcome")
        if isinstance(value := getattr(message, name, None), str) and len(value) > MOST_CHARACTERS
    }
    return structs.replace(message, **long) if long else message


def cut(text: str, most_bytes: int) -> str:
    """The text, or its beginning when it is longer than `most_bytes` as UTF-8."""
    if len(text) * 4 <= most_bytes:
        return text
    raw = text.encode("utf-8", "replace")
    return text if len(raw) <= most_bytes else raw[: most_bytes - 4].decode("utf-8", "ignore") + "…"


def _rules(rules: list[RuleResult], masker: Masker) -> list[RuleResult]:
    return [
        structs.replace(
            rule,
            label=masker.mask_text(rule.label)[:_NAME_CHARACTERS],
            error=None if rule.error is None else messages.shortened(masker.mask_text(rule.error)),
        )
        for rule in rules[:_MOST_RULES]
    ]


def _annotation(note: Annotation, masker: Masker) -> Annotation:
    return structs.replace(
        note,
        level=note.level[:_NAME_CHARACTERS],
        message=masker.mask_text(note.message)[:MOST_CHARACTERS],
        file=None if note.file is None else masker.mask_text(note.file)[:_NAME_CHARACTERS],
    )
