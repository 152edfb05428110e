// The portal, for every component below.
import type { AuthState, Challenge, Session } from "@cedargate/auth";
import { createContext, useContext, useSyncExternalStore } from "react";

import type { Portal } from "./portal.ts";

export const PortalContext = createContext<Portal | undefined>(undefined);

export function usePortal(): Portal {
  const portal = useContext(PortalContext);
  if (!portal) throw new Error("there is no portal above this component");
  return portal;
}

export function useAuthState(): AuthState {
  const { auth } = usePortal();
  return useSyncExternalStore(auth.subscribe, auth.getState);
}

export const useSession = (): Session | undefined => useAuthState().session;

export function useChallenge(): Challenge | undefined {
  const portal = usePortal();
  return useSyncExternalStore(portal.subscribe, portal.getChallenge);
}
