/** In which way a run runs, besides plainly. Pure. */

/** Absent: it applies what it finds. */
export const CHECK_MODES: Record<string, string> = {
  check: "check mode",
  "check-fail-on-drift": "check, fails on drift",
};
