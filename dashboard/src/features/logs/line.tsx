import { ActionIcon, Tooltip } from "@mantine/core";
import { type CSSProperties, type MouseEvent, memo, useMemo } from "react";
import { formatLogTime, plural, type Zone } from "@/shared/format";
import { useCopied } from "@/shared/ui/copy";
import { CheckIcon, ChevronRightIcon, CopyIcon } from "@/shared/ui/icons";
import { parseLine, plainText, type Span } from "./ansi";
import { TITLE_OFFSET } from "./groups";
import classes from "./logs.module.css";
import { markSpans, toMark } from "./marks";
import type { Match } from "./search";

interface LineProps {
  /** As people count: from 1. */
  number: number;
  text: string;
  carry: string;
  /** Null hides the column. */
  time: number | null;
  zone: Zone;
  selected: boolean;
  /** What a search found in this line, and which of it is the current one. */
  matches: readonly Match[] | null;
  current: Match | null;
  /** Where the whole line is, when only its beginning is shown. */
  fullUrl: string | null;
  /** In how many groups it stands. */
  depth: number;
  onSelect: (number: number, extend: boolean) => void;
}

export const LogLine = memo(function LogLine({
  number,
  text,
  carry,
  time,
  zone,
  selected,
  matches,
  current,
  fullUrl,
  depth,
  onSelect,
}: LineProps) {
  const spans = useMemo(() => {
    const parsed = parseLine(text, carry);
    if (!matches) return parsed;
    const marks = matches.map((match) => toMark(match, text));
    return markSpans(parsed, marks, current ? toMark(current, text) : null);
  }, [text, carry, matches, current]);
  return (
    <div className={classes.line} data-selected={selected || undefined} data-line={number}>
      <LineNumber number={number} onSelect={onSelect} />
      {time === null ? null : <span className={classes.time} data-time={formatLogTime(time, zone)} />}
      <span className={classes.text} style={depthStyle(depth)} data-depth={depth || undefined}>
        {spans.map((span, index) => (
          // biome-ignore lint/suspicious/noArrayIndexKey: spans of one text never move
          <SpanView key={index} span={span} />
        ))}
        {fullUrl ? (
          <a className={classes.full} href={fullUrl} download>
            … line cut here: download it whole
          </a>
        ) : null}
        {"\n"}
      </span>
      <CopyLine text={text} number={number} />
    </div>
  );
});

function depthStyle(depth: number): CSSProperties | undefined {
  return depth > 0 ? ({ "--depth": depth } as CSSProperties) : undefined;
}

function LineNumber({ number, onSelect }: Pick<LineProps, "number" | "onSelect">) {
  const select = (event: MouseEvent) => {
    event.preventDefault();
    onSelect(number, event.shiftKey);
  };
  return (
    // biome-ignore lint/a11y/useAnchorContent: it has a label; the number is drawn by CSS, so that copying leaves it out
    <a
      className={classes.number}
      href={`#L${number}`}
      onClick={select}
      tabIndex={-1}
      aria-label={`Link to line ${number}`}
      data-number={number}
    />
  );
}

interface GroupLineProps
  extends Pick<
    LineProps,
    "number" | "time" | "zone" | "selected" | "matches" | "current" | "depth" | "onSelect"
  > {
  title: string;
  open: boolean;
  /** Null while it goes on. */
  lines: number | null;
  onToggle: () => void;
}

/** The line of a group's marker: its title, which opens and folds it. */
export function GroupLine({
  number,
  title,
  open,
  lines,
  time,
  zone,
  selected,
  matches,
  current,
  depth,
  onSelect,
  onToggle,
}: GroupLineProps) {
  const mark = (match: Match) => ({
    start: Math.max(0, match.start - TITLE_OFFSET),
    end: Math.max(0, match.end - TITLE_OFFSET),
  });
  const spans = markSpans([{ text: title }], matches?.map(mark) ?? [], current ? mark(current) : null);
  return (
    <div className={classes.line} data-selected={selected || undefined} data-line={number} data-group>
      <LineNumber number={number} onSelect={onSelect} />
      {time === null ? null : <span className={classes.time} data-time={formatLogTime(time, zone)} />}
      <span className={classes.text} style={depthStyle(depth)} data-depth={depth || undefined}>
        <button type="button" className={classes.groupToggle} aria-expanded={open} onClick={onToggle}>
          <ChevronRightIcon size={13} className={classes.chevron} data-open={open || undefined} />
          <span>
            {title
              ? spans.map((span, index) => (
                  // biome-ignore lint/suspicious/noArrayIndexKey: spans of one text never move
                  <SpanView key={index} span={span} />
                ))
              : "Group"}
          </span>
          {lines === null ? null : <span className={classes.groupCount}>{plural(lines, "line")}</span>}
        </button>
      </span>
    </div>
  );
}

function SpanView({ span }: { span: Span & { mark?: "match" | "current" } }) {
  const style =
    span.color || span.background ? { color: span.color, background: span.background } : undefined;
  const content = span.mark ? (
    <mark className={classes.mark} data-current={span.mark === "current" || undefined}>
      {span.text}
    </mark>
  ) : (
    span.text
  );
  if (span.href) {
    return (
      <a
        className={`${classes.link} ${span.className ?? ""}`}
        style={style}
        href={span.href}
        target="_blank"
        rel="noopener noreferrer"
      >
        {content}
      </a>
    );
  }
  if (!span.className && !style) return content;
  return (
    <span className={span.className} style={style}>
      {content}
    </span>
  );
}

function CopyLine({ text, number }: { text: string; number: number }) {
  const [copied, copy] = useCopied();
  return (
    <span className={classes.copy} data-copied={copied || undefined}>
      <Tooltip label={copied ? "Copied!" : "Copy line"} opened={copied || undefined} openDelay={400}>
        <ActionIcon
          size={18}
          tabIndex={-1}
          className={classes.copyButton}
          aria-label={`Copy line ${number}`}
          onClick={() => copy(plainText(text))}
        >
          {copied ? <CheckIcon size={12} /> : <CopyIcon size={12} />}
        </ActionIcon>
      </Tooltip>
    </span>
  );
}

/** A line that is being fetched. */
export function MissingLine({ number }: { number: number }) {
  return (
    <div className={classes.line} data-missing>
      <span className={classes.number} data-number={number} />
      <span className={classes.placeholder} style={{ width: `${18 + ((number * 37) % 46)}ch` }} />
    </div>
  );
}
