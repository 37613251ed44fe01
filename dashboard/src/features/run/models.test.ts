import { describe, expect, it } from "vitest";
import { aJobView, aStep } from "@/shared/testing/builders";
import { edges, reach, settle } from "./graph-model";
import { initialSelection } from "./selection";
import { badgeOf, inOrder } from "./step-kinds";
import { span, ticks } from "./timeline-model";
import { treeRows } from "./tree-model";

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

  it("puts what a generator made under its group, as it arrives", () => {
    const evaluate = aJobView({
      jobId: "g",
      jobName: "__dynamic__ci__0",
      displayName: "Evaluate: pages",
      kind: "dynamic",
      position: 1,
    });
    const page = (name: string, variant: string | null = null) =>
      aJobView({
        jobId: `${name}${variant ?? ""}`,
        jobName: variant ? `${name} (${variant})` : name,
        baseJobName: name,
        position: 1,
        variantKind: variant ? "matrix" : null,
      });
    const shown = (...made: ReturnType<typeof page>[]) =>
      treeRows([aJobView({ jobName: "lint" }), evaluate, ...made], (key) => key.startsWith("group:")).map(
        (row) => `${row.level} ${row.label}`,
      );
    expect(shown()).toEqual(["1 lint", "1 Evaluate: pages"]);
    expect(shown(page("a"), page("b", "x"), page("b", "y"))).toEqual([
      "1 lint",
      "1 Evaluate: pages",
      "1 pages (3 jobs)",
      "2 a",
      "2 b (2 variants)",
      "3 b (x)",
      "3 b (y)",
    ]);
  });

  it("holds steps of a parallel group together", () => {
    const step = (stepIndex: number, groupId: string | null) => aStep({ stepIndex, groupId });
    const [, ...steps] = treeRows(
      [aJobView({ steps: [step(0, null), step(1, "checks"), step(2, "checks"), step(3, null)] })],
      () => true,
    );
    expect(steps.map((row) => row.kind === "step" && row.band && [row.band.first, row.band.last])).toEqual([
      null,
      [true, false],
      [false, true],
      null,
    ]);
    expect(steps[1]?.kind === "step" && steps[1].note).toBe("in parallel: checks");
  });

  it("says in one line why something was skipped or waits", () => {
    const no = { label: "main only", passed: false, durationMs: 0, error: null };
    const skipped = aStep({ status: "skipped", rules: [no] });
    const [row, step] = treeRows(
      [aJobView({ status: "queued", waitingReason: "Waiting for deploy (1 ahead)", steps: [skipped] })],
      () => true,
    );
    expect(row?.kind === "job" && row.note).toBe("Waiting for deploy (1 ahead)");
    expect(step?.kind === "step" && step.note).toBe("rule 'main only' said no");
    const [unmet] = treeRows(
      [aJobView({ status: "skipped", errorMessage: "upstream_unmet: build (timed_out_stale)" })],
      () => false,
    );
    expect(unmet?.kind === "job" && unmet.note).toBe("needs build, which ended as timed out stale");
  });
});

describe("the rows of a job", () => {
  it("have a badge of their own for hooks, caches and checks", () => {
    const badge = (stepType: string, checkOutcome: string | null = null) => {
      const found = badgeOf(aStep({ stepType, checkOutcome }));
      return found && [found.kind, found.text, found.tone];
    };
    expect(badge("hook:onCancel")).toEqual(["hook", "hook", "held"]);
    expect(badge("cache:restore", "hit")).toEqual(["cache", "hit", "success"]);
    expect(badge("cache:restore", "miss")).toEqual(["cache", "miss", "queued"]);
    expect(badge("step", "would_change")).toEqual(["check", "would change", "held"]);
    expect(badge("step")).toBeNull();
  });

  it("stand in the order in which they ran", () => {
    const row = (stepIndex: number, stepType: string, second: number | null) =>
      aStep({ stepIndex, stepType, startedAt: second === null ? null : `2030-01-01T12:00:0${second}Z` });
    const rows = [
      row(-1, "prepare", 0),
      row(0, "step", 2),
      row(1, "step", 4),
      row(2, "step", null),
      row(1_000_000, "init", 1),
      row(2_000_000, "hook:cleanup", 3),
      row(3_000_000, "cache:restore", 2),
      row(3_000_001, "cache:save", 5),
    ];
    expect(inOrder(rows).map((each) => each.stepIndex)).toEqual([
      -1, 1_000_000, 3_000_000, 0, 2_000_000, 1, 3_000_001, 2,
    ]);
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

  it("leaves out what other edges say already: a generator's, and those to the run's hooks", () => {
    const pages = [
      aJobView({ jobName: "gen", kind: "dynamic" }),
      aJobView({ jobName: "page", needs: [{ upstreamName: "gen", runOn: ["success"] }] }),
      aJobView({
        jobName: "total",
        needs: ["gen", "page"].map((upstreamName) => ({ upstreamName, runOn: ["success"] })),
      }),
      aJobView({
        jobName: "hooks",
        kind: "hooks",
        needs: ["gen", "page", "total"].map((upstreamName) => ({
          upstreamName,
          runOn: ["success", "failed"],
        })),
      }),
    ];
    expect(edges(pages).map((edge) => `${edge.from}>${edge.to}`)).toEqual([
      "job-gen>job-page",
      "job-page>job-total",
      "job-total>job-hooks",
    ]);
  });

  it("leaves out that who waits for others waits for the build, too", () => {
    const all = ["lint", "test"].map((jobName, index) =>
      aJobView({
        jobName,
        needs: ["built", "lint"]
          .slice(0, index + 1)
          .map((upstreamName) => ({ upstreamName, runOn: ["skipped", "success"] })),
      }),
    );
    const links = edges([aJobView({ jobName: "built", kind: "build" }), ...all]);
    expect(links.map((edge) => `${edge.from}>${edge.to}`)).toEqual([
      "job-built>job-lint",
      "job-lint>job-test",
    ]);
    expect(links.some((edge) => edge.onFailure)).toBe(false);
  });

  it("keeps what is there in its place when nodes join", () => {
    const before = new Map([["a", { x: 0, y: 40 }]]);
    const after = new Map([
      ["a", { x: 0, y: 0 }],
      ["b", { x: 0, y: 72 }],
    ]);
    expect(settle(before, after)).toEqual(
      new Map([
        ["a", { x: 0, y: 40 }],
        ["b", { x: 0, y: 112 }],
      ]),
    );
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
