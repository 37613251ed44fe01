import { describe, expect, it } from "vitest";
import { aJobView, aStep } from "@/shared/testing/builders";
import { edges, reach } from "./graph-model";
import { initialSelection } from "./selection";
import { span, ticks } from "./timeline-model";
import { stepBadge, treeRows } from "./tree-model";

describe("what a run page begins with", () => {
  it("is the failed step of the first failed job", () => {
    const jobs = [
      aJobView({ jobName: "a", status: "success" }),
      aJobView({
        jobName: "b",
        status: "failed",
        steps: [aStep({ status: "success" }), aStep({ stepIndex: 1, status: "failed" })],
      }),
    ];
    expect(initialSelection(jobs)).toEqual({ jobId: "job-b", stepIndex: 1 });
  });

  it("is the running job of a live run, whole", () => {
    const jobs = [aJobView({ jobName: "a", status: "success" }), aJobView({ jobName: "b" })];
    expect(initialSelection(jobs)).toEqual({ jobId: "job-b", stepIndex: null });
  });

  it("is the first job of a good run, and nothing while there are none", () => {
    expect(initialSelection([aJobView({ status: "success" })])?.jobId).toBe("job-test");
    expect(initialSelection([])).toBeNull();
  });
});

describe("the job tree", () => {
  const variant = (label: string, status: "success" | "failed") =>
    aJobView({
      jobId: `job-${label}`,
      jobName: `test (${label})`,
      displayName: `test (${label})`,
      baseJobName: "test",
      variantKind: "matrix",
      variantLabel: label,
      status,
      steps: [aStep()],
    });

  it("puts variants under a parent with the worst of their statuses", () => {
    const rows = treeRows([variant("3.11", "success"), variant("3.12", "failed")], (key) =>
      key.startsWith("group:"),
    );
    expect(rows.map((row) => [row.kind, row.level, row.label])).toEqual([
      ["group", 1, "test (2 variants)"],
      ["job", 2, "test (3.11)"],
      ["job", 2, "test (3.12)"],
    ]);
    expect(rows[0]?.kind === "group" && rows[0].status).toBe("failed");
  });

  it("shows steps of open jobs only", () => {
    const jobs = [aJobView({ steps: [aStep(), aStep({ stepIndex: 1 })] })];
    expect(treeRows(jobs, () => false)).toHaveLength(1);
    expect(treeRows(jobs, () => true).map((row) => row.kind)).toEqual(["job", "step", "step"]);
  });

  it("names setup jobs for people", () => {
    const rows = treeRows(
      ["__init__ci", "__build__ci", "__dynamic__ci"].map((jobName) => aJobView({ jobName })),
      () => false,
    );
    expect(rows.map((row) => row.label)).toEqual(["Init: ci", "Build: ci", "Evaluate: ci"]);
  });

  it("marks hooks and cache steps", () => {
    expect(stepBadge(aStep({ stepType: "hook:on_cancel" }))).toBe("on cancel");
    expect(stepBadge(aStep({ stepType: "cache:restore" }))).toBe("cache");
    expect(stepBadge(aStep())).toBeNull();
  });
});

describe("the graph", () => {
  const jobs = [
    aJobView({ jobName: "lint" }),
    aJobView({ jobId: "t1", jobName: "test (a)", baseJobName: "test" }),
    aJobView({ jobId: "t2", jobName: "test (b)", baseJobName: "test" }),
    aJobView({
      jobName: "deploy",
      needs: [
        { upstreamName: "test", runOn: ["success"] },
        { upstreamName: "lint", runOn: ["success", "failed"] },
      ],
    }),
  ];

  it("has an edge from each variant, and knows which let failures pass", () => {
    expect(edges(jobs)).toEqual([
      { from: "t1", to: "job-deploy", onFailure: false },
      { from: "t2", to: "job-deploy", onFailure: false },
      { from: "job-lint", to: "job-deploy", onFailure: true },
    ]);
  });

  it("finds what hangs together, but not the siblings", () => {
    expect(reach(edges(jobs), "t1")).toEqual(new Set(["t1", "job-deploy"]));
    expect(reach(edges(jobs), "job-deploy").size).toBe(4);
  });
});

describe("the timeline", () => {
  it("ends open bars now", () => {
    expect(span(aJobView({ startedAt: "1970-01-01T00:00:01Z" }), 5000)).toEqual({
      queued: null,
      started: 1000,
      ended: 5000,
    });
  });

  it.each([900, 12_000, 74_000, 3_600_000, 90_000_000])("marks %i ms at a few round distances", (ms) => {
    const marks = ticks(ms);
    expect(marks[0]).toBe(0);
    expect(marks.length).toBeGreaterThanOrEqual(3);
    expect(marks.length).toBeLessThanOrEqual(8);
  });
});
