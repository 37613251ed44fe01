import { describe, expect, it } from "vitest";
import { carryStates, collapseReturns, parseLine, plainText, type Span, stripAnsi } from "./ansi";

const E = "\x1b";
const text = (spans: Span[]) => spans.map((span) => span.text).join("");

describe("terminal colours", () => {
  it("are classes for the 16 and the 256", () => {
    expect(parseLine(`a ${E}[31mred${E}[0m ${E}[92mgreen${E}[0m`)).toEqual([
      { text: "a " },
      { text: "red", className: "ansi-red-fg" },
      { text: " " },
      { text: "green", className: "ansi-bright-green-fg" },
    ]);
    expect(parseLine(`${E}[38;5;208mx${E}[48;5;17my`)).toEqual([
      { text: "x", className: "ansi-palette-208-fg" },
      { text: "y", className: "ansi-palette-208-fg ansi-palette-17-bg" },
    ]);
  });

  it("are exact for truecolour, in both spellings", () => {
    expect(parseLine(`${E}[38;2;255;0;10mx`)[0]?.color).toBe("rgb(255, 0, 10)");
    expect(parseLine(`${E}[38:2::255:0:10mx`)[0]?.color).toBe("rgb(255, 0, 10)");
  });

  it("come with bold, faint, italic, underline and inverse", () => {
    expect(parseLine(`${E}[1;3;4mx`)[0]?.className).toBe("ansi-bold ansi-italic ansi-underline");
    expect(parseLine(`${E}[2mx`)[0]?.className).toBe("ansi-faint");
    expect(parseLine(`${E}[7;31mx`)[0]?.className).toBe("ansi-black-fg ansi-red-bg");
  });

  it("carry over from line to line until they are reset", () => {
    const lines = [`${E}[31mred`, "still red", `${E}[1mand bold${E}[0m`, "plain"];
    const states = carryStates(lines, "");
    expect(states).toEqual(["", `${E}[31m`, `${E}[31m`, "", ""]);
    expect(parseLine(lines[1] ?? "", states[1])).toEqual([{ text: "still red", className: "ansi-red-fg" }]);
  });

  it("never grow without bound", () => {
    const [, state] = carryStates([`${E}[1m`.repeat(5000)], "");
    expect(state?.length).toBeLessThanOrEqual(256);
    expect(state?.startsWith(E)).toBe(true);
  });
});

describe("other escapes", () => {
  it.each([
    ["cursor moves", `a${E}[2K${E}[1Gb`, "ab"],
    ["titles", `a${E}]0;title\x07b`, "ab"],
    ["two-byte sequences", `a${E}(Bb${E}=`, "ab"],
    ["bells and backspaces", "a\x07b\x08", "ab"],
    ["a lone escape at the end", `ab${E}`, "ab"],
    ["an unfinished colour", `ab${E}[3`, "ab"],
  ])("%s are removed", (_, line, shown) => {
    expect(text(parseLine(line))).toBe(shown);
    expect(stripAnsi(line)).toBe(shown);
  });

  it("never turn into HTML", () => {
    expect(parseLine("<b>&amp;")).toEqual([{ text: "<b>&amp;" }]);
    expect(text(parseLine(`${E}[31m<script>${E}[0m`))).toBe("<script>");
  });
});

describe("carriage returns", () => {
  it("leave the last state of a progress bar", () => {
    expect(collapseReturns("10%\r50%\r100%")).toBe("100%");
    expect(collapseReturns("100%\r")).toBe("100%");
    expect(collapseReturns("windows\r")).toBe("windows");
    expect(plainText(`${E}[32m10%\r${E}[K100%${E}[0m`)).toBe("100%");
  });

  it("keep the colour that was set before them", () => {
    expect(parseLine(`${E}[32m10%\r100%`)).toEqual([{ text: "100%", className: "ansi-green-fg" }]);
  });
});

describe("links", () => {
  it("are found in plain text, without the full stop after them", () => {
    expect(parseLine("see https://example.org/a?b=1. (http://x.org)")).toEqual([
      { text: "see " },
      { text: "https://example.org/a?b=1", href: "https://example.org/a?b=1" },
      { text: ". (" },
      { text: "http://x.org", href: "http://x.org" },
      { text: ")" },
    ]);
  });

  it("may be OSC 8, but only to the web", () => {
    const link = (to: string) => `${E}]8;;${to}${E}\\here${E}]8;;${E}\\ after`;
    expect(parseLine(link("https://example.org"))).toEqual([
      { text: "here", href: "https://example.org" },
      { text: " after" },
    ]);
    expect(parseLine(link("javascript:alert(1)")).some((span) => span.href)).toBe(false);
  });
});
