/** A plain table whose rows may open; on a narrow screen each row becomes a card. */
import { UnstyledButton } from "@mantine/core";
import { Fragment, type ReactNode, useState } from "react";
import classes from "./data-table.module.css";
import { ChevronRightIcon } from "./icons";

export interface TableColumn<T> {
  label: string;
  width?: string;
  /** Left out on a narrow screen. */
  minor?: boolean;
  cell: (row: T) => ReactNode;
}

interface DataTableProps<T> {
  label: string;
  rows: readonly T[];
  rowKey: (row: T) => string;
  columns: readonly TableColumn<T>[];
  /** What a row shows when opened. */
  details?: (row: T) => ReactNode;
}

export function DataTable<T>({ label, rows, rowKey, columns, details }: DataTableProps<T>) {
  const [open, setOpen] = useState<ReadonlySet<string>>(new Set());
  const toggle = (key: string) =>
    setOpen(new Set(open.has(key) ? [...open].filter((each) => each !== key) : [...open, key]));
  return (
    <div className={classes.frame}>
      <table className={classes.table} aria-label={label}>
        <thead>
          <tr>
            {columns.map((column) => (
              <th key={column.label} scope="col" style={{ width: column.width }}>
                {column.label}
              </th>
            ))}
          </tr>
        </thead>
        <tbody>
          {rows.map((row) => {
            const key = rowKey(row);
            const isOpen = open.has(key);
            return (
              <Fragment key={key}>
                <tr
                  data-expandable={details ? true : undefined}
                  data-row={key}
                  onClick={details ? () => toggle(key) : undefined}
                >
                  {columns.map((column, index) => (
                    <td
                      key={column.label}
                      data-main={index === 0 || undefined}
                      data-minor={column.minor || undefined}
                    >
                      {index === 0 && details ? (
                        <UnstyledButton
                          className={classes.toggle}
                          aria-expanded={isOpen}
                          onClick={(event) => {
                            event.stopPropagation();
                            toggle(key);
                          }}
                        >
                          <ChevronRightIcon
                            size={13}
                            className={classes.chevron}
                            data-open={isOpen || undefined}
                          />
                          {column.cell(row)}
                        </UnstyledButton>
                      ) : (
                        column.cell(row)
                      )}
                    </td>
                  ))}
                </tr>
                {details && isOpen ? (
                  <tr data-details>
                    <td colSpan={columns.length}>
                      <div className={classes.details}>{details(row)}</div>
                    </td>
                  </tr>
                ) : null}
              </Fragment>
            );
          })}
        </tbody>
      </table>
    </div>
  );
}

/** A second, quieter line in a cell. */
export function SubLine({ children }: { children: ReactNode }) {
  return <div className={classes.sub}>{children}</div>;
}
