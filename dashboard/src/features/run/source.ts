/** Where jobs and steps are written. Pure. */
import type { JobView, PlaceView, RunProjection, StepProjection } from "@/shared/api/types";
import { fileUrl } from "@/shared/provider-links";

/** Known before the step begins. The preparation, hooks and caches have indexes that no author gave. */
export function stepPlace(
  job: Pick<JobView, "stepPlaces">,
  step: Pick<StepProjection, "stepIndex">,
): PlaceView | null {
  return job.stepPlaces[step.stepIndex] ?? null;
}

export function placeText({ file, line }: Pick<PlaceView, "file" | "line">): string {
  return line ? `${file}:${line}` : file;
}

/** A definition always stands in a folder of its repository: a bare name is that of an installed package's file. */
export function placeUrl(run: RunProjection, { file, line }: PlaceView): string | null {
  return file.includes("/") ? fileUrl(run, file, line) : null;
}
