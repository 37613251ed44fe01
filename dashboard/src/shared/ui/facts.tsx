/** Label and value pairs: the body of every metadata panel. */
import type { ReactNode } from "react";
import classes from "./facts.module.css";

export function Facts({ title, children }: { title: string; children: ReactNode }) {
  return (
    <section className={classes.section}>
      <h2 className={classes.title}>{title}</h2>
      <dl className={classes.list}>{children}</dl>
    </section>
  );
}

/** Left out when there is nothing to say. */
export function Fact({ label, children }: { label: string; children: ReactNode }) {
  if (children === null || children === undefined || children === "") return null;
  return (
    <div className={classes.fact}>
      <dt>{label}</dt>
      <dd>{children}</dd>
    </div>
  );
}
