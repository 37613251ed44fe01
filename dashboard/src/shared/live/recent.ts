/**
 * The last events, for answers that were already under way when they came.
 *
 * A snapshot asked for before an event and received after it would put the old state back. So every
 * query function marks its start and applies what came since to what it got. Events are whole
 * objects: applying one again changes nothing.
 */
import type { RunChanged } from "@/ws.gen";

const LIMIT = 2000;
const events: RunChanged[] = [];
let dropped = 0;

export function recordEvent(event: RunChanged): void {
  events.push(event);
  if (events.length > LIMIT) dropped += events.splice(0, LIMIT / 2).length;
}

export function markEvents(): number {
  return dropped + events.length;
}

export function eventsSince(mark: number, orgId: string): RunChanged[] {
  return events.slice(Math.max(0, mark - dropped)).filter((event) => event.orgId === orgId);
}
