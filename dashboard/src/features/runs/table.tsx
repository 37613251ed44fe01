import { UnstyledButton, VisuallyHidden } from "@mantine/core";
import type { CSSProperties, ReactNode } from "react";
import { SortIcon } from "@/shared/ui/icons";
import { TriggerIcon } from "@/shared/ui/trigger";
import type { RunProjection } from "@/ws.gen";
import { RunBranch, RunCommit, RunDuration, RunLink, RunStatus, RunTime } from "./cells";
import classes from "./runs.module.css";
import type { RunSearch, SortKey } from "./search";

interface Column {
  id: string;
  label: string;
  sort: SortKey;
  width: string;
  cell: (run: RunProjection, orgId: string) => ReactNode;
}

export const COLUMNS: readonly Column[] = [
  {
    id: "status",
    label: "Status",
    sort: "status",
    width: "124px",
    cell: (run) => <RunStatus run={run} />,
  },
  {
    id: "trigger",
    label: "Trigger",
    sort: "triggerEvent",
    width: "74px",
    cell: (run) => <TriggerIcon event={run.triggerEvent} reason={run.triggerReason} />,
  },
  {
    id: "workflow",
    label: "Workflow",
    sort: "workflowName",
    width: "21%",
    cell: (run, orgId) => <RunLink orgId={orgId} run={run} />,
  },
  { id: "branch", label: "Branch", sort: "ref", width: "15%", cell: (run) => <RunBranch run={run} /> },
  {
    id: "commit",
    label: "Commit",
    sort: "sha",
    width: "auto",
    cell: (run, orgId) => <RunCommit orgId={orgId} run={run} />,
  },
  {
    id: "duration",
    label: "Duration",
    sort: "durationMs",
    width: "92px",
    cell: (run) => <RunDuration run={run} />,
  },
  { id: "time", label: "Time", sort: "createdAt", width: "132px", cell: (run) => <RunTime run={run} /> },
];

interface TableProps {
  orgId: string;
  runs: readonly RunProjection[];
  hidden: ReadonlySet<string>;
  search: RunSearch;
  /** Absent where sorting has no meaning. */
  onSort?: (sort: SortKey, dir: "asc" | "desc") => void;
  label: string;
}

export function RunTable({ orgId, runs, hidden, search, onSort, label }: TableProps) {
  const columns = COLUMNS.filter((column) => !hidden.has(column.id));
  // Somebody has to take the room that is left.
  const roomy =
    columns.find((column) => column.width === "auto") ??
    columns.find((column) => column.id === "workflow") ??
    columns.at(-1);
  const sort = search.sort ?? "createdAt";
  const dir = search.dir ?? "desc";
  return (
    <table className={classes.table} aria-label={label}>
      <colgroup>
        {columns.map((column) => (
          <col
            key={column.id}
            style={{ "--column-width": column === roomy ? "auto" : column.width } as CSSProperties}
            data-column={column.id}
          />
        ))}
      </colgroup>
      <thead>
        <tr>
          {columns.map((column) => {
            const sorted = onSort && column.sort === sort;
            return (
              <th
                key={column.id}
                scope="col"
                aria-sort={sorted ? (dir === "asc" ? "ascending" : "descending") : undefined}
              >
                {onSort ? (
                  <UnstyledButton
                    className={classes.sort}
                    onClick={() => onSort(column.sort, sorted && dir === "desc" ? "asc" : "desc")}
                  >
                    {column.label}
                    <SortIcon size={12} data-dir={sorted ? dir : "none"} />
                  </UnstyledButton>
                ) : (
                  <VisuallyHidden>{column.label}</VisuallyHidden>
                )}
              </th>
            );
          })}
        </tr>
      </thead>
      <tbody>
        {runs.map((run) => (
          <tr key={run.runId} className={classes.row} data-run={run.runId} data-status={run.displayStatus}>
            {columns.map((column) => (
              <td key={column.id} data-column={column.id}>
                {column.cell(run, orgId)}
              </td>
            ))}
          </tr>
        ))}
      </tbody>
    </table>
  );
}

/** The same data for a narrow screen. */
export function RunCards({ orgId, runs, label }: Pick<TableProps, "orgId" | "runs" | "label">) {
  return (
    <ul className={classes.cards} aria-label={label}>
      {runs.map((run) => (
        <li key={run.runId} className={classes.card} data-run={run.runId} data-status={run.displayStatus}>
          <div className={classes.cardTop}>
            <RunStatus run={run} />
            <span className={classes.cardTime}>
              <RunDuration run={run} />
              <span aria-hidden="true">·</span>
              <RunTime run={run} />
            </span>
          </div>
          <div className={classes.cardTitle}>
            <TriggerIcon event={run.triggerEvent} reason={run.triggerReason} />
            <RunLink orgId={orgId} run={run} />
          </div>
          <div className={classes.cardMeta}>
            <RunBranch run={run} />
            <RunCommit orgId={orgId} run={run} />
          </div>
        </li>
      ))}
    </ul>
  );
}
