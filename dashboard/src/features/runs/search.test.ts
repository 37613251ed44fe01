import { describe, expect, it } from "vitest";
import { aRun } from "@/shared/testing/builders";
import { hasFilters, isDefaultSort, matches, parseRunSearch } from "./search";

describe("the run list's URL", () => {
  it("keeps what it knows and drops what it does not", () => {
    const search = parseRunSearch({
      status: "failed",
      sort: "sha; drop table",
      dir: "up",
      page: "0",
      x: "1",
    });
    expect(search.status).toEqual(["failed"]);
    expect(search.sort).toBeUndefined();
    expect(search.dir).toBeUndefined();
    expect(search.page).toBeUndefined();
    expect(search).not.toHaveProperty("x");
  });

  it("knows filters from sorting", () => {
    expect(hasFilters(parseRunSearch({ sort: "sha", page: "2", group: "commit" }))).toBe(false);
    expect(hasFilters(parseRunSearch({ branch: "main" }))).toBe(true);
    expect(isDefaultSort(parseRunSearch({}))).toBe(true);
    expect(isDefaultSort(parseRunSearch({ sort: "createdAt", dir: "asc" }))).toBe(false);
  });
});

describe("a run that just began", () => {
  const run = aRun({ displayStatus: "running", branch: "main", createdAt: "2030-01-01T12:00:00Z" });

  it.each([
    [{}, true],
    [{ status: ["running", "failed"] }, true],
    [{ status: ["failed"] }, false],
    [{ workflow: ["ci"], branch: ["main"] }, true],
    [{ branch: ["dev"] }, false],
    [{ repository: ["acme/api"] }, false],
    [{ triggerType: ["push"] }, true],
    [{ source: ["local:org:shop"] }, true],
    [{ sha: "3f9c2b7" }, true],
    [{ sha: "aaaa" }, false],
    [{ since: "2030-01-02T00:00:00Z" }, false],
    [{ until: "2030-01-02T00:00:00Z" }, true],
  ])("fits %o: %s", (search, fits) => expect(matches(search, run)).toBe(fits));
});
