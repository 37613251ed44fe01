/** What steps wrote with `ctx.summary`. Their HTML is shown as text, their links lead out, images stay away. */
import Markdown, { type Components } from "react-markdown";
import remarkGfm from "remark-gfm";
import classes from "./markdown.module.css";

const PLUGINS = [remarkGfm];

/** Titles of a summary stand below those of the page. */
const COMPONENTS: Components = {
  h1: ({ children }) => <h4 data-depth="1">{children}</h4>,
  h2: ({ children }) => <h4 data-depth="2">{children}</h4>,
  h3: ({ children }) => <h5>{children}</h5>,
  h4: ({ children }) => <h6>{children}</h6>,
  h5: ({ children }) => <h6>{children}</h6>,
  h6: ({ children }) => <h6>{children}</h6>,
  a: ({ href, children }) =>
    href && /^(https?:|mailto:)/i.test(href) ? (
      <a href={href} target="_blank" rel="noopener noreferrer nofollow">
        {children}
      </a>
    ) : (
      <span>{children}</span>
    ),
  // The page's policy loads nothing from elsewhere.
  img: ({ src, alt }) =>
    typeof src === "string" && /^https?:/i.test(src) ? (
      <a href={src} target="_blank" rel="noopener noreferrer nofollow">
        {alt || "image"}
      </a>
    ) : (
      <span>{alt}</span>
    ),
  table: ({ children }) => (
    <div className={classes.scroll}>
      <table>{children}</table>
    </div>
  ),
  input: ({ checked, type }) =>
    type === "checkbox" ? (
      <input type="checkbox" checked={Boolean(checked)} disabled aria-label={checked ? "done" : "open"} />
    ) : null,
};

export function MarkdownText({ text }: { text: string }) {
  return (
    <div className={classes.text}>
      <Markdown remarkPlugins={PLUGINS} components={COMPONENTS}>
        {text}
      </Markdown>
    </div>
  );
}
