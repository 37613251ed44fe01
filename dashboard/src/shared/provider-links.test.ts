import { describe, expect, it } from "vitest";
import { fileUrl } from "./provider-links";
import { aRun } from "./testing/builders";

describe("links to where the code lives", () => {
  const run = aRun({ provider: "github", repoUrl: "https://github.com/acme/shop.git", sha: "3f9c2b71" });

  it("lead to a line of a file at the run's commit", () => {
    expect(fileUrl(run, "docs/a b.md", 12)).toBe(
      "https://github.com/acme/shop/blob/3f9c2b71/docs/a%20b.md#L12",
    );
    expect(fileUrl(run, "docs/start.md", null)).toBe(
      "https://github.com/acme/shop/blob/3f9c2b71/docs/start.md",
    );
  });

  it("are left out where there are no web pages", () => {
    expect(fileUrl(aRun({ provider: "local", repoUrl: "/srv/shop.git" }), "a.md", 1)).toBeNull();
    expect(fileUrl(aRun({ provider: "github", repoUrl: "javascript:alert(1)" }), "a.md", 1)).toBeNull();
  });
});
