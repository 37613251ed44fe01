/** The frame of every page: title, one h1, test id; and its empty, loading and failed faces. */
import { Button, Skeleton } from "@mantine/core";
import { type ReactNode, useEffect, useState } from "react";
import { ApiError } from "@/shared/api/client";
import { basePath } from "@/shared/base-path";
import { CopyButton } from "./copy";
import type { IconComponent } from "./icons";
import { WarningIcon } from "./icons";
import classes from "./page.module.css";

export function useTitle(title: string): void {
  useEffect(() => {
    document.title = `${title} · KiCI`;
  }, [title]);
}

interface PageProps {
  name: string;
  title: string;
  /** Beside the h1. */
  actions?: ReactNode;
  subtitle?: ReactNode;
  children: ReactNode;
  /** Content narrower than the window, for forms. */
  narrow?: boolean;
}

export function Page({ name, title, actions, subtitle, children, narrow }: PageProps) {
  useTitle(title);
  return (
    <div className={classes.page} data-testid={`page-${name}`} data-narrow={narrow || undefined}>
      <header className={classes.header}>
        <div className={classes.heading}>
          <h1 className={classes.title}>{title}</h1>
          {subtitle ? <p className={classes.subtitle}>{subtitle}</p> : null}
        </div>
        {actions ? <div className={classes.actions}>{actions}</div> : null}
      </header>
      {children}
    </div>
  );
}

interface EmptyProps {
  icon: IconComponent;
  title: string;
  children?: ReactNode;
  action?: ReactNode;
}

export function Empty({ icon: Icon, title, children, action }: EmptyProps) {
  return (
    <div className={classes.empty} role="status">
      <span className={classes.emptyIcon}>
        <Icon size={22} />
      </span>
      <h2 className={classes.emptyTitle}>{title}</h2>
      {children ? <div className={classes.emptyText}>{children}</div> : null}
      {action}
    </div>
  );
}

export function errorText(error: unknown): string {
  return error instanceof Error ? error.message : "Something unexpected happened";
}

/** “Failed to load”, with what the server said, its trace id and the ways on. */
export function ErrorPanel({ error, retry }: { error: unknown; retry?: () => void }) {
  const traceId = error instanceof ApiError ? error.traceId : null;
  return (
    <div className={classes.empty} role="alert">
      <span className={classes.emptyIcon} data-tone="failed">
        <WarningIcon size={22} />
      </span>
      <h2 className={classes.emptyTitle}>Failed to load</h2>
      <div className={classes.emptyText}>{errorText(error)}</div>
      {traceId ? <TraceId id={traceId} /> : null}
      <div className={classes.emptyActions}>
        {retry ? <Button onClick={retry}>Retry</Button> : null}
        <Button variant="default" component="a" href={`${basePath}/`}>
          Go home
        </Button>
      </div>
    </div>
  );
}

export function TraceId({ id }: { id: string }) {
  return (
    <div className={classes.trace}>
      trace <code>{id}</code>
      <CopyButton text={id} label="Copy trace id" />
    </div>
  );
}

/** Shows its children only when loading takes long enough to be noticed. */
export function AfterDelay({ children, ms = 150 }: { children: ReactNode; ms?: number }) {
  const [late, setLate] = useState(false);
  useEffect(() => {
    const timer = setTimeout(() => setLate(true), ms);
    return () => clearTimeout(timer);
  }, [ms]);
  return late ? children : null;
}

export function SkeletonRows({ rows, height = 40 }: { rows: number; height?: number }) {
  return (
    <AfterDelay>
      <div aria-hidden="true" className={classes.skeletons}>
        {Array.from({ length: rows }, (_, index) => (
          // biome-ignore lint/suspicious/noArrayIndexKey: rows have no identity
          <div key={index} className={classes.skeletonRow} style={{ height }}>
            <Skeleton h={18} w={76} radius="xl" />
            <Skeleton h={12} w={`${38 - ((index * 7) % 18)}%`} />
            <Skeleton h={12} w={90} ml="auto" />
          </div>
        ))}
      </div>
    </AfterDelay>
  );
}
