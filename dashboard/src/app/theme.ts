/** Mantine's theme: dense, calm, one accent. Colours that carry meaning live in tokens.css. */
import {
  ActionIcon,
  Button,
  type CSSVariablesResolver,
  createTheme,
  type MantineColorScheme,
  type MantineColorSchemeManager,
  type MantineColorsTuple,
  Menu,
  Modal,
  PasswordInput,
  Skeleton,
  TextInput,
  Tooltip,
} from "@mantine/core";
import { recall, remember } from "@/shared/preferences";

const indigo: MantineColorsTuple = [
  "#eef0ff",
  "#dfe2fe",
  "#bdc2fb",
  "#979ff8",
  "#7a82f3",
  "#666df0",
  "#5457e5",
  "#4648cb",
  "#3c3eac",
  "#32358a",
];

const dark: MantineColorsTuple = [
  "#e4e7ec",
  "#b6bcc7",
  "#9aa1ae",
  "#6f7787",
  "#3a404b",
  "#2b3039",
  "#21252c",
  "#171a1f",
  "#121418",
  "#0d0f12",
];

export const theme = createTheme({
  primaryColor: "indigo",
  primaryShade: { light: 6, dark: 6 },
  colors: { indigo, dark },
  fontFamily: "'Inter Variable', system-ui, sans-serif",
  fontFamilyMonospace: "'JetBrains Mono Variable', ui-monospace, monospace",
  headings: { fontWeight: "600", sizes: { h1: { fontSize: "18px", lineHeight: "26px" } } },
  fontSizes: { xs: "12px", sm: "13px", md: "14px", lg: "16px", xl: "18px" },
  defaultRadius: "sm",
  radius: { xs: "4px", sm: "6px", md: "8px", lg: "12px", xl: "16px" },
  cursorType: "pointer",
  respectReducedMotion: true,
  components: {
    Button: Button.extend({ defaultProps: { size: "xs" } }),
    ActionIcon: ActionIcon.extend({ defaultProps: { variant: "subtle", color: "gray", size: 28 } }),
    Tooltip: Tooltip.extend({
      defaultProps: {
        openDelay: 300,
        withinPortal: true,
        multiline: true,
        maw: 420,
        events: { hover: true, focus: true, touch: false },
      },
    }),
    Menu: Menu.extend({ defaultProps: { shadow: "md", withinPortal: true } }),
    Modal: Modal.extend({ defaultProps: { centered: true, radius: "md" } }),
    TextInput: TextInput.extend({ defaultProps: { size: "sm" } }),
    PasswordInput: PasswordInput.extend({ defaultProps: { size: "sm" } }),
    Skeleton: Skeleton.extend({ defaultProps: { radius: "sm" } }),
  },
});

export const cssVariables: CSSVariablesResolver = () => ({
  variables: {},
  light: {
    "--mantine-color-body": "var(--kici-bg)",
    "--mantine-color-text": "var(--kici-text)",
    "--mantine-color-dimmed": "var(--kici-dim)",
    "--mantine-color-default-border": "var(--kici-border-strong)",
  },
  dark: {
    "--mantine-color-body": "var(--kici-bg)",
    "--mantine-color-text": "var(--kici-text)",
    "--mantine-color-dimmed": "var(--kici-dim)",
    "--mantine-color-default": "var(--kici-raised)",
    "--mantine-color-default-border": "var(--kici-border-strong)",
  },
});

const KEY = "kici:theme";

/** Stores `system | dark | light`; public/theme.js reads the same key before the first paint. */
export function themeManager(): MantineColorSchemeManager {
  let stop = () => {};
  const parse = (text: string): MantineColorScheme | null =>
    text === "system" ? "auto" : text === "dark" || text === "light" ? text : null;
  return {
    get: (fallback) => recall(KEY, parse, fallback),
    set: (value) => remember(KEY, value === "auto" ? "system" : value),
    subscribe: (update) => {
      const listener = (event: StorageEvent) => {
        const value = event.key === KEY && event.newValue ? parse(event.newValue) : null;
        if (value) update(value);
      };
      window.addEventListener("storage", listener);
      stop = () => window.removeEventListener("storage", listener);
    },
    unsubscribe: () => stop(),
    clear: () => remember(KEY, "system"),
  };
}
