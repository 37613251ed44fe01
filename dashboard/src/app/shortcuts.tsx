import { Kbd, Table } from "@mantine/core";
import { useNavigate } from "@tanstack/react-router";
import { useEffect, useRef } from "react";
import { NAV } from "./nav";

const SEQUENCE_MS = 1200;

function typing(target: EventTarget | null): boolean {
  return (
    target instanceof HTMLElement &&
    (target.isContentEditable || ["INPUT", "TEXTAREA", "SELECT"].includes(target.tagName))
  );
}

/** `/`, `?` and `g` sequences, anywhere but in a text field. */
export function useShortcuts({ orgId, onHelp }: { orgId: string | null; onHelp: () => void }) {
  const navigate = useNavigate();
  const latest = useRef({ orgId, onHelp, navigate });
  latest.current = { orgId, onHelp, navigate };
  useEffect(() => {
    let went = 0; // when `g` was pressed
    const onKey = (event: KeyboardEvent) => {
      if (event.ctrlKey || event.metaKey || event.altKey || typing(event.target)) return;
      if (document.querySelector("[role=dialog]")) return;
      const { orgId, onHelp, navigate } = latest.current;
      const sequence = event.timeStamp - went < SEQUENCE_MS;
      went = 0;
      if (sequence && orgId) {
        const item = NAV.find((each) => each.id.startsWith(event.key));
        if (item) {
          event.preventDefault();
          void navigate(item.link(orgId));
          return;
        }
      }
      if (event.key === "g") went = event.timeStamp;
      else if (event.key === "?") onHelp();
      else if (event.key === "/") {
        const search = document.querySelector<HTMLInputElement>(
          "input[data-search=page], [data-search=page] input",
        );
        if (search) {
          event.preventDefault();
          search.focus();
          search.select();
        }
      }
    };
    window.addEventListener("keydown", onKey);
    return () => window.removeEventListener("keydown", onKey);
  }, []);
}

const KEYS: readonly [string[], string][] = [
  [["Ctrl", "K"], "Command palette"],
  [["/"], "Search this page"],
  [["g", "r"], "Go to runs"],
  [["g", "w"], "Go to workflows"],
  [["g", "d"], "Go to deliveries"],
  [["?"], "This help"],
  [["↑", "↓"], "Job tree: move"],
  [["←", "→"], "Job tree: close, open"],
  [["Enter"], "Job tree: select"],
  [["Esc"], "Job tree: back to the first job"],
  [["n"], "Next failed step"],
  [["p"], "Previous failed step"],
  [["w"], "Logs: wrap long lines"],
  [["t"], "Logs: timestamps"],
  [["c"], "Logs: fold or open all groups"],
  [["End"], "Logs: jump to bottom"],
  [["Enter", "Shift Enter"], "Log search: next, previous match"],
];

export function ShortcutHelp() {
  return (
    <Table verticalSpacing={5} withRowBorders={false}>
      <Table.Tbody>
        {KEYS.map(([keys, label]) => (
          <Table.Tr key={label}>
            <Table.Td>{label}</Table.Td>
            <Table.Td ta="right">
              {keys.map((key) => (
                <Kbd key={key} size="xs" ml={4}>
                  {key}
                </Kbd>
              ))}
            </Table.Td>
          </Table.Tr>
        ))}
      </Table.Tbody>
    </Table>
  );
}
