import { Tooltip } from "@mantine/core";
import { triggerLabel } from "@/shared/status";
import {
  BranchIcon,
  ClockIcon,
  HandIcon,
  type IconComponent,
  PullRequestIcon,
  PushIcon,
  RepeatIcon,
  TagIcon,
  TrashIcon,
  WebhookIcon,
} from "./icons";

const ICONS: Record<string, IconComponent> = {
  push: PushIcon,
  pull_request: PullRequestIcon,
  tag: TagIcon,
  create: BranchIcon,
  delete: TrashIcon,
  schedule: ClockIcon,
  rerun: RepeatIcon,
  dispatch: HandIcon,
  manual: HandIcon,
};

/** What started the run; the sentence why in its tooltip. */
export function TriggerIcon({ event, reason }: { event: string; reason?: string | null }) {
  const Icon = ICONS[event] ?? WebhookIcon;
  const label = triggerLabel(event);
  return (
    <Tooltip label={reason ? `${label}: ${reason}` : label}>
      <span style={{ display: "inline-flex", verticalAlign: "middle", color: "var(--kici-dim)" }}>
        <Icon title={label} />
      </span>
    </Tooltip>
  );
}
