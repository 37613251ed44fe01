// Runs before the first paint, so that no wrong theme flashes. External because the CSP allows no
// inline script.
(() => {
  let choice = null;
  try {
    choice = localStorage.getItem("kici:theme");
  } catch {
    // blocked storage means the default
  }
  const dark =
    choice === "dark" || (choice !== "light" && matchMedia("(prefers-color-scheme: dark)").matches);
  document.documentElement.setAttribute("data-mantine-color-scheme", dark ? "dark" : "light");
})();
