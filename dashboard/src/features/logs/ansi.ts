/**
 * Terminal output → styled spans, as a terminal would have left them.
 *
 * SGR colours become CSS classes (16 and 256 colours) or an inline colour (24 bit); links become
 * links; every other escape sequence is removed. A carriage return starts the line over, so progress
 * bars show their last state. Text is only ever text: nothing here makes HTML.
 */
import Anser from "anser";

export interface Span {
  text: string;
  className?: string;
  color?: string;
  background?: string;
  href?: string;
}

const ESC = "\x1b";
// biome-ignore-start lint/suspicious/noControlCharactersInRegex: control characters are the subject
const SGR = /\x1b\[([\d;:]*)m/g;
// Anything ESC starts that is not SGR: CSI, OSC (ended by BEL or ST), two-byte sequences.
const OTHER_ESCAPES =
  /\x1b\[[0-9;:<=>?]*[ -/]*(?:[@-ln-~]|$)|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\|$)|\x1b[PX^_][^\x1b]*(?:\x1b\\|$)|\x1b[ -/]*[0-Z\\^-~]/g;
const HYPERLINK = /\x1b\]8;[^;\x07\x1b]*;([^\x07\x1b]*)(?:\x07|\x1b\\)/;
const CONTROLS = /[\x00-\x08\x0b\x0c\x0e-\x1a\x1c-\x1f\x7f]/g;
// biome-ignore-end lint/suspicious/noControlCharactersInRegex: as above
const URL_IN_TEXT = /https?:\/\/[^\s<>"'`\\^{|}]+[^\s<>"'`\\^{|}.,;:!?)\]]/g;

/** What a terminal shows after the carriage returns of a line: the text after the last one that has any. */
export function collapseReturns(line: string): string {
  const text = line.endsWith("\r") ? line.slice(0, -1) : line;
  if (!text.includes("\r")) return text;
  const parts = text.split("\r");
  const styles = parts.slice(0, -1).join("").match(SGR)?.join("") ?? "";
  return styles + (parts.findLast((part) => stripAnsi(part) !== "") ?? "");
}

export function stripAnsi(line: string): string {
  if (!line.includes(ESC)) return line.replace(CONTROLS, "");
  return line.replace(SGR, "").replace(OTHER_ESCAPES, "").replaceAll(ESC, "").replace(CONTROLS, "");
}

/** The line as it is read and copied: no escapes, only its last state. */
export function plainText(line: string): string {
  return stripAnsi(collapseReturns(line));
}

/** SGR state after a line that began in state `before`, as a sequence that restores it. */
function stateAfter(line: string, before: string): string {
  if (!line.includes(ESC)) return before;
  let state = before;
  for (const [sequence, codes = ""] of line.matchAll(SGR)) {
    const reset = codes === "" || /^0+$/.test(codes);
    // `0;31` resets and sets at once; what came before no longer matters.
    state = reset ? "" : /^0*;/.test(codes) ? sequence : state + sequence;
    if (state.length > 256) state = state.slice(state.indexOf(ESC, -256 + state.length)); // bounded, newest wins
  }
  return state;
}

/** The state at the start of each line, and of the line after the last. */
export function carryStates(lines: (string | undefined)[], before: string): string[] {
  const states = [before];
  let state = before;
  for (let index = 0; index < lines.length; index++) {
    state = stateAfter(lines[index] ?? "", state);
    states.push(state);
  }
  return states;
}

const DECORATIONS: Record<string, string> = {
  bold: "ansi-bold",
  dim: "ansi-faint",
  italic: "ansi-italic",
  underline: "ansi-underline",
  strikethrough: "ansi-strike",
  hidden: "ansi-hidden",
};

/** `38:2::255:0:0` and `4:3` are newer spellings of what `;` says; Anser reads only the old one. */
function oldSpelling(line: string): string {
  return line.replace(SGR, (sequence, codes: string) =>
    codes.includes(":") ? `${ESC}[${codes.replace(/\b4:\d/g, "4").replace(/:+/g, ";")}m` : sequence,
  );
}

export function parseLine(raw: string, carry = ""): Span[] {
  const line = oldSpelling(carry + collapseReturns(raw));
  if (!line.includes(ESC)) return linkify({ text: line.replace(CONTROLS, "") });
  const spans: Span[] = [];
  for (const { text, href } of splitHyperlinks(line)) {
    for (const piece of Anser.ansiToJson(text, { use_classes: true, remove_empty: true, json: true })) {
      const content = piece.content.replaceAll(ESC, "").replace(CONTROLS, "");
      if (!content) continue;
      const span: Span = { text: content };
      style(span, piece);
      if (href) span.href = href;
      spans.push(...(href ? [span] : linkify(span)));
    }
  }
  return spans;
}

function style(span: Span, piece: Anser.AnserJsonEntry): void {
  const classNames = piece.decorations.flatMap((name) => DECORATIONS[name] ?? []);
  if (piece.fg === "ansi-truecolor") span.color = `rgb(${piece.fg_truecolor})`;
  else if (piece.fg) classNames.push(`${piece.fg}-fg`);
  if (piece.bg === "ansi-truecolor") span.background = `rgb(${piece.bg_truecolor})`;
  else if (piece.bg) classNames.push(`${piece.bg}-bg`);
  if (classNames.length > 0) span.className = classNames.join(" ");
}

/** Cuts a line at its OSC 8 hyperlinks and removes what no span can show. */
function splitHyperlinks(line: string): { text: string; href: string | null }[] {
  const pieces: { text: string; href: string | null }[] = [];
  let rest = line;
  let href: string | null = null;
  let styles = ""; // each piece is parsed alone, so it needs the colours set before it
  const push = (text: string) => {
    const visible = text.replace(OTHER_ESCAPES, "");
    if (visible) pieces.push({ text: styles + visible, href });
    styles = stateAfter(visible, styles);
  };
  for (let match = HYPERLINK.exec(rest); match; match = HYPERLINK.exec(rest)) {
    push(rest.slice(0, match.index));
    const target = match[1] ?? "";
    href = /^https?:\/\//i.test(target) ? target : null;
    rest = rest.slice(match.index + match[0].length);
  }
  push(rest);
  return pieces;
}

function linkify(span: Span): Span[] {
  if (!span.text.includes("://")) return span.text ? [span] : [];
  const spans: Span[] = [];
  let from = 0;
  for (const match of span.text.matchAll(URL_IN_TEXT)) {
    if (match.index > from) spans.push({ ...span, text: span.text.slice(from, match.index) });
    spans.push({ ...span, text: match[0], href: match[0] });
    from = match.index + match[0].length;
  }
  if (from < span.text.length) spans.push({ ...span, text: span.text.slice(from) });
  return spans;
}

/** The 256-colour palette as one style sheet, made once: `ansi-palette-N-fg` and `-bg`. */
export function installPalette(): void {
  const levels = [0, 95, 135, 175, 215, 255];
  const rules: string[] = [];
  const add = (index: number, r: number, g: number, b: number) =>
    rules.push(
      `.ansi-palette-${index}-fg{color:rgb(${r},${g},${b})}`,
      `.ansi-palette-${index}-bg{background:rgb(${r},${g},${b})}`,
    );
  for (let index = 0; index < 216; index++) {
    const level = (power: number) => levels[Math.floor(index / power) % 6] ?? 0;
    add(16 + index, level(36), level(6), level(1));
  }
  for (let index = 0; index < 24; index++) {
    const grey = 8 + index * 10;
    add(232 + index, grey, grey, grey);
  }
  const sheet = new CSSStyleSheet();
  sheet.replaceSync(rules.join(""));
  document.adoptedStyleSheets = [...document.adoptedStyleSheets, sheet];
}
