import { ActionIcon, Loader, Tooltip } from "@mantine/core";
import { type ReactNode, useRef } from "react";
import { formatCount } from "@/shared/format";
import {
  ChevronDownIcon,
  ChevronUpIcon,
  ClockIcon,
  CloseIcon,
  DownloadIcon,
  FoldIcon,
  SearchIcon,
  UnfoldIcon,
  WrapIcon,
} from "@/shared/ui/icons";
import classes from "./logs.module.css";
import type { LogSearch, Match } from "./search";

interface ToolbarProps {
  search: LogSearch;
  onReveal: (match: Match | null) => void;
  showTime: boolean;
  onShowTime: (show: boolean) => void;
  wrap: boolean;
  onWrap: (wrap: boolean) => void;
  rawUrl: string | null;
  /** Null where there are no groups. */
  folded: boolean | null;
  onFold: (folded: boolean) => void;
  context: ReactNode;
}

export function LogToolbar({
  search,
  onReveal,
  showTime,
  onShowTime,
  wrap,
  onWrap,
  rawUrl,
  folded,
  onFold,
  context,
}: ToolbarProps) {
  const input = useRef<HTMLInputElement>(null);
  const none = search.matches.length === 0;
  return (
    <div className={classes.toolbar} role="toolbar" aria-label="Log">
      <div className={classes.context}>{context}</div>
      <search className={classes.searchBox}>
        <SearchIcon size={13} />
        <input
          ref={input}
          data-search="page"
          value={search.query}
          placeholder="Search log"
          aria-label="Search log"
          spellCheck={false}
          autoComplete="off"
          onChange={(event) => search.setQuery(event.currentTarget.value)}
          onKeyDown={(event) => {
            if (event.key === "Enter") {
              event.preventDefault();
              onReveal(search.go(event.shiftKey ? -1 : 1));
            } else if (event.key === "Escape") {
              if (search.query) search.clear();
              else input.current?.blur();
            }
          }}
        />
        {search.query ? (
          <>
            <span className={classes.searchCount} role="status" data-testid="match-count">
              {search.pending && none ? (
                <Loader size={10} color="gray" />
              ) : search.failed ? (
                "failed"
              ) : none ? (
                "0 of 0"
              ) : (
                `${formatCount(search.index + 1)} of ${formatCount(search.total)}${search.partial ? "+" : ""}`
              )}
            </span>
            <ActionIcon
              size={22}
              disabled={none}
              aria-label="Previous match"
              onClick={() => onReveal(search.go(-1))}
            >
              <ChevronUpIcon size={13} />
            </ActionIcon>
            <ActionIcon
              size={22}
              disabled={none}
              aria-label="Next match"
              onClick={() => onReveal(search.go(1))}
            >
              <ChevronDownIcon size={13} />
            </ActionIcon>
            <ActionIcon
              size={22}
              aria-label="Clear search"
              onClick={() => {
                search.clear();
                input.current?.focus();
              }}
            >
              <CloseIcon size={13} />
            </ActionIcon>
          </>
        ) : null}
      </search>
      {folded === null ? null : (
        <Tooltip label={folded ? "Open all groups (c)" : "Fold all groups (c)"}>
          <ActionIcon
            aria-label={folded ? "Open all groups" : "Fold all groups"}
            onClick={() => onFold(!folded)}
          >
            {folded ? <UnfoldIcon size={15} /> : <FoldIcon size={15} />}
          </ActionIcon>
        </Tooltip>
      )}
      <Tooltip label={showTime ? "Hide timestamps (t)" : "Show timestamps (t)"}>
        <ActionIcon
          aria-label="Toggle timestamps"
          aria-pressed={showTime}
          onClick={() => onShowTime(!showTime)}
        >
          <ClockIcon size={15} />
        </ActionIcon>
      </Tooltip>
      <Tooltip label={wrap ? "Do not wrap long lines (w)" : "Wrap long lines (w)"}>
        <ActionIcon aria-label="Toggle line wrap" aria-pressed={wrap} onClick={() => onWrap(!wrap)}>
          <WrapIcon size={15} />
        </ActionIcon>
      </Tooltip>
      {rawUrl ? (
        <Tooltip label="Download raw log">
          <ActionIcon component="a" href={rawUrl} download aria-label="Download raw log">
            <DownloadIcon size={15} />
          </ActionIcon>
        </Tooltip>
      ) : null}
    </div>
  );
}
