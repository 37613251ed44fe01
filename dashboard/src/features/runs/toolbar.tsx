import { ActionIcon, Button, Menu, Switch, TextInput, Tooltip } from "@mantine/core";
import { useDebouncedCallback } from "@mantine/hooks";
import { useQuery } from "@tanstack/react-query";
import { useEffect, useState } from "react";
import type { RunFilters } from "@/shared/api/types";
import { FILTER_STATUSES, statusLook, triggerLabel } from "@/shared/status";
import { FilterMenu, type FilterOption } from "@/shared/ui/filter-menu";
import { CloseIcon, ColumnsIcon, FilterIcon, SearchIcon } from "@/shared/ui/icons";
import { StatusIcon } from "@/shared/ui/status";
import { runFiltersQuery } from "./queries";
import classes from "./runs.module.css";
import { type Facet, hasFilters, type RunSearch } from "./search";
import { COLUMNS } from "./table";

const plain = (values: readonly string[]): FilterOption[] =>
  values.map((value) => ({ value, label: value }));

const MAIN: readonly [Facet, string][] = [
  ["status", "Status"],
  ["workflow", "Workflow"],
  ["branch", "Branch"],
  ["repository", "Repository"],
];
const MORE: readonly [Facet, string][] = [
  ["triggerType", "Trigger type"],
  ["source", "Source"],
];

function options(facet: Facet, filters: RunFilters | undefined): FilterOption[] {
  switch (facet) {
    case "status":
      return FILTER_STATUSES.map((status) => ({
        value: status,
        label: statusLook(status).label,
        icon: <StatusIcon status={status} size={14} />,
      }));
    case "workflow":
      return plain(filters?.workflows ?? []);
    case "branch":
      return plain(filters?.branches ?? []);
    case "repository":
      return plain(filters?.repositories ?? []);
    case "triggerType":
      return (filters?.triggerTypes ?? []).map((type) => ({ value: type, label: triggerLabel(type) }));
    case "source":
      return (filters?.sources ?? []).map((source) => ({ value: source.routingKey, label: source.name }));
  }
}

interface ToolbarProps {
  orgId: string;
  search: RunSearch;
  onChange: (change: Partial<RunSearch>) => void;
  onClear: () => void;
  hidden: ReadonlySet<string>;
  onHidden: (hidden: ReadonlySet<string>) => void;
  cards: boolean;
}

export function RunToolbar({ orgId, search, onChange, onClear, hidden, onHidden, cards }: ToolbarProps) {
  const filters = useQuery(runFiltersQuery(orgId)).data;
  const [more, setMore] = useState(false);
  const usesMore = MORE.some(([facet]) => search[facet]);
  const facets = more || usesMore ? [...MAIN, ...MORE] : MAIN;
  return (
    <search className={classes.toolbar} aria-label="Filter runs">
      <SearchBox value={search.q ?? ""} onChange={(q) => onChange({ q: q || undefined })} />
      <div className={classes.filters}>
        {facets.map(([facet, label]) => (
          <FilterMenu
            key={facet}
            label={label}
            options={options(facet, filters)}
            selected={search[facet] ?? []}
            onChange={(selected) => onChange({ [facet]: selected.length > 0 ? selected : undefined })}
          />
        ))}
        {usesMore ? null : (
          <Button
            variant="subtle"
            color="gray"
            leftSection={<FilterIcon size={13} />}
            onClick={() => setMore(!more)}
            aria-expanded={more}
          >
            {more ? "Fewer filters" : "More filters"}
          </Button>
        )}
        {search.sha ? (
          <Button
            variant="default"
            rightSection={<CloseIcon size={12} />}
            onClick={() => onChange({ sha: undefined })}
            aria-label={`Remove filter: commit ${search.sha.slice(0, 7)}`}
          >
            <span className="dim">Commit</span>&nbsp;<code>{search.sha.slice(0, 7)}</code>
          </Button>
        ) : null}
        {hasFilters(search) ? (
          <Button variant="subtle" onClick={onClear}>
            Clear filters
          </Button>
        ) : null}
      </div>
      <div className={classes.toolbarEnd}>
        <Switch
          size="xs"
          label="Group by commit"
          checked={search.group === "commit"}
          onChange={(event) => onChange({ group: event.currentTarget.checked ? "commit" : undefined })}
        />
        {cards ? null : (
          <Menu position="bottom-end" width={170}>
            <Menu.Target>
              <Tooltip label="Toggle columns">
                <ActionIcon aria-label="Toggle columns">
                  <ColumnsIcon />
                </ActionIcon>
              </Tooltip>
            </Menu.Target>
            <Menu.Dropdown>
              <Menu.Label>Columns</Menu.Label>
              {COLUMNS.map((column) => {
                const visible = !hidden.has(column.id);
                const last = visible && hidden.size === COLUMNS.length - 1;
                return (
                  <Menu.CheckboxItem
                    key={column.id}
                    checked={visible}
                    disabled={last}
                    onChange={(checked) => {
                      const next = new Set(hidden);
                      if (checked) next.delete(column.id);
                      else next.add(column.id);
                      onHidden(next);
                    }}
                  >
                    {column.label}
                  </Menu.CheckboxItem>
                );
              })}
            </Menu.Dropdown>
          </Menu>
        )}
      </div>
    </search>
  );
}

function SearchBox({ value, onChange }: { value: string; onChange: (value: string) => void }) {
  const [text, setText] = useState(value);
  useEffect(() => setText(value), [value]);
  const submit = useDebouncedCallback(onChange, 300);
  return (
    <TextInput
      size="xs"
      className={classes.search}
      data-search="page"
      type="search"
      placeholder="Search runs"
      aria-label="Search runs"
      leftSection={<SearchIcon size={14} />}
      value={text}
      onChange={(event) => {
        setText(event.currentTarget.value);
        submit(event.currentTarget.value.trim());
      }}
      onKeyDown={(event) => {
        if (event.key !== "Escape" || !text) return;
        setText("");
        onChange("");
      }}
    />
  );
}
