/** The run as a graph: who waits for whom. Loaded only when its tab is opened. */
import dagre from "@dagrejs/dagre";
import { useComputedColorScheme, VisuallyHidden } from "@mantine/core";
import {
  Background,
  Controls,
  type Edge,
  Handle,
  MarkerType,
  type Node,
  type NodeProps,
  Position,
  ReactFlow,
  type ReactFlowInstance,
} from "@xyflow/react";
import "@xyflow/react/dist/style.css";
import { useEffect, useMemo, useRef, useState } from "react";
import type { JobView } from "@/shared/api/types";
import { at } from "@/shared/format";
import { isActive, jobDisplay, statusLook } from "@/shared/status";
import { StatusIcon } from "@/shared/ui/status";
import { Duration } from "@/shared/ui/time";
import { edges, type Place, reach, settle } from "./graph-model";
import classes from "./run.module.css";
import type { Selection } from "./selection";
import { isSetupJob, jobLabel } from "./tree-model";

const WIDTH = 208;
const HEIGHT = 54;
const FIT = { maxZoom: 1.1, padding: 0.15 };

interface JobData extends Record<string, unknown> {
  job: JobView;
  dimmed: boolean;
  selected: boolean;
}
type JobNode = Node<JobData, "job">;

const NODE_TYPES = { job: JobBox };

function JobBox({ data: { job, dimmed, selected } }: NodeProps<JobNode>) {
  const status = jobDisplay(job);
  const { tone, label } = statusLook(status);
  return (
    <div
      className={classes.node}
      data-tone={tone}
      data-dimmed={dimmed || undefined}
      data-selected={selected || undefined}
      data-skipped={status === "skipped" || undefined}
      data-running={isActive(status) || undefined}
      data-setup={isSetupJob(job) || undefined}
    >
      <Handle type="target" position={Position.Left} isConnectable={false} />
      <span className={classes.nodeName} title={jobLabel(job)}>
        {jobLabel(job)}
      </span>
      <span className={classes.nodeStatus}>
        <StatusIcon status={status} size={13} />
        {label}
        <span className={classes.nodeTime}>
          <Duration
            startedAt={at(job.startedAt)}
            durationMs={job.durationMs}
            ticking={isActive(job.status)}
            fallback=""
          />
        </span>
      </span>
      <Handle type="source" position={Position.Right} isConnectable={false} />
    </div>
  );
}

interface GraphProps {
  jobs: readonly JobView[];
  selection: Selection | null;
  onSelect: (selection: Selection) => void;
}

export function Graph({ jobs, selection, onSelect }: GraphProps) {
  const scheme = useComputedColorScheme();
  const [hovered, setHovered] = useState<string | null>(null);
  const shape = jobs
    .map((job) => `${job.jobId}<${job.needs.map((need) => need.upstreamName).join("+")}`)
    .join(",");
  // biome-ignore lint/correctness/useExhaustiveDependencies: statuses do not move nodes
  const links = useMemo(() => edges(jobs), [shape]);
  // Jobs that join a run in progress must not shake what one looks at.
  const settled = useRef<ReadonlyMap<string, Place>>(new Map());
  // biome-ignore lint/correctness/useExhaustiveDependencies: as above
  const places = useMemo(() => {
    const graph = new dagre.graphlib.Graph();
    graph.setGraph({ rankdir: "LR", nodesep: 18, ranksep: 64 });
    graph.setDefaultEdgeLabel(() => ({}));
    for (const job of jobs) graph.setNode(job.jobId, { width: WIDTH, height: HEIGHT });
    for (const link of links) graph.setEdge(link.from, link.to);
    dagre.layout(graph);
    const fresh = new Map(
      jobs.map((job) => {
        const { x, y } = graph.node(job.jobId) as Place;
        return [job.jobId, { x: x - WIDTH / 2, y: y - HEIGHT / 2 }];
      }),
    );
    settled.current = settle(settled.current, fresh);
    return settled.current;
  }, [shape]);
  const flowRef = useRef<ReactFlowInstance<JobNode> | null>(null);
  const moved = useRef(false);
  // biome-ignore lint/correctness/useExhaustiveDependencies: `shape` is the trigger
  useEffect(() => {
    if (!moved.current) void flowRef.current?.fitView({ ...FIT, duration: 300 });
  }, [shape]);
  const related = useMemo(() => (hovered ? reach(links, hovered) : null), [links, hovered]);

  const nodes: JobNode[] = jobs.map((job) => ({
    id: job.jobId,
    type: "job",
    position: places.get(job.jobId) ?? { x: 0, y: 0 },
    width: WIDTH,
    height: HEIGHT,
    draggable: false,
    ariaLabel: `${jobLabel(job)}, ${statusLook(jobDisplay(job)).label}`,
    data: {
      job,
      dimmed: related !== null && !related.has(job.jobId),
      selected: selection?.jobId === job.jobId,
    },
  }));
  const flowEdges: Edge[] = links.map((link) => {
    const lit = related === null || (related.has(link.from) && related.has(link.to));
    const color = link.onFailure ? "var(--tone-running-solid)" : "var(--kici-faint)";
    return {
      id: `${link.from}>${link.to}`,
      source: link.from,
      target: link.to,
      style: {
        stroke: color,
        strokeWidth: 1.4,
        opacity: lit ? 1 : 0.2,
        strokeDasharray: link.onFailure ? "5 4" : undefined,
      },
      markerEnd: { type: MarkerType.ArrowClosed, color, width: 14, height: 14 },
    };
  });
  return (
    <div className={classes.graph} data-testid="graph">
      <ReactFlow
        nodes={nodes}
        edges={flowEdges}
        nodeTypes={NODE_TYPES}
        colorMode={scheme}
        fitView
        onInit={(flow) => {
          flowRef.current = flow;
        }}
        onMoveStart={(event) => {
          if (event) moved.current = true; // by hand: from now on the view is theirs
        }}
        fitViewOptions={FIT}
        minZoom={0.1}
        nodesConnectable={false}
        edgesFocusable={false}
        proOptions={{ hideAttribution: true }}
        onNodeClick={(_, node) => onSelect({ jobId: node.id, stepIndex: null })}
        onNodeMouseEnter={(_, node) => setHovered(node.id)}
        onNodeMouseLeave={() => setHovered(null)}
      >
        <Background gap={22} size={1} color="var(--kici-border-strong)" />
        <Controls showInteractive={false} position="bottom-right" />
      </ReactFlow>
      <VisuallyHidden>
        <ul>
          {jobs.map((job) => (
            <li key={job.jobId}>
              {jobLabel(job)}: {statusLook(jobDisplay(job)).label}
              {job.needs.length > 0
                ? `, after ${job.needs.map((need) => need.upstreamName).join(", ")}`
                : ""}
            </li>
          ))}
        </ul>
      </VisuallyHidden>
    </div>
  );
}
