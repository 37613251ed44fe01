import { Button, Combobox, useCombobox } from "@mantine/core";
import { type ReactNode, useState } from "react";
import classes from "./filter-menu.module.css";
import { CheckIcon, ChevronDownIcon } from "./icons";

export interface FilterOption {
  value: string;
  label: string;
  icon?: ReactNode;
}

interface FilterMenuProps {
  label: string;
  options: readonly FilterOption[];
  selected: readonly string[];
  onChange: (selected: string[]) => void;
}

/** A searchable drop-down of which several may be chosen; the button tells what is. */
export function FilterMenu({ label, options, selected, onChange }: FilterMenuProps) {
  const [query, setQuery] = useState("");
  const combobox = useCombobox({
    onDropdownClose: () => {
      combobox.resetSelectedOption();
      setQuery("");
    },
    onDropdownOpen: () => combobox.focusSearchInput(),
  });
  const known = [
    ...options,
    ...selected
      .filter((value) => !options.some((option) => option.value === value))
      .map((value) => ({ value, label: value }) as FilterOption),
  ];
  const needle = query.trim().toLowerCase();
  const shown = known.filter((option) => option.label.toLowerCase().includes(needle));
  const first = known.find((option) => option.value === selected[0]);
  const toggle = (value: string) =>
    onChange(selected.includes(value) ? selected.filter((each) => each !== value) : [...selected, value]);

  return (
    <Combobox store={combobox} onOptionSubmit={toggle} width={260} position="bottom-start" shadow="md">
      <Combobox.Target withAriaAttributes={false}>
        <Button
          variant="default"
          className={classes.button}
          data-active={selected.length > 0 || undefined}
          aria-haspopup="listbox"
          aria-expanded={combobox.dropdownOpened}
          onClick={() => combobox.toggleDropdown()}
          rightSection={<ChevronDownIcon size={12} />}
        >
          <span className={classes.label}>{label}</span>
          {first ? (
            <span className={classes.value}>
              {first.label}
              {selected.length > 1 ? ` +${selected.length - 1}` : ""}
            </span>
          ) : null}
        </Button>
      </Combobox.Target>
      <Combobox.Dropdown>
        <Combobox.Search
          value={query}
          onChange={(event) => {
            setQuery(event.currentTarget.value);
            combobox.updateSelectedOptionIndex();
          }}
          placeholder={`Find ${label.toLowerCase()}`}
          aria-label={`Find ${label.toLowerCase()}`}
        />
        <Combobox.Options className={classes.options} aria-label={label}>
          {shown.map((option) => (
            <Combobox.Option
              key={option.value}
              value={option.value}
              active={selected.includes(option.value)}
              aria-selected={selected.includes(option.value)}
              className={classes.option}
            >
              <span className={classes.check}>
                {selected.includes(option.value) ? <CheckIcon size={14} /> : null}
              </span>
              {option.icon}
              <span className="truncate">{option.label}</span>
            </Combobox.Option>
          ))}
          {shown.length === 0 ? <Combobox.Empty>Nothing found</Combobox.Empty> : null}
        </Combobox.Options>
      </Combobox.Dropdown>
    </Combobox>
  );
}
