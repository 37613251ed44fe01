/** Whole objects for tests, of which a test names only what it is about. */
import type { JobView, RunDetailView, RunList, RunProjection, StepProjection } from "@/shared/api/types";
import type { JobProjection, RunChanged } from "@/ws.gen";

export const ORG = "org_test";

export function aRun(changes: Partial<RunProjection> = {}): RunProjection {
  const status = changes.status ?? "running";
  return {
    runId: "run-1",
    workflowName: "ci",
    workflowFile: ".kici/workflows/ci.py",
    status,
    displayStatus: status,
    repoIdentifier: "acme/shop",
    repoUrl: null,
    provider: "local",
    ref: "refs/heads/main",
    branch: "main",
    sha: "3f9c2b71e0aa4d5d8c6b1f2a9d7e4c3b2a190f8e",
    commitMessage: "Retry refunds once",
    triggerEvent: "push",
    triggerReason: "push to main",
    source: { routingKey: "local:org:shop", name: "shop", subtype: "local", provider: "local" },
    requestId: "request-1",
    deliveryId: null,
    triggeredBy: "ada",
    cancelledBy: null,
    parentRunId: null,
    failureReason: null,
    initFailure: null,
    timeoutReason: null,
    waitingReason: null,
    concurrencyGroup: null,
    checkMode: "apply",
    isTestRun: false,
    rules: [],
    inputs: {},
    jobCount: 1,
    hasPayload: true,
    logBytes: 0,
    createdAt: "2030-01-01T12:00:00Z",
    startedAt: null,
    completedAt: null,
    durationMs: null,
    ...changes,
  };
}

export function aJob(changes: Partial<JobProjection> = {}): JobProjection {
  const name = changes.jobName ?? "test";
  return {
    runId: "run-1",
    jobId: `job-${name}`,
    jobName: name,
    displayName: name,
    baseJobName: name,
    variantKind: null,
    variantLabel: null,
    matrixValues: null,
    position: 0,
    kind: "job",
    rules: [],
    secretOutputKeys: [],
    status: "running",
    attempt: 1,
    waitingReason: null,
    agentId: "agent-1",
    runsOnLabels: [],
    needs: [],
    errorMessage: null,
    initFailure: null,
    timeoutReason: null,
    outputs: null,
    logBytes: 0,
    queuedAt: null,
    startedAt: null,
    completedAt: null,
    durationMs: null,
    ...changes,
  };
}

export function aStep(changes: Partial<StepProjection> = {}): StepProjection {
  return {
    runId: "run-1",
    jobId: "job-test",
    attempt: 1,
    stepIndex: 0,
    stepName: "Run tests",
    stepType: "step",
    status: "running",
    exitCode: null,
    errorMessage: null,
    logLines: null,
    logBytes: null,
    concurrencyKind: "sequential",
    groupId: null,
    checkOutcome: null,
    driftSummary: null,
    rules: [],
    secretsAccessed: [],
    summary: null,
    annotations: [],
    startedAt: null,
    completedAt: null,
    durationMs: null,
    ...changes,
  };
}

export function aJobView(changes: Partial<JobView> = {}): JobView {
  const { description = "", place = null, stepPlaces = [], steps = [], context = null, ...job } = changes;
  return { ...aJob(job), description, place, stepPlaces, steps, context };
}

export function aDetail(changes: Partial<RunDetailView> = {}): RunDetailView {
  return { run: aRun(), jobs: [aJobView()], events: [], source: "orchestrator", ...changes };
}

export function aList(...runs: RunProjection[]): RunList {
  return { runs, total: runs.length, totalIsCapped: false, page: 1, pageSize: 20, hasMore: false };
}

export function aChange(changes: Partial<RunChanged> = {}): RunChanged {
  return {
    type: "run.changed",
    orgId: ORG,
    seq: 1,
    runId: "run-1",
    isNew: false,
    run: null,
    jobs: [],
    steps: [],
    events: [],
    ...changes,
  };
}
