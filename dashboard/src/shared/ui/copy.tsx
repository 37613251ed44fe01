import { ActionIcon, Tooltip } from "@mantine/core";
import { useCallback, useRef, useState } from "react";
import { CheckIcon, CopyIcon } from "./icons";

/** Works on plain http too, where navigator.clipboard does not exist. */
export async function copyText(text: string): Promise<void> {
  if (navigator.clipboard) {
    await navigator.clipboard.writeText(text);
    return;
  }
  const area = document.createElement("textarea");
  area.value = text;
  area.style.position = "fixed";
  area.style.opacity = "0";
  document.body.append(area);
  area.select();
  document.execCommand("copy");
  area.remove();
}

export function useCopied(): [boolean, (text: string) => void] {
  const [copied, setCopied] = useState(false);
  const timer = useRef<ReturnType<typeof setTimeout>>(undefined);
  const copy = useCallback((text: string) => {
    void copyText(text).then(() => {
      setCopied(true);
      clearTimeout(timer.current);
      timer.current = setTimeout(() => setCopied(false), 1500);
    });
  }, []);
  return [copied, copy];
}

export function CopyButton({ text, label = "Copy" }: { text: string; label?: string }) {
  const [copied, copy] = useCopied();
  return (
    <Tooltip label={copied ? "Copied!" : label} openDelay={0}>
      <ActionIcon size={20} aria-label={label} onClick={() => copy(text)}>
        {copied ? <CheckIcon size={13} /> : <CopyIcon size={13} />}
      </ActionIcon>
    </Tooltip>
  );
}

/** A command to run elsewhere, with its copy button. */
export function Command({ text }: { text: string }) {
  return (
    <span
      style={{
        display: "inline-flex",
        alignItems: "center",
        gap: 4,
        maxWidth: "100%",
        padding: "2px 4px 2px 8px",
        borderRadius: 6,
        border: "1px solid var(--kici-border)",
        background: "var(--kici-panel)",
      }}
    >
      <code className="truncate" style={{ fontSize: 12 }}>
        {text}
      </code>
      <CopyButton text={text} label="Copy command" />
    </span>
  );
}
