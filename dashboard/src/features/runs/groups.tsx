import { UnstyledButton } from "@mantine/core";
import { useState } from "react";
import type { RunGroup } from "@/shared/api/types";
import { plural, shortRef, shortSha } from "@/shared/format";
import { isStatus, statusLook } from "@/shared/status";
import { BranchIcon, ChevronRightIcon } from "@/shared/ui/icons";
import { StatusIcon } from "@/shared/ui/status";
import classes from "./runs.module.css";
import type { RunSearch } from "./search";
import { RunCards, RunTable } from "./table";

interface GroupsProps {
  orgId: string;
  groups: readonly RunGroup[];
  hidden: ReadonlySet<string>;
  search: RunSearch;
  cards: boolean;
}

export function CommitGroups({ groups, ...rest }: GroupsProps) {
  return (
    <div className={classes.groups}>
      {groups.map((group) => (
        <CommitGroup key={`${group.repository}@${group.sha}`} group={group} {...rest} />
      ))}
    </div>
  );
}

function CommitGroup({
  group,
  orgId,
  hidden,
  search,
  cards,
}: Omit<GroupsProps, "groups"> & { group: RunGroup }) {
  const [open, setOpen] = useState(true);
  const label = `Runs of commit ${shortSha(group.sha)}`;
  return (
    <section className={classes.group} data-sha={group.sha}>
      <UnstyledButton className={classes.groupHead} onClick={() => setOpen(!open)} aria-expanded={open}>
        <ChevronRightIcon size={14} className={classes.chevron} data-open={open || undefined} />
        <span className={`mono ${classes.sha}`}>{shortSha(group.sha) || "no commit"}</span>
        <span className={classes.groupMessage}>
          {group.commitMessage?.split("\n", 1)[0] ?? group.repository}
        </span>
        <span className={classes.groupRef}>
          <BranchIcon size={13} />
          <span className="truncate">{shortRef(group.ref)}</span>
        </span>
        <StatusDots statuses={group.statuses} />
      </UnstyledButton>
      {open ? (
        cards ? (
          <RunCards orgId={orgId} runs={group.runs} label={label} />
        ) : (
          // The head names the commit already.
          <RunTable
            orgId={orgId}
            runs={group.runs}
            hidden={new Set([...hidden, "commit"])}
            search={search}
            label={label}
          />
        )
      ) : null}
    </section>
  );
}

function StatusDots({ statuses }: { statuses: Record<string, number> }) {
  const entries = Object.entries(statuses);
  const words = entries
    .map(
      ([status, count]) => `${count} ${isStatus(status) ? statusLook(status).label.toLowerCase() : status}`,
    )
    .join(", ");
  const total = entries.reduce((sum, [, count]) => sum + count, 0);
  return (
    <span
      className={classes.dots}
      title={words}
      role="img"
      aria-label={`${plural(total, "run")}: ${words}`}
    >
      {entries.map(([status, count]) =>
        isStatus(status) ? (
          <span key={status} className={classes.dot}>
            <StatusIcon status={status} size={14} />
            {count > 1 ? count : null}
          </span>
        ) : null,
      )}
    </span>
  );
}
