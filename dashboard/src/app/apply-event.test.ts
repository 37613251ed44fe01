import { QueryClient } from "@tanstack/react-query";
import { beforeEach, describe, expect, it } from "vitest";
import { LogHub } from "@/features/logs/hub";
import { runDetailKey } from "@/features/run/queries";
import { arrivalsQuery, runListQuery } from "@/features/runs/queries";
import { linkQuery } from "@/shared/live/link";
import { eventsSince, markEvents } from "@/shared/live/recent";
import { aChange, aDetail, aJob, aList, aRun, ORG } from "@/shared/testing/builders";
import { applyEvent } from "./apply-event";

let cache: QueryClient;
let logs: LogHub;
const listKey = runListQuery(ORG, {}).queryKey;
const detailKey = runDetailKey(ORG, "run-1");

beforeEach(() => {
  cache = new QueryClient({ defaultOptions: { queries: { gcTime: Number.POSITIVE_INFINITY } } });
  logs = new LogHub(
    () => Promise.reject(new Error("nothing reads here")),
    () => () => {},
  );
});

describe("run.changed", () => {
  it("reaches every list and the detail that show the run", () => {
    cache.setQueryData(listKey, aList(aRun()));
    cache.setQueryData(detailKey, aDetail());
    applyEvent(cache, logs, aChange({ run: aRun({ status: "success" }) }));
    expect(cache.getQueryData(listKey)?.runs[0]?.status).toBe("success");
    expect(cache.getQueryData<ReturnType<typeof aDetail>>(detailKey)?.run.status).toBe("success");
  });

  it("announces new runs without moving the list", () => {
    cache.setQueryData(listKey, aList(aRun()));
    applyEvent(cache, logs, aChange({ runId: "run-2", isNew: true, run: aRun({ runId: "run-2" }) }));
    expect(cache.getQueryData(listKey)?.runs).toHaveLength(1);
    expect(cache.getQueryData(arrivalsQuery(ORG).queryKey)?.map((run) => run.runId)).toEqual(["run-2"]);
  });

  it("shows a job that joins the run, and asks for what the event does not say of it", () => {
    cache.setQueryData(detailKey, aDetail());
    applyEvent(cache, logs, aChange({ jobs: [aJob({ status: "success" })] }));
    expect(cache.getQueryState(detailKey)?.isInvalidated).toBe(false);
    applyEvent(cache, logs, aChange({ jobs: [aJob({ jobName: "page-1" })] }));
    expect(cache.getQueryData<ReturnType<typeof aDetail>>(detailKey)?.jobs).toHaveLength(2);
    expect(cache.getQueryState(detailKey)?.isInvalidated).toBe(true);
  });

  it("is kept for answers that were under way", () => {
    const mark = markEvents();
    applyEvent(cache, logs, aChange({ run: aRun({ status: "failed" }) }));
    applyEvent(cache, logs, aChange({ orgId: "other", run: aRun() }));
    expect(eventsSince(mark, ORG).map((event) => event.run?.status)).toEqual(["failed"]);
  });

  it("puts nothing into the cache that nobody asked for", () => {
    applyEvent(cache, logs, aChange({ run: aRun() }));
    expect(cache.getQueryData(detailKey)).toBeUndefined();
    expect(cache.getQueryData(listKey)).toBeUndefined();
  });
});

describe("the orchestrator's link", () => {
  const status = (connected: boolean) =>
    ({ type: "orchestrator.status", orgId: ORG, seq: 1, connected, clusterName: "default" }) as const;
  const stale = () => cache.getQueryState(detailKey)?.isInvalidated;

  it("is known, and its return makes everything be asked again", () => {
    cache.setQueryData(detailKey, aDetail());
    applyEvent(cache, logs, status(false));
    expect(cache.getQueryData(linkQuery(ORG).queryKey)).toEqual({
      connected: false,
      clusterName: "default",
    });
    expect(stale()).toBe(false);
    applyEvent(cache, logs, status(true));
    expect(stale()).toBe(true);
  });

  it("is told with the first subscription, which asks once more for what was missed before it", () => {
    cache.setQueryData(detailKey, aDetail());
    const subscribed = {
      type: "status.subscribed",
      orgId: ORG,
      seq: 7,
      orchestratorConnected: true,
    } as const;
    applyEvent(cache, logs, subscribed);
    expect(cache.getQueryData(linkQuery(ORG).queryKey)?.connected).toBe(true);
    expect(stale()).toBe(true);
    // A reconnect replays what was missed: nothing has to be asked again.
    cache.setQueryData(detailKey, aDetail());
    applyEvent(cache, logs, subscribed);
    expect(stale()).toBe(false);
  });

  it("is told with a later subscription, which asks again for what failed meanwhile", async () => {
    applyEvent(cache, logs, status(true));
    cache.setQueryData(detailKey, aDetail());
    await cache
      .fetchQuery({
        queryKey: detailKey,
        queryFn: () => Promise.reject(new Error("unreachable")),
        retry: false,
        staleTime: 0,
      })
      .catch(() => {});
    const { type, orgId, seq } = { type: "status.subscribed", orgId: ORG, seq: 9 } as const;
    applyEvent(cache, logs, { type, orgId, seq, orchestratorConnected: true });
    expect(stale()).toBe(true);
  });
});

it("resync asks for the whole org again, and for no other", () => {
  cache.setQueryData(detailKey, aDetail());
  cache.setQueryData(runDetailKey("other", "run-1"), aDetail());
  applyEvent(cache, logs, { type: "resync", orgId: ORG, seq: 9 });
  expect(cache.getQueryState(detailKey)?.isInvalidated).toBe(true);
  expect(cache.getQueryState(runDetailKey("other", "run-1"))?.isInvalidated).toBe(false);
});
