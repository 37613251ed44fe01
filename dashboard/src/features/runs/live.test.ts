import { describe, expect, it } from "vitest";
import { aList, aRun } from "@/shared/testing/builders";
import { addArrival, patchGroups, patchList } from "./live";

describe("a changed run in the list", () => {
  const running = aRun({ runId: "a" });
  const done = aRun({ runId: "a", status: "success", durationMs: 10 });
  const list = aList(aRun({ runId: "b" }), running);

  it("is replaced where it stands", () => {
    const patched = patchList(list, done);
    expect(patched.runs.map((run) => run.runId)).toEqual(["b", "a"]);
    expect(patched.runs[1]?.durationMs).toBe(10);
  });

  it("leaves lists alone that do not show it", () => {
    expect(patchList(list, aRun({ runId: "c" }))).toBe(list);
  });

  it("never becomes unfinished again", () => {
    const finished = patchList(list, done);
    expect(patchList(finished, running)).toBe(finished);
  });
});

it("recounts the statuses of its commit group", () => {
  const groups = {
    groups: [
      {
        sha: "a",
        commitMessage: null,
        repository: "r",
        ref: "main",
        statuses: { running: 2 },
        runs: [aRun({ runId: "a" }), aRun({ runId: "b" })],
      },
    ],
    total: 1,
    page: 1,
    pageSize: 20,
    hasMore: false,
  };
  const patched = patchGroups(groups, aRun({ runId: "a", status: "failed" }));
  expect(patched.groups[0]?.statuses).toEqual({ failed: 1, running: 1 });
});

it("keeps arrivals newest first, once each", () => {
  const first = addArrival([], aRun({ runId: "a" }));
  const second = addArrival(first, aRun({ runId: "b" }));
  expect(second.map((run) => run.runId)).toEqual(["b", "a"]);
  const changed = addArrival(second, aRun({ runId: "a", status: "success" }));
  expect(changed.map((run) => [run.runId, run.status])).toEqual([
    ["b", "running"],
    ["a", "success"],
  ]);
});
