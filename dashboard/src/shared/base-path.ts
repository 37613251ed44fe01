/** Where the Platform serves the dashboard: "" or "/some/prefix". index.html's <base> says it. */
export const basePath = new URL(document.baseURI).pathname.replace(/\/$/, "");
