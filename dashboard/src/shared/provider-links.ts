/** Links to the place the code lives, where it has web pages. Pure. */
import type { RunProjection } from "@/ws.gen";

type RunPlace = Pick<RunProjection, "provider" | "repoUrl" | "sha" | "branch" | "workflowFile">;

function webRoot({ provider, repoUrl }: RunPlace): string | null {
  if (provider === "local" || !repoUrl || !/^https?:\/\//.test(repoUrl)) return null;
  return repoUrl.replace(/(\.git)?\/*$/, "");
}

export function commitUrl(run: RunPlace): string | null {
  const root = webRoot(run);
  return root && run.sha ? `${root}/commit/${run.sha}` : null;
}

export function branchUrl(run: RunPlace): string | null {
  const root = webRoot(run);
  return root && run.branch ? `${root}/tree/${run.branch}` : null;
}

export function workflowUrl(run: RunPlace): string | null {
  const root = webRoot(run);
  return root && run.sha && run.workflowFile ? `${root}/blob/${run.sha}/${run.workflowFile}` : null;
}

/** A line of a file as it was at the run's commit. */
export function fileUrl(run: RunPlace, file: string, line: number | null): string | null {
  const root = webRoot(run);
  if (!root || !run.sha) return null;
  const path = file.split("/").map(encodeURIComponent).join("/");
  return `${root}/blob/${run.sha}/${path}${line ? `#L${line}` : ""}`;
}
