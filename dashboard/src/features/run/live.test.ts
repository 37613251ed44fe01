import { describe, expect, it } from "vitest";
import { aChange, aDetail, aJob, aJobView, aRun, aStep } from "@/shared/testing/builders";
import { bringsNewJobs, patchDetail } from "./live";

describe("an event of the run on show", () => {
  it("adds jobs in the workflow's order", () => {
    const detail = aDetail({ jobs: [aJobView({ jobName: "b", position: 1 })] });
    const patched = patchDetail(detail, aChange({ jobs: [aJob({ jobName: "a", position: 0 })] }));
    expect(patched.jobs.map((job) => job.jobName)).toEqual(["a", "b"]);
    expect(patched.jobs[0]?.steps).toEqual([]);
  });

  it("keeps a job's steps and context when only the job changed", () => {
    const detail = aDetail({ jobs: [aJobView({ steps: [aStep()], context: { os: "linux" } })] });
    const [job] = patchDetail(detail, aChange({ jobs: [aJob({ status: "success" })] })).jobs;
    expect(job?.status).toBe("success");
    expect(job?.steps).toHaveLength(1);
    expect(job?.context).toEqual({ os: "linux" });
  });

  it("places steps by index and replaces what it knows", () => {
    const detail = aDetail({ jobs: [aJobView({ steps: [aStep({ stepIndex: 1 })] })] });
    const patched = patchDetail(
      detail,
      aChange({ steps: [aStep({ stepIndex: 0 }), aStep({ stepIndex: 1, status: "failed" })] }),
    );
    expect(patched.jobs[0]?.steps.map((step) => [step.stepIndex, step.status])).toEqual([
      [0, "running"],
      [1, "failed"],
    ]);
  });

  it("begins a new attempt with a clean sheet", () => {
    const detail = aDetail({ jobs: [aJobView({ steps: [aStep({ status: "failed" })] })] });
    const [job] = patchDetail(detail, aChange({ jobs: [aJob({ attempt: 2 })] })).jobs;
    expect(job?.attempt).toBe(2);
    expect(job?.steps).toEqual([]);
  });

  it("keeps steps of a new attempt that came before their job", () => {
    const detail = aDetail({ jobs: [aJobView({ steps: [aStep()] })] });
    const early = patchDetail(detail, aChange({ steps: [aStep({ attempt: 2, stepName: "again" })] }));
    const [job] = patchDetail(early, aChange({ jobs: [aJob({ attempt: 2 })] })).jobs;
    expect(job?.steps.map((step) => step.stepName)).toEqual(["again"]);
  });

  it("ignores late news: an older attempt, an unfinished state of what has finished", () => {
    const detail = aDetail({
      run: aRun({ status: "success" }),
      jobs: [
        aJobView({ attempt: 2, status: "success", steps: [aStep({ attempt: 2, status: "success" })] }),
      ],
    });
    const patched = patchDetail(
      detail,
      aChange({
        run: aRun({ status: "running" }),
        jobs: [aJob({ attempt: 1, status: "failed" }), aJob({ attempt: 2, status: "running" })],
        steps: [aStep({ attempt: 1, status: "failed" }), aStep({ attempt: 2, status: "running" })],
      }),
    );
    expect(patched.run.status).toBe("success");
    expect(patched.jobs[0]?.status).toBe("success");
    expect(patched.jobs[0]?.steps[0]?.status).toBe("success");
  });

  it("changes nothing when applied again", () => {
    const event = aChange({
      run: aRun({ status: "failed" }),
      jobs: [aJob({ status: "failed" })],
      steps: [aStep({ status: "failed" })],
      events: [
        {
          runId: "run-1",
          eventType: "x",
          timestampMs: 1,
          sourceService: "agent",
          jobId: null,
          stepIndex: null,
          durationMs: null,
          metadata: {},
        },
      ],
    });
    const once = patchDetail(aDetail(), event);
    expect(patchDetail(once, event)).toEqual(once);
  });

  it("leaves other runs alone", () => {
    const detail = aDetail();
    expect(patchDetail(detail, aChange({ runId: "run-2", run: aRun({ runId: "run-2" }) }))).toBe(detail);
  });

  it("keeps what only the detail says of a job", () => {
    const place = { file: ".kici/workflows/ci.py", line: 12, column: 1 };
    const planned = { description: "Unit tests", place, stepPlaces: [place] };
    const detail = aDetail({ jobs: [aJobView(planned)] });
    const [job] = patchDetail(detail, aChange({ jobs: [aJob({ attempt: 2 })] })).jobs;
    expect(job).toMatchObject(planned);
  });

  it("tells of jobs about which more is to be asked", () => {
    const detail = aDetail({ jobs: [aJobView({ jobName: "a" })] });
    expect(bringsNewJobs(detail, aChange({ jobs: [aJob({ jobName: "a", status: "success" })] }))).toBe(
      false,
    );
    expect(bringsNewJobs(detail, aChange({ jobs: [aJob({ jobName: "b" })] }))).toBe(true);
    expect(bringsNewJobs(detail, aChange({ runId: "run-2", jobs: [aJob({ jobName: "b" })] }))).toBe(false);
  });
});
