import { describe, expect, it } from "vitest";
import { branchUrl, commitUrl, fileUrl, workflowUrl } from "./provider-links";
import { aRun } from "./testing/builders";

const at = (repoUrl: string | null, provider = "generic") =>
  aRun({ provider, repoUrl, sha: "3f9c2b71", branch: "fix/#12" });

describe("links to where the code lives", () => {
  it("lead to a line of a file at the run's commit", () => {
    const run = at("https://github.com/acme/shop.git");
    expect(fileUrl(run, "docs/a b.md", 12)).toBe(
      "https://github.com/acme/shop/blob/3f9c2b71/docs/a%20b.md#L12",
    );
    expect(fileUrl(run, "docs/start.md", null)).toBe(
      "https://github.com/acme/shop/blob/3f9c2b71/docs/start.md",
    );
    expect(workflowUrl(run)).toBe("https://github.com/acme/shop/blob/3f9c2b71/.kici/workflows/ci.py");
  });

  it("speak each forge's dialect, by the provider or by the host's name", () => {
    for (const run of [
      at("https://gitlab.com/acme/team/shop/"),
      at("https://git.acme.io/acme/team/shop", "gitlab"),
    ]) {
      expect(fileUrl(run, "ci.py", 7)).toMatch(/\/acme\/team\/shop\/-\/blob\/3f9c2b71\/ci\.py#L7$/);
      expect(commitUrl(run)).toMatch(/\/acme\/team\/shop\/-\/commit\/3f9c2b71$/);
      expect(branchUrl(run)).toMatch(/\/acme\/team\/shop\/-\/tree\/fix\/%2312$/);
    }
    const bitbucket = at("https://bitbucket.org/acme/shop.git");
    expect(fileUrl(bitbucket, "ci.py", 7)).toBe(
      "https://bitbucket.org/acme/shop/src/3f9c2b71/ci.py#lines-7",
    );
    expect(commitUrl(bitbucket)).toBe("https://bitbucket.org/acme/shop/commits/3f9c2b71");
    expect(branchUrl(at("https://github.acme.io:8443/acme/shop"))).toBe(
      "https://github.acme.io:8443/acme/shop/tree/fix/%2312",
    );
  });

  it("carry no credentials of the address", () => {
    expect(commitUrl(at("https://ada:s3cret@github.com/acme/shop.git?token=s3cret"))).toBe(
      "https://github.com/acme/shop/commit/3f9c2b71",
    );
  });

  it("are left out where there are no web pages, or none that are known", () => {
    for (const address of [
      null,
      "/srv/shop.git",
      "file:///srv/github/shop.git",
      "git@github.com:acme/shop.git",
      "javascript:alert(1)//github",
      "https://git.example.org/acme/shop.git",
      "https://example.org/github/shop.git",
      "https://bitbucket.acme.io/scm/acme/shop.git",
      "http://[",
    ]) {
      expect(fileUrl(at(address), "a.md", 1)).toBeNull();
      expect(commitUrl(at(address))).toBeNull();
    }
  });
});
