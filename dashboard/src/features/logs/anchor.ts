/** Line permalinks: `#L42`, `#L42-L50`, and `#S3L42` where several steps are shown. Pure. */

export interface Anchor {
  /** Null: the only step shown. */
  step: number | null;
  /** From 1, inclusive. */
  first: number;
  last: number;
}

export function parseAnchor(hash: string): Anchor | null {
  const match = /^#?(?:S(-?\d+))?L(\d+)(?:-L(\d+))?$/.exec(hash);
  if (!match) return null;
  const first = Number(match[2]);
  const last = match[3] ? Number(match[3]) : first;
  if (first < 1) return null;
  return {
    step: match[1] === undefined ? null : Number(match[1]),
    first: Math.min(first, last),
    last: Math.max(first, last),
  };
}

export function formatAnchor({ step, first, last }: Anchor): string {
  return `${step === null ? "" : `S${step}`}L${first}${last === first ? "" : `-L${last}`}`;
}
