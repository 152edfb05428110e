"use client";

export {
  Can,
  type CanProps,
  type Hooks,
  hooksFor,
  PermissionsProvider,
  type PermissionsProviderProps,
  useCan,
  useFlag,
  useLoadedPermissions,
  usePermissions,
  usePermissionsState,
  useStepUp,
  useVerdict,
} from "./permissions.tsx";
