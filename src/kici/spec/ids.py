"""Identifier types. All are strings on every wire; rows made by us carry UUIDv7 (OR-2)."""

from typing import NewType

OrgId = NewType("OrgId", str)  # org_<12>
RunId = NewType("RunId", str)  # UUIDv7
JobId = NewType("JobId", str)  # UUIDv7
AgentId = NewType("AgentId", str)
SourceId = NewType("SourceId", str)  # UUIDv7
RoutingKey = NewType("RoutingKey", str)  # generic:<orgId>:<sourceId>
DeliveryId = NewType("DeliveryId", str)
RequestId = NewType("RequestId", str)  # UUIDv4 made at ingress
UserId = NewType("UserId", str)  # UUIDv7

# Step indexes that are not author steps (AG-45).
PREPARE_STEP = -1
INIT_STEPS = 1_000_000
HOOK_STEPS = 2_000_000
CACHE_STEPS = 3_000_000
OUTSIDE_STEP = 4_000_000  # what author code prints between and after its steps
