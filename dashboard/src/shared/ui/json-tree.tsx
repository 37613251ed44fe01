/** Any JSON as a tree that opens and closes; only what is open is in the page. */
import { ActionIcon, Button, SegmentedControl, TextInput, Tooltip } from "@mantine/core";
import { useDeferredValue, useState } from "react";
import { plural } from "@/shared/format";
import { useCopied } from "./copy";
import { CheckIcon, ChevronRightIcon, CopyIcon, DownloadIcon, SearchIcon } from "./icons";
import classes from "./json-tree.module.css";

type Json = unknown;
const CHILDREN_AT_ONCE = 200;

interface JsonViewProps {
  value: Json;
  fileName: string;
}

export function JsonView({ value, fileName }: JsonViewProps) {
  const [mode, setMode] = useState<"tree" | "raw">("tree");
  const [query, setQuery] = useState("");
  const needle = useDeferredValue(query.trim().toLowerCase());
  const [copied, copy] = useCopied();
  const text = () => JSON.stringify(value, null, 2);
  const download = () => {
    const url = URL.createObjectURL(new Blob([text()], { type: "application/json" }));
    const link = document.createElement("a");
    link.href = url;
    link.download = fileName;
    link.click();
    URL.revokeObjectURL(url);
  };
  return (
    <div className={classes.view}>
      <div className={classes.bar}>
        <TextInput
          size="xs"
          data-search="page"
          leftSection={<SearchIcon size={13} />}
          placeholder="Search keys and values"
          aria-label="Search keys and values"
          value={query}
          onChange={(event) => setQuery(event.currentTarget.value)}
          className={classes.search}
        />
        <SegmentedControl
          size="xs"
          value={mode}
          onChange={(next) => setMode(next as "tree" | "raw")}
          data={[
            { value: "tree", label: "Tree" },
            { value: "raw", label: "Raw" },
          ]}
        />
        <Tooltip label={copied ? "Copied!" : "Copy JSON"}>
          <ActionIcon aria-label="Copy JSON" onClick={() => copy(text())}>
            {copied ? <CheckIcon /> : <CopyIcon />}
          </ActionIcon>
        </Tooltip>
        <Tooltip label="Download JSON">
          <ActionIcon aria-label="Download JSON" onClick={download}>
            <DownloadIcon />
          </ActionIcon>
        </Tooltip>
      </div>
      <div className={classes.body}>
        {mode === "raw" ? (
          <pre className={classes.raw}>{text()}</pre>
        ) : (
          <JsonTree value={value} needle={needle} />
        )}
      </div>
    </div>
  );
}

export function JsonTree({ value, needle = "" }: { value: Json; needle?: string }) {
  return (
    <div className={classes.tree}>
      <Node name={null} value={value} depth={0} needle={needle} />
    </div>
  );
}

function entriesOf(value: Json): [string, Json][] | null {
  if (Array.isArray(value)) return value.map((each, index) => [String(index), each]);
  if (typeof value === "object" && value !== null) return Object.entries(value);
  return null;
}

function contains(value: Json, needle: string): boolean {
  const entries = entriesOf(value);
  if (!entries) return String(value).toLowerCase().includes(needle);
  return entries.some(([key, each]) => key.toLowerCase().includes(needle) || contains(each, needle));
}

interface NodeProps {
  name: string | null;
  value: Json;
  depth: number;
  needle: string;
}

function Node({ name, value, depth, needle }: NodeProps) {
  const entries = entriesOf(value);
  const hit = needle !== "" && entries !== null && contains(value, needle);
  const [chosen, setChosen] = useState<boolean | null>(null);
  const [shown, setShown] = useState(CHILDREN_AT_ONCE);
  const open = chosen ?? (hit || depth < 2);
  const label = name === null ? null : <Key name={name} needle={needle} />;
  if (!entries) {
    return (
      <div className={classes.leaf}>
        {label}
        <Value value={value} needle={needle} />
      </div>
    );
  }
  const array = Array.isArray(value);
  if (entries.length === 0) {
    return (
      <div className={classes.leaf}>
        {label}
        <span className={classes.punctuation}>{array ? "[]" : "{}"}</span>
      </div>
    );
  }
  return (
    <div>
      <button
        type="button"
        className={classes.toggle}
        aria-expanded={open}
        onClick={() => setChosen(!open)}
      >
        <ChevronRightIcon size={12} className={classes.chevron} data-open={open || undefined} />
        {label}
        <span className={classes.punctuation}>{array ? "[" : "{"}</span>
        {open ? null : (
          <span className={classes.count}>
            {plural(entries.length, array ? "item" : "key")}
            <span className={classes.punctuation}>{array ? "]" : "}"}</span>
          </span>
        )}
      </button>
      {open ? (
        <div className={classes.children}>
          {entries.slice(0, shown).map(([key, each]) => (
            <Node key={key} name={key} value={each} depth={depth + 1} needle={needle} />
          ))}
          {entries.length > shown ? (
            <Button variant="subtle" size="compact-xs" onClick={() => setShown(shown + CHILDREN_AT_ONCE)}>
              Show {Math.min(CHILDREN_AT_ONCE, entries.length - shown)} more of {entries.length}
            </Button>
          ) : null}
        </div>
      ) : null}
    </div>
  );
}

function Marked({ text, needle }: { text: string; needle: string }) {
  if (!needle) return text;
  const at = text.toLowerCase().indexOf(needle);
  if (at < 0) return text;
  return (
    <>
      {text.slice(0, at)}
      <mark className={classes.mark}>{text.slice(at, at + needle.length)}</mark>
      {text.slice(at + needle.length)}
    </>
  );
}

function Key({ name, needle }: { name: string; needle: string }) {
  return (
    <span className={classes.key}>
      <Marked text={name} needle={needle} />
      <span className={classes.punctuation}>: </span>
    </span>
  );
}

function Value({ value, needle }: { value: Json; needle: string }) {
  const kind = value === null ? "null" : typeof value;
  const text = kind === "string" ? JSON.stringify(value) : String(value);
  return (
    <span className={classes.value} data-kind={kind}>
      <Marked text={text} needle={needle} />
    </span>
  );
}
