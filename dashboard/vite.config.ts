import { fileURLToPath } from "node:url";
import react from "@vitejs/plugin-react";
import { defineConfig } from "vite";

// A running Platform for `npm run dev`; the built dashboard is served by the Platform itself.
const platform = process.env.KICI_PLATFORM ?? "http://127.0.0.1:10142";

export default defineConfig({
  // Relative, so that the same build works under any KICI_BASE_PATH (index.html has <base>).
  base: "./",
  plugins: [react()],
  resolve: { alias: { "@": fileURLToPath(new URL("./src", import.meta.url)) } },
  build: {
    outDir: "../src/kici/platform/static",
    emptyOutDir: true,
    target: "es2024",
    reportCompressedSize: false,
    chunkSizeWarningLimit: 1024,
    assetsInlineLimit: 0, // the CSP allows no data: URLs but for images
  },
  server: {
    proxy: {
      "/api": { target: platform, changeOrigin: true },
      "/ws": { target: platform.replace(/^http/, "ws"), ws: true },
    },
  },
});
