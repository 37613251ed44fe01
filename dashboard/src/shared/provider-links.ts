/** Links to the place the code lives, where it has web pages whose addresses are known. Pure. */
import type { RunProjection } from "@/ws.gen";

type RunPlace = Pick<RunProjection, "provider" | "repoUrl" | "sha" | "branch" | "workflowFile">;

/** How a forge calls its pages, below the repository's own. */
const FORGES = {
  github: { commit: "commit", branch: "tree", file: "blob", line: "L" },
  gitlab: { commit: "-/commit", branch: "-/tree", file: "-/blob", line: "L" },
  bitbucket: { commit: "commits", branch: "branch", file: "src", line: "lines-" },
} as const;
type Pages = (typeof FORGES)[keyof typeof FORGES];

/** Null where a link would be a guess: a folder, an unknown host, Bitbucket's server with pages of its own. */
function web({ provider, repoUrl }: RunPlace): { root: string; pages: Pages } | null {
  if (!repoUrl || !/^https?:\/\//.test(repoUrl) || !URL.canParse(repoUrl)) return null;
  const { origin, hostname, pathname } = new URL(repoUrl); // and no user name or token of it
  const names = Object.keys(FORGES) as (keyof typeof FORGES)[];
  const forge = names.find((name) => name === provider) ?? names.find((name) => hostname.includes(name));
  if (!forge || (forge === "bitbucket" && pathname.startsWith("/scm/"))) return null;
  return { root: origin + pathname.replace(/\/*$/, "").replace(/\.git$/, ""), pages: FORGES[forge] };
}

const encoded = (path: string) => path.split("/").map(encodeURIComponent).join("/");

export function commitUrl(run: RunPlace): string | null {
  const found = web(run);
  return found && run.sha ? `${found.root}/${found.pages.commit}/${run.sha}` : null;
}

export function branchUrl(run: RunPlace): string | null {
  const found = web(run);
  return found && run.branch ? `${found.root}/${found.pages.branch}/${encoded(run.branch)}` : null;
}

export function workflowUrl(run: RunPlace): string | null {
  return run.workflowFile ? fileUrl(run, run.workflowFile, null) : null;
}

/** A line of a file as it was at the run's commit. */
export function fileUrl(run: RunPlace, file: string, line: number | null): string | null {
  const found = web(run);
  if (!found || !run.sha) return null;
  const { root, pages } = found;
  return `${root}/${pages.file}/${run.sha}/${encoded(file)}${line ? `#${pages.line}${line}` : ""}`;
}
