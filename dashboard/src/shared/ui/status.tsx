import { Tooltip } from "@mantine/core";
import type { ReactNode } from "react";
import { type AnyStatus, type Shape, statusLook } from "@/shared/status";
import classes from "./status.module.css";

const GLYPHS: Record<Exclude<Shape, "spinner">, ReactNode> = {
  check: <path d="m4.9 8.3 2.1 2.1 4.1-4.6" />,
  cross: <path d="m5.6 5.6 4.8 4.8M10.4 5.6l-4.8 4.8" />,
  bang: <path d="M8 4.6v4M8 11.2h.01" />,
  clock: <path d="M8 4.9V8l2 1.4" />,
  hand: <path d="M6.3 5.2v5.6M9.7 5.2v5.6" />,
  slash: <path d="m5.2 10.8 5.6-5.6" />,
  dash: <path d="M5.2 8h5.6" />,
  dot: <path d="M8 8h.01" strokeWidth={3} />,
};
const SOLID: ReadonlySet<Shape> = new Set<Shape>(["check", "cross", "bang"]);

/** Shape and colour together, so that neither has to be seen alone. */
export function StatusIcon({ status, size = 16 }: { status: AnyStatus; size?: number }) {
  const { shape, tone, label } = statusLook(status);
  const solid = SOLID.has(shape) || (shape === "clock" && tone === "failed");
  return (
    <svg
      className={classes.icon}
      data-tone={tone}
      width={size}
      height={size}
      viewBox="0 0 16 16"
      role="img"
      aria-label={label}
      fill="none"
      strokeLinecap="round"
      strokeLinejoin="round"
    >
      {shape === "spinner" ? (
        <>
          <circle cx="8" cy="8" r="6" stroke="var(--tone-solid)" strokeOpacity={0.25} strokeWidth={2} />
          <path
            className={classes.spin}
            d="M8 2a6 6 0 0 1 6 6"
            stroke="var(--tone-solid)"
            strokeWidth={2}
          />
          <circle cx="8" cy="8" r="2" fill="var(--tone-solid)" />
        </>
      ) : solid ? (
        <>
          <circle cx="8" cy="8" r="7" fill="var(--tone-solid)" />
          <g stroke="#fff" strokeWidth={1.7}>
            {GLYPHS[shape]}
          </g>
        </>
      ) : (
        <>
          <circle cx="8" cy="8" r="6.2" stroke="var(--tone-solid)" strokeWidth={1.5} />
          <g stroke="var(--tone-solid)" strokeWidth={1.6}>
            {GLYPHS[shape]}
          </g>
        </>
      )}
    </svg>
  );
}

export function StatusBadge({ status, reason }: { status: AnyStatus; reason?: string | null }) {
  const { tone, label } = statusLook(status);
  const badge = (
    <span className={classes.badge} data-tone={tone} data-status={status}>
      <StatusIcon status={status} size={13} />
      {label}
    </span>
  );
  return reason ? <Tooltip label={reason}>{badge}</Tooltip> : badge;
}

/** A small word on a soft ground, for everything that is not a status. */
export function Chip({
  children,
  tone = "neutral",
  mono,
}: {
  children: ReactNode;
  tone?: string;
  mono?: boolean;
}) {
  return (
    <span className={classes.chip} data-tone={tone} data-mono={mono || undefined}>
      {children}
    </span>
  );
}
