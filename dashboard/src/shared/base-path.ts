/** Where the Platform serves the dashboard: "" or "/some/prefix". index.html's <base> says it. */
export const basePath =
  typeof document === "undefined" ? "" : new URL(document.baseURI).pathname.replace(/\/$/, "");
