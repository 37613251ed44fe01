import { Tooltip } from "@mantine/core";
import { triggerLabel } from "@/shared/status";
import {
  BellIcon,
  BoltIcon,
  BranchIcon,
  CalendarIcon,
  ChainIcon,
  CommentIcon,
  ForkIcon,
  HandIcon,
  type IconComponent,
  LifecycleIcon,
  PlayIcon,
  PullRequestIcon,
  PushIcon,
  RepeatIcon,
  ReviewIcon,
  RocketIcon,
  SignalIcon,
  StarIcon,
  TagIcon,
  TrashIcon,
  WebhookIcon,
  WorkflowIcon,
} from "./icons";

const ICONS: Record<string, IconComponent> = {
  push: PushIcon,
  pr: PullRequestIcon,
  pull_request: PullRequestIcon,
  tag: TagIcon,
  create: BranchIcon,
  delete: TrashIcon,
  comment: CommentIcon,
  review: ReviewIcon,
  review_comment: ReviewIcon,
  release: RocketIcon,
  status: SignalIcon,
  workflow_run: WorkflowIcon,
  fork: ForkIcon,
  star: StarIcon,
  watch: BellIcon,
  dispatch: PlayIcon,
  schedule: CalendarIcon,
  manual: HandIcon,
  manual_schedule: HandIcon,
  kici_event: BoltIcon,
  workflow_complete: ChainIcon,
  job_complete: ChainIcon,
  lifecycle: LifecycleIcon,
  rerun: RepeatIcon,
};

export function triggerIcon(event: string): IconComponent {
  return ICONS[event] ?? WebhookIcon;
}

/** What started the run; the sentence why in its tooltip. */
export function TriggerIcon({ event, reason }: { event: string; reason?: string | null }) {
  const Icon = triggerIcon(event);
  const label = triggerLabel(event);
  return (
    <Tooltip label={reason ? `${label}: ${reason}` : label}>
      <span style={{ display: "inline-flex", verticalAlign: "middle", color: "var(--kici-dim)" }}>
        <Icon title={label} />
      </span>
    </Tooltip>
  );
}
