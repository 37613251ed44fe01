import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { brotliCompressSync, constants, gzipSync } from "node:zlib";
import react from "@vitejs/plugin-react";
import type { Plugin } from "vite";
import { defineConfig } from "vitest/config";

// A running Platform for `npm run dev`; the built dashboard is served by the Platform itself.
const platform = process.env.KICI_PLATFORM ?? "http://127.0.0.1:10142";
const outDir = fileURLToPath(new URL("../src/kici/platform/static", import.meta.url));

/** `.br` and `.gz` beside every text file: the Platform serves them as they are. */
function precompress(): Plugin {
  return {
    name: "precompress",
    apply: "build",
    closeBundle() {
      for (const entry of readdirSync(outDir, { recursive: true, withFileTypes: true })) {
        if (!entry.isFile() || !/\.(js|css|svg|html)$/.test(entry.name)) continue;
        const path = join(entry.parentPath, entry.name);
        const body = readFileSync(path);
        if (body.length < 1024) continue;
        const quality = { params: { [constants.BROTLI_PARAM_QUALITY]: 9 } };
        writeFileSync(`${path}.br`, brotliCompressSync(body, quality));
        writeFileSync(`${path}.gz`, gzipSync(body, { level: 9 }));
      }
    },
  };
}

export default defineConfig({
  // Relative, so that the same build works under any KICI_BASE_PATH (index.html has <base>).
  base: "./",
  plugins: [react(), precompress()],
  resolve: { alias: { "@": fileURLToPath(new URL("./src", import.meta.url)) } },
  build: {
    outDir,
    emptyOutDir: true,
    target: "es2024",
    reportCompressedSize: false,
    chunkSizeWarningLimit: 1024,
    assetsInlineLimit: 0, // the CSP allows no data: URLs but for images
  },
  test: { environment: "node", include: ["src/**/*.test.ts"], pool: "threads", isolate: false },
  server: {
    proxy: {
      "/api": platform,
      "/auth": platform,
      "/ws": { target: platform.replace(/^http/, "ws"), ws: true },
    },
  },
});
