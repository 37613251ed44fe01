/** Rules and annotations, wherever they stand. */
import { Tooltip } from "@mantine/core";
import type { RunProjection, StepProjection } from "@/shared/api/types";
import { formatDuration } from "@/shared/format";
import { fileUrl } from "@/shared/provider-links";
import { InfoIcon, WarningIcon } from "@/shared/ui/icons";
import { StatusIcon } from "@/shared/ui/status";
import classes from "./run.module.css";
import { placeText } from "./source";

type RuleView = StepProjection["rules"][number];
type AnnotationView = StepProjection["annotations"][number];

/** What decided whether something runs; nothing when nothing was asked. */
export function Rules({ rules, of }: { rules: readonly RuleView[]; of: string }) {
  if (rules.length === 0) return null;
  return (
    <section className={classes.panelSection}>
      <h2>Rules of the {of}</h2>
      <table className={classes.ruleTable} aria-label={`Rules of the ${of}`}>
        <thead>
          <tr>
            <th scope="col">Rule</th>
            <th scope="col">Result</th>
            <th scope="col">Took</th>
          </tr>
        </thead>
        <tbody>
          {rules.map((rule, index) => (
            // biome-ignore lint/suspicious/noArrayIndexKey: two rules may have one label; they never move
            <tr key={index}>
              <td>
                {rule.label}
                {rule.error ? <div className={classes.ruleError}>{rule.error}</div> : null}
              </td>
              <td>
                <span className={classes.inline}>
                  <StatusIcon
                    status={rule.error ? "failed" : rule.passed ? "success" : "skipped"}
                    size={14}
                  />
                  {rule.error ? "error" : rule.passed ? "yes" : "no"}
                </span>
              </td>
              <td className="dim tabular">{formatDuration(rule.durationMs)}</td>
            </tr>
          ))}
        </tbody>
      </table>
    </section>
  );
}

const LEVELS: Record<string, { tone: string; label: string }> = {
  error: { tone: "failed", label: "Error" },
  warning: { tone: "running", label: "Warning" },
  notice: { tone: "neutral", label: "Notice" },
};

export function Annotation({ annotation, run }: { annotation: AnnotationView; run: RunProjection }) {
  const { level, message, file, line } = annotation;
  const look = LEVELS[level] ?? { tone: "neutral", label: level };
  const Icon = level === "notice" ? InfoIcon : WarningIcon;
  const place = file ? placeText({ file, line }) : null;
  const url = file ? fileUrl(run, file, line) : null;
  return (
    <li className={classes.annotation} data-tone={look.tone} data-level={level}>
      <Tooltip label={look.label}>
        <span className={classes.annotationIcon}>
          <Icon size={14} title={look.label} />
        </span>
      </Tooltip>
      <span className={classes.annotationText}>
        {message}
        {place ? (
          <code className={classes.annotationPlace}>
            {url ? (
              <a className={classes.link} href={url} target="_blank" rel="noopener noreferrer">
                {place}
              </a>
            ) : (
              place
            )}
          </code>
        ) : null}
      </span>
    </li>
  );
}
