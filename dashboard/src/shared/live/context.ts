import { createContext, useContext, useSyncExternalStore } from "react";
import type { LiveSocket, LiveState } from "./socket";

const LiveContext = createContext<LiveSocket | null>(null);
export const LiveProvider = LiveContext.Provider;

export function useLive(): LiveSocket {
  const socket = useContext(LiveContext);
  if (!socket) throw new Error("LiveProvider is missing");
  return socket;
}

export function useLiveState(): LiveState {
  const socket = useLive();
  return useSyncExternalStore(socket.subscribe, socket.getState);
}
