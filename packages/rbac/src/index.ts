export type {
  ActionOf,
  AnyContract,
  AttrsOf,
  Contract,
  ContractOf,
  FlagOf,
  FlagValue,
  Resource,
  ResourceOf,
  TypeOf,
  Verdict,
} from "./types.ts";
export {
  type Checked,
  createPermissions,
  type IdentitySource,
  Permissions,
  type PermissionsOptions,
} from "./permissions.ts";
export { type Clock, type Snapshot } from "./snapshot.ts";
export { flagOf, type State, type Status, stepUpOf, verdictOf } from "./state.ts";
