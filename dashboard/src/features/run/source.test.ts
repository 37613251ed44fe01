import { describe, expect, it } from "vitest";
import { aJobView, aRun, aStep } from "@/shared/testing/builders";
import { placeText, placeUrl, stepPlace } from "./source";

const CI = ".kici/workflows/ci.py";

describe("where something is written", () => {
  const job = aJobView({
    place: { file: CI, line: 20, column: 1 },
    stepPlaces: [
      { file: CI, line: 8, column: 2 },
      { file: "scanner.py", line: 3, column: 1 },
    ],
  });
  const run = aRun({ provider: "github", repoUrl: "https://github.com/acme/shop.git", sha: "3f9c2b71" });

  it("is known of steps, not of what stands around them", () => {
    expect(stepPlace(job, aStep({ stepIndex: 1 }))?.file).toBe("scanner.py");
    for (const stepIndex of [-1, 2, 2_000_000]) expect(stepPlace(job, aStep({ stepIndex }))).toBeNull();
  });

  it("is shown as editors take it", () => {
    expect(placeText({ file: CI, line: 12 })).toBe(`${CI}:12`);
    expect(placeText({ file: CI, line: null })).toBe(CI);
  });

  it("leads to the run's commit, but not for files that no commit has", () => {
    const [own, installed] = job.stepPlaces;
    expect(own && placeUrl(run, own)).toBe(`https://github.com/acme/shop/blob/3f9c2b71/${CI}#L8`);
    expect(installed && placeUrl(run, installed)).toBeNull();
    expect(own && placeUrl(aRun({ repoUrl: null }), own)).toBeNull();
  });
});
